"""Searches by a few processes at once, and a short queue before them; what comes beyond is sent away.

Processes, because threads would share the interpreter's lock with one another and with the loop that answers clients: two of
them do a third less on two cores, and clients wait while the system has taken the processor from the thread with the lock.

Concurrent texts are not gathered into batches: two encoded together save each less than a millisecond of a search's twenty
(docs/experiments.md), and would first have to wait for one another.
"""

import asyncio
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from aladin.processes import Child, ChildFailure, Children, Limits
from aladin.server.engine import Engine
from aladin.server.problems import Busy, Interrupted
from aladin.server.searching_worker import Outcome, Question
from aladin.server.settings import ServeConfig

WORKER = "from aladin.server.searching_worker import main; main()"
Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")


class SearchPool:
    """Processes that search, each served by a thread that waits for it."""

    def __init__(self, config: ServeConfig) -> None:
        self._most = config.limits.searches_taken
        self._count = config.limits.searches
        paths = [str(config.file.absolute()), str(config.model.absolute())]
        self.children = Children(lambda: Child(WORKER, Limits(), paths), self._count, "search")
        self.taken = 0  # waiting or at work

    async def run(
        self, work: Callable[Concatenate[Engine, Arguments], Answer], *arguments: Arguments.args, **_: Arguments.kwargs
    ) -> Answer:
        """What `work`, a function of a module, returns in one of the processes. Arguments and answer are pickled on their way.

        Busy when too many wait, Interrupted when the process ends before it has answered.
        """
        if self.taken >= self._most:
            raise Busy
        self.taken += 1
        try:
            # Shielded: what a client that has left asked for still holds its process, so it still counts.
            future = asyncio.get_running_loop().run_in_executor(self.children.threads, self._ask, Question(work, arguments))
        except BaseException:
            self.taken -= 1
            raise
        future.add_done_callback(self._done)
        answer: Answer = await asyncio.shield(future)
        return answer

    def warm_up(self) -> None:
        """Start all processes; returns when they can answer."""
        for started in [self.children.threads.submit(self._ask, Question(None)) for _ in range(self._count)]:
            with suppress(Interrupted):  # another has been started
                started.result()

    def close(self) -> None:
        """Let every process end its searches, and then itself."""
        self.children.end()

    def _done(self, future: "asyncio.Future[Any]") -> None:
        self.taken -= 1
        if not future.cancelled():
            future.exception()  # looked at, though the client may have left

    def _ask(self, question: Question) -> Any:
        child = self.children.own()
        content = pickle.dumps(question)
        try:
            _, content = child.ask({}, content)
        except ChildFailure:
            with suppress(OSError):
                child.start()  # so that the next search does not wait for it
            raise Interrupted from None
        outcome: Outcome = pickle.loads(content)
        if outcome.is_bug:
            raise RuntimeError("a searching process met a bug, see above")
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.value
