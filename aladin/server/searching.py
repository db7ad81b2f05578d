"""Searches by a few threads at once, each with a connection of its own; more than they can take on at once are sent away.

Concurrent texts are not gathered into batches: the model encodes each text on its own anyway, so that an answer does not
depend on its neighbours, and a batch would only wait for its last member.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from aladin.encode import Encoder
from aladin.search import Searcher
from aladin.server.browsing import BrowsedCollection
from aladin.server.problems import Busy, NoCollection
from aladin.server.settings import Limits

Answer = TypeVar("Answer")
Work = Callable[["Engine"], Answer]


class Engine:
    """What one thread searches with; it follows the collection's file when another takes its place."""

    def __init__(self, collection: BrowsedCollection, encoder: Encoder, identity: tuple[int, int]) -> None:
        self.collection = collection
        self.encoder = encoder
        self.searcher = Searcher(collection, encoder)
        self.identity = identity  # of the file: device and inode


class SearchPool:
    """Threads that search, and a short queue before them."""

    def __init__(self, place: Path, encoder: Encoder, limits: Limits) -> None:
        self._place = place
        self._encoder = encoder
        self._most = limits.searches_taken
        self._local = threading.local()
        self._workers = limits.searches
        self._threads = ThreadPoolExecutor(limits.searches, thread_name_prefix="search")
        self.taken = 0  # waiting or at work

    async def run(self, work: Work[Answer]) -> Answer:
        """What `work` returns, done in one of the threads. Busy when too many wait; NoCollection before the first index."""
        if self.taken >= self._most:
            raise Busy
        self.taken += 1
        try:
            # Shielded: what a client that has left asked for still holds its thread, so it still counts.
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._work, work)
        except BaseException:
            self.taken -= 1
            raise
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: "asyncio.Future[Answer]") -> None:
        self.taken -= 1
        if not future.cancelled():
            future.exception()  # looked at, though the client may have left

    def close(self) -> None:
        """Let every thread end its searches and close what it has open: nobody else may."""
        everybody = threading.Barrier(self._workers)

        def leave() -> None:
            everybody.wait()
            engine: Engine | None = getattr(self._local, "engine", None)
            if engine is not None:
                engine.collection.close()

        for _ in range(self._workers):
            self._threads.submit(leave)
        self._threads.shutdown()

    def _work(self, work: Work[Answer]) -> Answer:
        return work(self._engine())

    def _engine(self) -> Engine:
        try:
            stat = os.stat(self._place)  # noqa: PTH116, its errors are wanted
        except OSError:
            raise NoCollection from None
        identity = (stat.st_dev, stat.st_ino)
        engine: Engine | None = getattr(self._local, "engine", None)
        if engine is not None and engine.identity == identity:
            return engine
        if engine is not None:
            engine.collection.close()
        engine = self._local.engine = Engine(BrowsedCollection.open(self._place), self._encoder, identity)
        return engine
