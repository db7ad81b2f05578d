"""Searches by a few processes at once, and a short queue before them; what comes beyond is sent away.

Processes, because threads would share the interpreter's lock with one another and with the loop that answers clients: two of
them do a third less on two cores, and clients wait while the system has taken the processor from the thread with the lock.

Concurrent texts are not gathered into batches: two encoded together save each less than a millisecond of a search's twenty
(docs/experiments.md), and would first have to wait for one another.
"""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import aladin
from aladin.server.engine import Engine
from aladin.server.problems import Busy, Interrupted
from aladin.server.searching_worker import Outcome, Question
from aladin.server.settings import ServeConfig

START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from aladin.server.searching_worker import main; main()"
Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")


class SearchPool:
    """Processes that search, each served by a thread that waits for it."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._most = config.limits.searches_taken
        self._count = config.limits.searches
        self._local = threading.local()
        self._processes: list[_Process] = []
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="search")
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
            future = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, Question(work, arguments))
        except BaseException:
            self.taken -= 1
            raise
        future.add_done_callback(self._done)
        answer: Answer = await asyncio.shield(future)
        return answer

    def warm_up(self) -> None:
        """Start all processes; returns when they can answer."""
        for started in [self._threads.submit(self._ask, Question(None)) for _ in range(self._count)]:
            with suppress(Interrupted):  # another has been started
                started.result()

    def close(self) -> None:
        """Let every process end its searches, and then itself."""
        self._threads.shutdown()
        for process in self._processes:
            process.end()

    def _done(self, future: "asyncio.Future[Any]") -> None:
        self.taken -= 1
        if not future.cancelled():
            future.exception()  # looked at, though the client may have left

    def _ask(self, question: Question) -> Any:
        process: _Process | None = getattr(self._local, "process", None)
        if process is None:
            process = self._local.process = _Process(self._config)
            self._processes.append(process)
        outcome = process.ask(question)
        if outcome.is_bug:
            raise RuntimeError("a searching process met a bug, see above")
        if outcome.failure is not None:
            raise outcome.failure
        return outcome.value


class _Process:
    """One searching process; when it ends, another takes its place at once."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._start()

    def ask(self, question: Question) -> Outcome:
        try:
            self._questions.send(question)
            outcome: Outcome = self._questions.recv()
        except (OSError, EOFError):
            self.end()
            self._start()
            raise Interrupted from None
        return outcome

    def end(self) -> None:
        self._questions.close()  # by which it knows
        self._process.wait()

    def _start(self) -> None:
        """A Python that finds what this one finds, and takes no part in Ctrl-C: it ends when there are no more questions."""
        self._questions, theirs = Pipe()
        paths = [str(Path(aladin.__file__).parents[1]), *filter(None, sys.path)]
        places = (str(self._config.place.absolute()), str(self._config.model.absolute()))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", START, str(theirs.fileno()), *places, json.dumps(paths)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
