"""Pictures for clients, made by processes of their own: what a hostile file breaks is one process, never the server."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aladin
from aladin.errors import DataError
from aladin.server.rendering_worker import ANSWER, REQUEST
from aladin.server.settings import Limits

START = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from aladin.server.rendering_worker import main; main()"
PICTURES_PER_PROCESS = 2000  # then a fresh one takes over, so that no library's leak grows


@dataclass(frozen=True)
class Picture:
    """A re-encoded picture and its size, with the size of what it was made from."""

    jpeg: bytes
    width: int  # px
    height: int
    original_width: int
    original_height: int


class Renderer:
    """Processes that decode and encode, each served by a thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._local = threading.local()
        self._processes: list[_Process] = []
        self.pool = ThreadPoolExecutor(limits.renderings, thread_name_prefix="render")

    def render(self, data: bytes, side: int, quality: int, frame: int = 0) -> Picture:
        """The picture that the bytes contain, or of several that one; call it within `pool`. DataError when there is none."""
        process: _Process | None = getattr(self._local, "process", None)
        if process is None:
            process = self._local.process = _Process(self._limits)
            self._processes.append(process)
        return process.ask(data, side, quality, frame)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.end()


class _Process:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0

    def ask(self, data: bytes, side: int, quality: int, frame: int) -> Picture:
        if self._asked >= PICTURES_PER_PROCESS:
            self.end()
        process = self._process = self._process or _start(self._limits.decode_memory_mb)
        self._asked += 1
        alarm = threading.Timer(self._limits.decode_seconds, process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            good, payload, sizes = _exchanged(process, data, REQUEST.pack(len(data), side, quality, frame))
        except (OSError, EOFError, ValueError):
            self.end()
            raise DataError("the image crashes its decoder, or takes longer than it may; give another") from None
        finally:
            alarm.cancel()
        if not good:
            raise DataError(f"the image {payload.decode('utf-8', 'replace')}; give another")
        return Picture(payload, *sizes)

    def end(self) -> None:
        process, self._process, self._asked = self._process, None, 0
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()


def _exchanged(process: "subprocess.Popen[bytes]", data: bytes, request: bytes) -> tuple[bool, bytes, tuple[int, ...]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    process.stdin.write(data)
    process.stdin.flush()
    header = process.stdout.read(ANSWER.size)
    if len(header) < ANSWER.size:
        raise EOFError
    good, length, *sizes = ANSWER.unpack(header)
    payload = process.stdout.read(length)
    if len(payload) < length:
        raise EOFError
    return bool(good), payload, tuple(sizes)


def _start(memory_mb: int) -> "subprocess.Popen[bytes]":
    """A Python that finds what this one finds, and neither reads the user's start-up files nor takes part in Ctrl-C."""
    paths = [str(Path(aladin.__file__).parents[1]), *filter(None, sys.path)]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", START, str(memory_mb << 20), json.dumps(paths)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
