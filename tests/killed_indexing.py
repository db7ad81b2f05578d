"""Runs of `index_folder` that are killed: a server process forks a run each time it is asked, so that a cycle costs little.

    python -m tests.killed_indexing MODEL     (each line of stdin is a run, as JSON, each of which prints
    its process id and then how it ended)

A run notes every image in the journal once it has been told that it is on the disk. It may be told to kill itself before or
after its n-th statement to the database, which are all the steps that a commit has on our side.
"""

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aladin.collection import indexing
from aladin.collection.database import Database
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.pictures.decoding import Decoders
from aladin.pictures.fitting import Fitting
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Decoded, Unreadable


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, negative for the signal that killed it; how long it ran, and how many statements."""

    code: int
    seconds: float
    statements: int


class KilledRuns:
    """The server, as the test sees it. Use `with`."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, "-m", "tests.killed_indexing", os.fspath(model)]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, **run: Any) -> int:
        """Start a run; its process id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(run) + "\n")
        self._server.stdin.flush()
        return int(self._line())

    def ended_within(self, seconds: float) -> bool:
        """Wait that long, or until the run has ended; whether it has."""
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def wait(self) -> Ended:
        return Ended(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()

    def __enter__(self) -> "KilledRuns":
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.communicate()


class DecodersHere(Decoders):
    """Decoding without a process of its own, which a run of milliseconds would mostly wait for."""

    def submit(self, root: Path, file: FileState, fitting: Fitting) -> "Future[Decoded | Unreadable]":
        future: Future[Decoded | Unreadable] = Future()
        future.set_result(self._read(root, file, fitting))
        return future

    def _read(self, root: Path, file: FileState, fitting: Fitting) -> Decoded | Unreadable:
        from aladin.pictures.decoding import outcome
        from aladin.pictures.decoding_worker import answer

        request = {"path": os.fspath(root / file.path), "fitting": asdict(fitting), "follow": False, "frames": self._frames}
        return outcome(
            file,
            fitting.size,
            *answer(request),
        )


def main() -> None:
    encoder = Encoder.load(Path(sys.argv[1]), threads=1)
    import onnxruntime  # noqa: F401  # once, instead of in every run

    count = mmap.mmap(-1, 8)  # shared with the run, however that ends
    for line in sys.stdin:
        run, count[:], started = json.loads(line), bytes(8), time.perf_counter()
        child = os.fork()
        if not child:
            _die_at(run.pop("statement"), run.pop("after"), count)
            _run(encoder, **run)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        seconds = time.perf_counter() - started
        print(json.dumps(asdict(Ended(os.waitstatus_to_exitcode(status), seconds, int.from_bytes(count)))), flush=True)


def _run(encoder: Encoder, folder: str, place: str, journal: str, processes: bool, batch: int) -> None:
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if not processes:
        setattr(indexing, "Decoders", DecodersHere)  # noqa: B010, the name is the module's own

    def note(done: int, total: int) -> None:
        with Collection.open(Path(place)) as reader:
            generation = reader.generation
            rows = [
                [row.id, row.path, (row.sha256 or b"").hex(), row.status]
                for row in reader.images()
                if row.generation == generation
            ]
        os.write(descriptor, "".join(json.dumps(row) + "\n" for row in rows).encode())

    with CollectionWriter.create(Path(place), Path(folder)) as collection:
        indexing.index_folder(collection, encoder, IndexConfig(batch_images=batch, workers=1), note)
    os._exit(0)


def _die_at(statement: int, after: bool, count: mmap.mmap) -> None:
    """Count the statements, and die at one of them if it is not 0."""
    executed = 0
    for name in ("rows", "execute"):
        original = getattr(Database, name)

        def counted(self: Any, *arguments: Any, original: Any = original) -> Any:
            nonlocal executed
            executed += 1
            count[:] = executed.to_bytes(8)
            now = executed == statement
            if now and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            value = original(self, *arguments)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return value

        setattr(Database, name, counted)


if __name__ == "__main__":
    main()
