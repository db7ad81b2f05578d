"""Photographs decoded by processes of their own, so that what a hostile file breaks is one process and not the run.

A file that crashes its decoder, or takes longer or more memory than it may, is one file with a reason. The processes start
when the first file is to be decoded.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import aladin
from aladin.errors import DataError
from aladin.pictures.decoding_worker import LENGTHS
from aladin.pictures.limits import DecodingLimits
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Decoded, Photograph, Unreadable, further_content

BATCHES_AHEAD = 2  # decoded while one is encoded
START_SECONDS = 60.0
FILES_PER_PROCESS = 2000  # then a fresh one takes over, so that no library's leak grows
START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from aladin.pictures.decoding_worker import main; main()"


class Decoders:
    """Decoding processes, each served by a thread of this one. Use `with`, or `close`."""

    def __init__(self, limits: DecodingLimits, follow_symlinks: bool = False, frames: int = 1) -> None:
        """`frames`: at most so many pictures of a file that holds several."""
        self._limits = limits
        self._follow = follow_symlinks
        self._frames = frames
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="decode")
        self._of_thread = threading.local()
        self._processes: list[_Process] = []

    def submit(self, root: Path, file: FileState, size: int) -> "Future[Decoded | Unreadable]":
        """The file's image at `size` x `size` with its facts, or why there is none."""
        return self._pool.submit(self._read, root, file, size)

    def batches(self, root: Path, files: Iterable[FileState], size: int, count: int) -> Iterator[list[Decoded | Unreadable]]:
        """The pictures of the files, `count` at once; the next ones are decoded while their caller works on these.

        Of a file with several the first comes last, so that the file counts as read once that one is stored.
        """
        batch: list[Decoded | Unreadable] = []
        for item in self._in_order(root, files, size, count):
            for picture in (*item.further, item) if isinstance(item, Decoded) else (item,):
                batch.append(picture)
                if len(batch) == count:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def close(self) -> None:
        for process in self._processes:
            process.stop()
        self._pool.shutdown(cancel_futures=True)
        for process in self._processes:
            process.end()

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _in_order(self, root: Path, files: Iterable[FileState], size: int, count: int) -> Iterator[Decoded | Unreadable]:
        # Many pictures of each file wait in memory, so of fewer files.
        ahead = count * (1 + BATCHES_AHEAD if self._frames == 1 else 1)
        waiting: deque[Future[Decoded | Unreadable]] = deque()
        for file in files:
            waiting.append(self.submit(root, file, size))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _read(self, root: Path, file: FileState, size: int) -> Decoded | Unreadable:
        process: _Process | None = getattr(self._of_thread, "process", None)
        if process is None:
            process = self._of_thread.process = _Process(self._limits)
            self._processes.append(process)
        request = {"path": os.fspath(root / file.path), "size": size, "follow": self._follow, "frames": self._frames}
        return outcome(file, size, *process.ask(request))


def outcome(file: FileState, size: int, facts: dict[str, Any], pixels: bytes) -> Decoded | Unreadable:
    """What a decoding process said of a file, as a value."""
    if "reason" in facts:
        # A time that no file has makes the next run try again: mended permissions leave no trace in the file's own.
        kept = replace(file, mtime_ns=-1) if facts["failure"] == "refused" else file
        return Unreadable(kept, facts["reason"], facts["failure"] == "vanished")
    photograph = Photograph(
        file, bytes.fromhex(facts["sha256"]), facts["width"], facts["height"], facts["taken"], facts["metadata"]
    )
    first, *others = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, size, size, 3)
    further = [
        Decoded(
            replace(
                photograph,
                file=replace(file, frame=picture["frame"]),
                sha256=further_content(photograph.sha256, picture["frame"]),
                width=picture["width"],
                height=picture["height"],
            ),
            values,
        )
        for picture, values in zip(facts["further"], others, strict=True)
    ]
    return Decoded(photograph, first, tuple(further))


class _Process:
    """One decoding process, started when it is needed and again after it has ended."""

    def __init__(self, limits: DecodingLimits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0  # since it was started
        self._stopped = False

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Facts and pixels, or a reason. A file at which a used process fails is tried once more by a fresh one, since what an
        earlier file left behind may have been the cause.
        """
        if self._asked >= FILES_PER_PROCESS:
            self.end()
        used = self._asked > 0
        facts, pixels = self._ask_once(request)
        if used and not self._stopped and facts.get("failure") in ("crash", "memory"):
            self.end()
            facts, pixels = self._ask_once(request)
        if request["frames"] > 1 and not self._stopped and facts.get("failure") in ("crash", "memory", "time"):
            return self.ask(request | {"frames": 1})  # its further pictures were too much
        return facts, pixels

    def stop(self) -> None:
        """Kill it, from whichever thread; a thread that waits for its answer gets a reason."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def _ask_once(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        process = self._started()
        self._asked += 1
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            return _answer(process, self._limits.seconds)
        except TimeoutError:
            self.end()
            return {"failure": "time", "reason": f"takes longer than {self._limits.seconds:g} s to decode"}, b""
        except (EOFError, BrokenPipeError):
            return {"failure": "crash", "reason": f"crashes its decoder ({_ending(self.end())})"}, b""

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            self._asked = 0
            try:
                self._process = _start(self._limits.memory_mb)
                _answer(self._process, START_SECONDS)
            except (OSError, TimeoutError, EOFError) as error:  # else every file would pass for a broken one
                how = _ending(self.end()) if isinstance(error, EOFError) else str(error) or "it takes too long"
                raise DataError(f"no process can be started to decode pictures ({how}); install aladin again") from None
        return self._process

    def end(self) -> int:
        """End it; its exit code."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        if process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)  # one that has closed its pipe is about to say how it ended
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        return code


def _start(memory_mb: int) -> "subprocess.Popen[bytes]":
    """A Python that finds what this one finds, and neither reads the user's start-up files nor takes part in Ctrl-C."""
    paths = [str(Path(aladin.__file__).parents[1]), *filter(None, sys.path)]
    quiet = ["-B"] if sys.flags.dont_write_bytecode else []
    return subprocess.Popen(
        [sys.executable, "-I", "-S", *quiet, "-c", START, str(memory_mb << 20), json.dumps(paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        process_group=0,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )


def _answer(process: "subprocess.Popen[bytes]", seconds: float) -> tuple[dict[str, Any], bytes]:
    """The next answer; TimeoutError when it takes longer, EOFError when the process has ended."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    descriptor = process.stdout.fileno()
    header_length, pixel_length = LENGTHS.unpack(_read_exactly(descriptor, LENGTHS.size, deadline))
    facts = json.loads(_read_exactly(descriptor, header_length, deadline))
    return facts, bytes(_read_exactly(descriptor, pixel_length, deadline))


def _read_exactly(descriptor: int, count: int, deadline: float) -> bytearray:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    data = bytearray()
    while len(data) < count:
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        part = os.read(descriptor, count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _ending(code: int) -> str:
    """How a process ended, in a word."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
