"""What was acknowledged is there after a kill at any moment, a power loss, a full disk and a failing one."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aladin.collection.comparison import compare
from aladin.collection.database import Database
from aladin.collection.indexing import index_folder
from aladin.collection.interchange import export_clip_retrieval
from aladin.collection.lock import WriterLock
from aladin.collection.preparing import prepare
from aladin.collection.repair import repair
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter, FileState
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.errors import AladinError, DataError
from aladin.pictures.fitting import Fitting
from tests.changing_folder import ChangingFolder
from tests.conftest import fill, paint, stored
from tests.faulty_storage import NotingConnection, NotingStorage, after_power_loss
from tests.killed_indexing import KilledRuns

pytestmark = pytest.mark.slow

CYCLES = 200
SCHEDULES = 500


def contents(place: Path) -> dict[str, tuple[object, ...]]:
    with Collection.open(place) as collection:
        return stored(collection)


def index(folder: Path, place: Path, encoder: Encoder) -> None:
    with CollectionWriter.create(place, folder) as collection:
        index_folder(collection, encoder, IndexConfig(workers=1))


# R1: kill -9.


def test_200_killed_runs_lose_no_acknowledged_row(tmp_path: Path, model_path: Path, encoder: Encoder) -> None:
    """Half are killed at a random moment, half at a named statement; a tenth decode in processes of their own."""
    survey = kill_cycles(tmp_path, model_path, CYCLES, seed=0)
    assert survey["killed"] >= CYCLES * 0.4  # of the others the moment came too late
    assert survey["acknowledged"] >= CYCLES
    folder, place = tmp_path / "photos", tmp_path / "killed.sqlite"
    index(folder, place, encoder)
    clean = tmp_path / "clean.sqlite"
    index(folder, clean, encoder)
    kept = {path: row for path, row in contents(place).items() if row[5] != "offline"}
    assert kept == contents(clean)


def kill_cycles(scratch: Path, model: Path, cycles: int, seed: int) -> dict[str, int]:
    """Kill that many runs over a folder that changes; fails at the first acknowledged row that is not there afterwards."""
    random = np.random.default_rng(seed)
    folder, place, journal = ChangingFolder(scratch / "photos", random), scratch / "killed.sqlite", scratch / "journal"
    survey = {"killed": 0, "acknowledged": 0}
    # How long a run takes on this machine, with processes that decode and without, and how many statements it has: as the last
    # one that came to its end, or more if a later one was killed after that. Moments reach half beyond it.
    seconds, statements = {False: 60.0, True: 60.0}, 1000
    with KilledRuns(model) as runs:
        for cycle in range(cycles):
            folder.change()
            named, processes = cycle % 2 == 0, cycle % 10 == 1
            run: dict[str, Any] = {"folder": str(folder.root), "place": str(place), "journal": str(journal)}
            run |= {
                "statement": int(random.integers(1, int(1.5 * statements))) if named else 0,
                "after": bool(random.integers(2)),
            }
            run |= {"processes": processes, "batch": int(random.integers(1, 6))}
            journal.unlink(missing_ok=True)
            process = runs.start(**run)
            if not named and not runs.ended_within(random.uniform(0, 1.5 * seconds[processes])):
                with suppress(ProcessLookupError):  # it ends at this moment
                    os.kill(process, signal.SIGKILL)
            ended = runs.wait()
            assert ended.code in (0, -signal.SIGKILL)
            finished = ended.code == 0
            seconds[processes] = ended.seconds if finished else max(seconds[processes], ended.seconds)
            statements = ended.statements if finished else max(statements, ended.statements)
            survey["killed"] += not finished
            survey["acknowledged"] += check_against(journal, place)
    return survey


def check_against(journal: Path, place: Path) -> int:
    """How many rows the journal names, all of which must be in the collection, which must be whole."""
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    if not place.exists() or place.stat().st_size == 0:
        assert not lines
        return 0
    if not lines and not has_tables(place):  # killed before the first transaction, and nothing was promised
        return 0
    found = verify(place)
    assert found.whole, found
    with Collection.open(place) as collection:
        rows = {row.id: row for row in collection.images()}
    assert len({row.path for row in rows.values()}) == len(rows)
    for line in lines:
        number, path, sha256, status = json.loads(line)
        row = rows[number]
        assert (row.path, (row.sha256 or b"").hex(), row.status) == (path, sha256, status)
    return len(lines)


def has_tables(place: Path) -> bool:
    connection = sqlite3.connect(place)
    try:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    finally:
        connection.close()


# R2: power loss.


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> tuple[list[Any], list[tuple[int, Any]]]:
    """The notes of a run of every kind of transaction, and after how many of them which state had been acknowledged."""
    return record_transactions(tmp_path_factory.mktemp("storage"), ModelFolder.open(model_path))


def record_transactions(scratch: Path, model: ModelFolder) -> tuple[list[Any], list[tuple[int, Any]]]:
    storage = NotingStorage(f"noting-{scratch.name}")
    path = scratch / "collection.sqlite"
    writer = CollectionWriter(Database(path, NotingConnection(path, storage)), WriterLock(path))
    acknowledged: list[tuple[int, Any]] = []

    def acknowledge() -> None:
        acknowledged.append((len(storage.notes), stored(writer)))

    prepare(writer.database, scratch)
    acknowledge()
    for step in range(40):
        fill(writer, model, 3 + step % 5, seed=step)
        acknowledge()
        with writer.transaction():
            writer.mark_failed(FileState(f"{step}-000001.png", 2, 2), "is empty")
            writer.remove([3 * step + 1])
        acknowledge()
        if step % 8 == 7:
            compare(writer, [])
            acknowledge()
            writer.forget_offline()
            acknowledge()
            writer.compact()
            acknowledge()
        elif step % 5 == 4:
            writer.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            acknowledge()
    writer.close()
    acknowledge_at_end = (len(storage.notes), acknowledged[-1][1])
    return storage.notes, [*acknowledged, acknowledge_at_end]


def test_500_power_losses_leave_the_old_or_the_new_state(
    recorded: tuple[list[Any], list[tuple[int, Any]]], tmp_path: Path
) -> None:
    notes, acknowledged = recorded
    lose_power(notes, acknowledged, tmp_path / "found", SCHEDULES, seed=0)


def lose_power(notes: list[Any], acknowledged: list[tuple[int, Any]], scratch: Path, schedules: int, seed: int) -> None:
    """Fail at random notes; what is found must be the last acknowledged state, or the one in the making."""
    random = np.random.default_rng(seed)
    first = acknowledged[0][0]
    for _ in range(schedules):
        moment = int(random.integers(first, len(notes) + 1))
        scratch.mkdir()
        for name, content in after_power_loss(notes[:moment], random).items():
            (scratch / name).write_bytes(content)
        last = max(place for place, (count, _) in enumerate(acknowledged) if count <= moment)
        allowed = [state for _, state in acknowledged[last : last + 2]]
        with Collection.open(scratch / "collection.sqlite") as collection:
            assert stored(collection) in allowed
        assert verify(scratch / "collection.sqlite").whole
        shutil.rmtree(scratch)


# R3: a full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    for number in range(300):
        paint(folder / f"{number}.png", "red", "blue", seed=number, size=(8, 8))
    return folder


def leave_free(disk: Path, kilobytes: int) -> Path:
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free
    filler.write_bytes(bytes(max(free - kilobytes * 1024, 0)))
    return filler


@pytest.mark.parametrize("kilobytes", [0, 4, 16, 64, 100, 140, 180, 220])
def test_a_disk_that_fills_while_indexing_is_said_and_the_next_run_completes(
    small_disk: Path, photographs: Path, tmp_path: Path, encoder: Encoder, kilobytes: int
) -> None:
    place, clean = small_disk / "c.sqlite", tmp_path / "clean.sqlite"
    filler = leave_free(small_disk, kilobytes)
    with pytest.raises(DataError, match=r"make room|No space left|cannot be (made|written)") as caught:
        index(photographs, place, encoder)
    assert caught.value.exit_code == 1
    filler.unlink()
    if place.exists() and place.stat().st_size > 4096:  # more than a header
        assert verify(place).whole
    index(photographs, place, encoder)
    index(photographs, clean, encoder)
    assert contents(place) == contents(clean)


@pytest.mark.parametrize("doing", ["compact", "export", "repair", "remove"])
def test_a_disk_that_fills_while_in_order_keeping_leaves_everything_as_it_was(
    small_disk: Path, photographs: Path, encoder: Encoder, model_path: Path, doing: str
) -> None:
    place = small_disk / "c.sqlite"
    index(photographs, place, encoder)
    before = contents(place)
    if doing == "repair":
        connection = sqlite3.connect(place)
        connection.execute("UPDATE meta SET value = 5 WHERE key = 'seal'")
        connection.commit()
        connection.close()
    filler = leave_free(small_disk, 0)

    def work() -> None:
        if doing == "repair":
            repair(place, photographs, ModelFolder.open(model_path))
        elif doing == "export":
            with Collection.open(place) as collection:
                export_clip_retrieval(collection, small_disk / "out")
        else:
            with CollectionWriter.create(place, photographs) as writer:
                if doing == "compact":
                    writer.compact()
                with writer.transaction():
                    writer.remove(list(range(1, 300)))

    with pytest.raises(DataError):
        work()
    filler.unlink()
    assert contents(place) == before
    assert not (small_disk / "out").exists()
    work()
    assert verify(place).whole


# R4: a failing disk.


def test_a_photograph_that_cannot_be_read_is_a_reason_and_is_tried_again(tmp_path: Path, encoder: Encoder) -> None:
    from aladin.pictures.decoding import Decoders
    from aladin.pictures.limits import DecodingLimits

    with Decoders(DecodingLimits(1, 20.0, 512)) as decoders:
        # Reading it at 0 is an I/O error.
        found = decoders.submit(Path("/proc/self"), FileState("mem", 1, 1), Fitting(16)).result()
    assert found.reason == "cannot be read (Input/output error)"  # type: ignore[union-attr]
    assert found.file.mtime_ns == -1  # type: ignore[union-attr]


def test_an_io_error_in_any_write_is_said_and_loses_nothing(tmp_path: Path, model_path: Path) -> None:
    import apsw

    model = ModelFolder.open(model_path)

    class Failing(NotingStorage):
        left = -1

        def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
            storage, file = self, super().xOpen(name, flags)
            write, sync = file.xWrite, file.xSync

            class File(type(file)):  # type: ignore[misc]
                def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
                    storage.count()
                    write(data, offset)

                def xSync(self, flags: int) -> None:  # noqa: N802
                    storage.count()
                    sync(flags)

            file.__class__ = File
            return file

        def count(self) -> None:
            self.left -= 1
            if self.left == 0:
                raise apsw.IOError

    for moment in range(1, 40, 3):
        scratch = tmp_path / str(moment)
        scratch.mkdir()
        storage = Failing(f"failing-{moment}-{scratch.name}-{os.getpid()}")
        path = scratch / "collection.sqlite"
        writer = CollectionWriter(Database(path, NotingConnection(path, storage)), WriterLock(path))
        prepare(writer.database, scratch)
        fill(writer, model, 5)
        states = [stored(writer)]
        storage.left = moment

        def write_until_it_fails(writer: CollectionWriter = writer, states: list[Any] = states) -> None:
            for seed in range(1, 60):
                fill(writer, model, 5, seed)
                states.append(stored(writer))

        with pytest.raises(AladinError, match=r"cannot be used: .*; check the disk"):
            write_until_it_fails()
        storage.left = -1
        writer.close()
        with Collection.open(path) as collection:
            assert stored(collection) == states[-1]
        assert verify(path).whole


def test_a_collection_on_a_read_only_disk_is_read_and_not_written(tmp_path: Path, small_disk: Path, encoder: Encoder) -> None:
    photos = small_disk / "photos"
    for number in range(5):
        paint(photos / f"{number}.png", "red", seed=number)
    index(photos, default_file(photos), encoder)
    before = contents(default_file(photos))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert contents(default_file(photos)) == before
    assert verify(default_file(photos)).whole
    with pytest.raises(DataError, match="cannot be written"):
        index(photos, default_file(photos), encoder)
    elsewhere = tmp_path / "elsewhere.sqlite"
    index(photos, elsewhere, encoder)
    assert contents(elsewhere) == before


# R6: stopping and going on.


class StoppedEncoder(Encoder):
    """Counts images, and is interrupted at given ones."""

    encoded = 0
    stops: frozenset[int] = frozenset()

    def encode_images(self, pixels: np.ndarray) -> Any:
        self.encoded += len(pixels)
        reached = {stop for stop in self.stops if stop <= self.encoded}
        if reached:
            self.stops -= reached
            raise KeyboardInterrupt
        return super().encode_images(pixels)


def test_ten_stops_in_2000_images_cost_at_most_a_twentieth_more_work(tmp_path: Path, model_path: Path) -> None:
    """Each stop is in the midst of a batch, whose work is lost."""
    folder = tmp_path / "many"
    for number in range(2000):
        paint(folder / f"{number % 9}" / f"{number}.png", "red", "green", seed=number, size=(6, 6))
    encoder = StoppedEncoder(ModelFolder.open(model_path), threads=1)
    index(folder, tmp_path / "clean.sqlite", encoder)
    assert encoder.encoded == 2000
    encoder.encoded = 0
    encoder.stops = frozenset(np.random.default_rng(0).choice(2000, size=10, replace=False).tolist())
    stops = 0
    while True:
        try:
            index(folder, tmp_path / "stopped.sqlite", encoder)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 10
    assert encoder.encoded <= 2000 * 1.05
    assert contents(tmp_path / "stopped.sqlite") == contents(tmp_path / "clean.sqlite")
