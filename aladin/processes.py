"""A child process that answers one request after another, within limits of time and memory, and is replaced when it ends.

A request and its answer are messages: a JSON object and bytes, whose meaning is the matter of who asks and who answers. Three
pairs are there: `pictures.decoding`, `server.rendering` and `server.searching`, each with its `..._worker`.
"""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import aladin
from aladin.errors import only_on_linux

Message = tuple[dict[str, Any], bytes]
LENGTHS = struct.Struct(">II")  # of the two parts of a message, which follow
START_SECONDS = 60.0  # for a child with a limit of time to become ready
START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
PATIENCE = 0.2  # seconds for a child to end by itself


@dataclass(frozen=True)
class Limits:
    """What a child may take. One with a limit of memory reads what nobody vouches for: it also opens few files, writes none,
    computes with one thread and prints nothing.
    """

    seconds: float | None = None  # for one answer
    memory_mb: int | None = None  # beyond what its libraries reserve
    answers: int | None = None  # then a fresh one takes over, so that no library's leak grows


class ChildFailure(Exception):
    """There is no answer; the next request finds another child."""


class NotStarted(ChildFailure):
    """No child can be started; says why."""


class TooSlow(ChildFailure):
    """The answer took longer than it may."""


class Ended(ChildFailure):
    """The child ended before it had answered; says how, such as "SIGKILL" or "exit code 1"."""


class Child:
    """One child process, started when it is first asked and again after it has ended. One thread at a time may ask."""

    def __init__(self, code: str, limits: Limits, arguments: Sequence[str] = ()) -> None:
        """`code` is the Python that it runs, which calls `serve`; `arguments` are in its sys.argv[1:]."""
        self._code = code
        self._limits = limits
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._answered = 0  # since it was started
        self._killed = False

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The process that runs now."""
        return self._process

    @property
    def is_used(self) -> bool:
        """Whether the next request goes to a process that has answered before."""
        return 0 < self._answered != self._limits.answers

    def ask(self, facts: dict[str, Any], content: bytes = b"") -> Message:
        """The answer to a request, or a ChildFailure; what became of the process is cleared away by then."""
        if self._answered == self._limits.answers:
            self.end()
        process = self._when_ready()
        try:
            deadline = _deadline(self._limits.seconds)
            _write_message(process, (facts, content), deadline)
            answer = _read_message(process, deadline)
        except TimeoutError:
            self.end()
            raise TooSlow from None
        except (EOFError, BrokenPipeError):
            raise Ended(_how_ended(self.end())) from None
        except BaseException:
            self.end()  # half a message may be on its way, and the next answer would be taken for another
            raise
        self._answered += 1
        return answer

    def start(self) -> None:
        """Start it, if it does not run; returns before it is ready."""
        if self._process is not None:
            return
        if not self._killed:
            self._ready, self._answered = False, 0
            self._process = _started(self._code, self._limits.memory_mb, self._arguments)
        if self._killed:  # perhaps just now
            self.end(patience=0.0)
            raise Ended("it was stopped")

    def kill(self) -> None:
        """Let it answer no more, from whichever thread; who waits for it gets `Ended`."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def end(self, patience: float | None = PATIENCE) -> int:
        """Its exit code once it has ended: by itself, as there are no more requests, or killed when `patience` is over."""
        if self._process is None:
            return 0
        process, self._process, self._answered = self._process, None, 0
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _when_ready(self) -> "subprocess.Popen[bytes]":
        """The running process, once it has said that it is ready."""
        try:
            self.start()
            assert self._process is not None
            if not self._ready:
                _read_message(self._process, _deadline(None if self._limits.seconds is None else START_SECONDS))
                self._ready = True
            return self._process
        except (OSError, EOFError) as error:
            how = _how_ended(self.end()) if isinstance(error, EOFError) else str(error) or "it takes too long"
            self.end()
            raise NotStarted(how) from None


class Children:
    """Children side by side, each asked by one of as many threads."""

    def __init__(self, new: Callable[[], Child], count: int, name: str) -> None:
        self._new = new
        self._of_thread = threading.local()
        self.threads = ThreadPoolExecutor(count, thread_name_prefix=name)
        self.all: list[Child] = []

    def own(self) -> Child:
        """The child that the calling thread asks, which is one of `threads`."""
        child: Child | None = getattr(self._of_thread, "child", None)
        if child is None:
            child = self._of_thread.child = self._new()
            self.all.append(child)
        return child

    def end(self) -> None:
        """Let every child answer what it was asked, and then end."""
        self.threads.shutdown()
        for child in self.all:
            child.end(patience=None)

    def kill(self) -> None:
        """End all of them now."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for child in self.all:
            child.kill()
        self.threads.shutdown()
        for child in self.all:
            child.end()


def check_system(what: str) -> None:
    """ConfigError on a system on which no child can be asked, where `what` needs children."""
    if not hasattr(select, "poll"):
        raise only_on_linux(what)


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory instead of returning it, elsewhere do nothing.

    Every step of training allocates the same large tensors; fetching their pages anew took six sevenths of its time.
    """
    import ctypes  # of a few milliseconds, which a search need not wait for

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    mallopt(-4, 0)  # M_MMAP_MAX


