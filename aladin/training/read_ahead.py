"""Images that threads read a few steps before the step that wants them, and how long steps waited for theirs."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Int

from aladin.network.backbone import ImageSet
from aladin.network.run import Run
from aladin.training.batches import Part, Step

Key = tuple[bytes, bytes]


class ReadAhead:
    """A set of images (the seam of backbone.py) that knows what the steps to come will read.

    What is asked for is the same as of the set itself, errors among it, which so come up in the step that wants the image. Kept
    in memory are the images of the step that is taken and of so many after it.
    """

    def __init__(self, images: ImageSet, run: Run, steps: int, workers: int) -> None:
        self._images, self._run, self._steps, self._workers = images, run, steps, workers
        self._reads: dict[Key, Future[Any]] = {}
        self._waiting = self._waited = self._taken = 0.0  # seconds: all in all; in steps; of steps

    def __len__(self) -> int:
        return len(self._images)

    @property
    def views(self) -> int:
        return self._images.views

    def read(self, rows: Int[np.ndarray, " images"], views: int | Int[np.ndarray, " images"] = 0) -> Any:
        """Some images: already read, or waited for."""
        began = time.perf_counter()
        try:
            future = self._reads.get(_key(rows, views))
            return self._images.read(rows, views) if future is None else future.result()
        finally:
            self._waiting += time.perf_counter() - began

    @contextmanager
    def ahead(self, steps: Iterable[Step], parts: Callable[[Step], Iterable[Part]]) -> Iterator[Iterator[Step]]:
        """The same steps; `parts` of those to come are read while one is taken. At the end no thread is left."""
        if not self._steps:
            yield iter(steps)
            return
        pool = ThreadPoolExecutor(self._workers, "read-ahead")
        try:
            yield self._followed(steps, parts, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self._reads.clear()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Within it a step is taken, whose time counts."""
        began, before = time.perf_counter(), self._waiting
        try:
            yield
        finally:
            self._taken += time.perf_counter() - began
            self._waited += self._waiting - before

    def share_waited(self) -> float:
        """The share of the steps' time, since it was last asked for, in which they waited for images."""
        share = self._waited / self._taken if self._taken else 0.0
        self._waited = self._taken = 0.0
        return share

    def _followed(
        self, steps: Iterable[Step], parts: Callable[[Step], Iterable[Part]], pool: ThreadPoolExecutor
    ) -> Iterator[Step]:
        waiting: deque[tuple[Step, list[Key]]] = deque()
        coming = iter(steps)
        while True:
            while len(waiting) <= self._steps and (step := next(coming, None)) is not None:
                waiting.append((step, [self._begin(part, pool) for part in parts(step)]))
            if not waiting:
                return
            step, keys = waiting.popleft()
            yield step
            for key in set(keys).difference(*(later for _, later in waiting)):
                del self._reads[key]

    def _begin(self, part: Part, pool: ThreadPoolExecutor) -> Key:
        rows, views = part.step.images[part.images], part.step.views[part.images]
        key = _key(rows, views)
        if key not in self._reads:
            self._reads[key] = pool.submit(self._read, rows, views)
        return key

    def _read(self, rows: Int[np.ndarray, " images"], views: Int[np.ndarray, " images"]) -> Any:
        return self._run.ready(self._images.read(rows, views))


def _key(rows: Int[np.ndarray, " images"], views: int | Int[np.ndarray, " images"]) -> Key:
    return rows.tobytes(), np.broadcast_to(views, rows.shape).tobytes()
