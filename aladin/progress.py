"""How far a long piece of work is, for whoever watches: a terminal does, the library by itself does not."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Watches one step: called as `progress(done, total)`, both in the same unit. A plain function will do."""

    def __call__(self, done: int, total: int, /) -> None: ...


@runtime_checkable
class Steps(Protocol):
    """Watches work of several steps, one after the other: `with steps.step("images") as progress: ...`."""

    def step(self, name: str) -> AbstractContextManager[Progress]: ...


class Silent:
    """Watches steps and shows nothing; both a `Progress` and `Steps`."""

    def __call__(self, done: int, total: int, /) -> None: ...

    def step(self, name: str) -> AbstractContextManager[Progress]:
        return nullcontext(self)


SILENT = Silent()


class TimedSteps:
    """The steps of another, and the seconds that each took; a step that is taken several times adds up."""

    def __init__(self, steps: Steps = SILENT) -> None:
        self._steps = steps
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        started = time.perf_counter()
        with self._steps.step(name) as progress:
            yield progress
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