def peak_memory() -> tuple[int, int] | None:
    """The most bytes that this process had, and those of the largest child that has ended; None where nobody counts."""
    try:
        import resource  # some systems lack it
    except ImportError:
        return None
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 if sys.platform == "darwin" else 1024
    return own * unit, child * unit


def own_stdout() -> BinaryIO:
    """In a child: where its answers go; what a library prints from now on goes to stderr and disturbs none."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def serve(answer: Callable[[dict[str, Any], bytes], Message], answers: BinaryIO, memory_mb: int | None = None) -> None:
    """In a child: answer the requests on stdin until there are no more, within that much memory."""
    if memory_mb is not None:
        _confine(memory_mb << 20)
    with suppress(BrokenPipeError):
        _send(answers, ({}, b""))  # that it is ready
        while (request := _received(sys.stdin.buffer)) is not None:
            _send(answers, answer(*request))


def _started(code: str, memory_mb: int | None, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """A Python that finds what this one finds, and neither reads the user's start-up files nor takes part in Ctrl-C."""
    check_system("a process of its own for pictures or searches")
    confined = memory_mb is not None
    paths = [str(Path(aladin.__file__).parents[1]), *filter(None, sys.path)]
    unwritten = ["-B"] if sys.flags.dont_write_bytecode else []
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", *unwritten, "-c", START + code, *arguments, json.dumps(paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if confined else None,
        bufsize=0,
        process_group=0,
        env=os.environ | ({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"} if confined else {}),
    )
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    return process


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _write_message(process: "subprocess.Popen[bytes]", message: Message, deadline: float | None) -> None:
    """Send a request; TimeoutError when the process does not read it in time, BrokenPipeError when it has ended."""
    assert process.stdin is not None
    descriptor = process.stdin.fileno()
    for part in _parts(message):
        left = memoryview(part)
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                _wait(descriptor, select.POLLOUT, deadline)


def _read_message(process: "subprocess.Popen[bytes]", deadline: float | None) -> Message:
    """The next answer; TimeoutError when it takes longer, EOFError when the process has ended."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    facts, content = LENGTHS.unpack(_read_exactly(descriptor, LENGTHS.size, deadline))
    return json.loads(_read_exactly(descriptor, facts, deadline)), bytes(_read_exactly(descriptor, content, deadline))


def _read_exactly(descriptor: int, count: int, deadline: float | None) -> bytearray:
    data = bytearray()
    while len(data) < count:
        _wait(descriptor, select.POLLIN, deadline)
        part = os.read(descriptor, count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _wait(descriptor: int, event: int, deadline: float | None) -> None:
    waiting = select.poll()
    waiting.register(descriptor, event)
    if not waiting.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError


def _parts(message: Message) -> tuple[bytes, bytes]:
    """A message as it is sent; its bytes are not copied."""
    facts, content = message
    header = json.dumps(facts).encode()
    return LENGTHS.pack(len(header), len(content)) + header, content


def _send(answers: BinaryIO, message: Message) -> None:
    for part in _parts(message):
        answers.write(part)
    answers.flush()


def _received(requests: BinaryIO) -> Message | None:
    """The next request, None when there are no more."""
    lengths = requests.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    facts, content = LENGTHS.unpack(lengths)
    header, data = requests.read(facts), requests.read(content)
    return (json.loads(header), data) if len(data) == content else None


def _confine(memory_bytes: int) -> None:
    """No more memory than that, no file written, no core dumped, few files open."""
    import resource  # in children alone, which no system without it can have

    limits = {
        resource.RLIMIT_AS: memory_bytes + _reserved_bytes(resource.getpagesize()),
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for kind, most in limits.items():
        with suppress(ValueError, OSError):  # a system that does not know this limit
            resource.setrlimit(kind, (most, most))


def _reserved_bytes(page: int) -> int:
    """Address space that is taken without memory behind it, as by libraries: hundreds of megabytes before the first file."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            size, resident = (int(pages) for pages in file.read().split()[:2])
    except OSError:
        return 1 << 30  # a system without such a file
    return (size - resident) * page


def _how_ended(code: int) -> str:
    """How a process ended, in a word."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
