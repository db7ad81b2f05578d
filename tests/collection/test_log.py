"""The log that a killed writer leaves behind: whole it is read, damaged it is noticed."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aladin.collection.log import FRAME, HEADER, log_damage
from aladin.collection.sqlite import Collection
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.folder import ModelFolder
from tests.conftest import fill
from tests.flipping import flip, flips, said

KILLED = """
import os, sys
from pathlib import Path
from aladin.collection.writer import CollectionWriter
from aladin.encoder.folder import ModelFolder
from tests.conftest import fill
place = Path(sys.argv[1])
writer = CollectionWriter.create(place, place.parent)
for turn in range(3):
    fill(writer, ModelFolder.open(Path(sys.argv[2])), 5, seed=turn + 1)
if sys.argv[3] == "amid":
    writer.database.connection.execute("PRAGMA cache_size = 1")
    writer.database.connection.execute("BEGIN")
    writer.database.connection.execute("UPDATE tokens SET tokens = randomblob(9000)")
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """A collection and the log of three transactions, as kill -9 left them."""
    return killed(tmp_path_factory.mktemp("left") / "c.sqlite", model_path, "between")


def killed(place: Path, model_path: Path, when: str) -> Path:
    with CollectionWriter.create(place, place.parent) as writer:
        fill(writer, ModelFolder.open(model_path), 5)
    subprocess.run([sys.executable, "-c", KILLED, place, model_path, when], check=False)
    return place


def log_of(place: Path) -> Path:
    return place.with_name(place.name + "-wal")


def frame_starts(log: bytes) -> range:
    size = FRAME.size + HEADER.unpack_from(log)[2]
    return range(HEADER.size, len(log) - size + 1, size)


def last_transaction(log: bytes) -> int:
    """Where it begins."""
    commits = [start for start in frame_starts(log) if FRAME.unpack_from(log, start)[1]]
    return commits[-2] + frame_starts(log).step


def copied(place: Path, folder: Path, log: bytes) -> Path:
    """The collection with another log, and without what SQLite remembers of the first."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    copy = Path(shutil.copy(place, folder))
    log_of(copy).write_bytes(log)
    return copy


def test_a_log_that_a_killed_writer_left_is_whole_and_read(left: Path, tmp_path: Path) -> None:
    copy = copied(left, tmp_path / "copy", log_of(left).read_bytes())
    assert verify(copy).whole
    with Collection.open(copy) as collection:
        assert len(collection) == 20
    assert log_damage(tmp_path / "nowhere.sqlite") is None


def test_a_transaction_that_was_never_committed_is_no_damage(tmp_path: Path, model_path: Path) -> None:
    place = killed(tmp_path / "c.sqlite", model_path, "amid")
    frames = log_of(place).read_bytes()
    page_size = HEADER.unpack_from(frames)[2]
    assert FRAME.unpack_from(frames, len(frames) - page_size - FRAME.size)[1] == 0, "the last frame commits nothing"
    assert verify(place).whole
    assert verify(copied(place, tmp_path / "cut", frames[:-1000])).whole


def test_what_an_earlier_log_left_behind_the_present_one_is_no_damage(left: Path, tmp_path: Path, model_path: Path) -> None:
    copy = copied(left, tmp_path / "copy", log_of(left).read_bytes())
    connection = sqlite3.connect(copy, isolation_level=None)
    connection.execute("SELECT * FROM images").fetchall()  # now it has found the log
    assert connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0
    connection.execute("UPDATE images SET mtime_ns = 7 WHERE id = 1")
    log = log_of(copy).read_bytes()
    connection.close()
    assert log[16:24] != log_of(left).read_bytes()[16:24]
    assert len(log) == len(log_of(left).read_bytes()), "written over its beginning"
    assert log_damage(copied(left, tmp_path / "other", log)) is None


def test_every_flipped_bit_before_the_last_transaction_is_noticed(left: Path, tmp_path: Path) -> None:
    log = log_of(left).read_bytes()
    truth = said(copied(left, tmp_path / "copy", log))
    for position, bit in [*flips(150, last_transaction(log), seed=0), *((place, 3) for place in range(32))]:
        copy = copied(left, tmp_path / "copy", flip(log, position, bit))
        found = verify(copy)
        assert not found.whole, f"bit {bit} of byte {position} went unnoticed"
        assert any("the log (-wal)" in line for line in found.structure)
    assert said(copied(left, tmp_path / "copy", log)) == truth


def test_every_flipped_bit_of_a_frames_head_is_noticed(left: Path, tmp_path: Path) -> None:
    log = log_of(left).read_bytes()
    starts = [start for start in frame_starts(log) if start < last_transaction(log)]
    random = np.random.default_rng(0)
    for start in (starts[0], starts[-2], starts[-1]):
        for position in range(start, start + FRAME.size):
            copy = copied(left, tmp_path / "copy", flip(log, position, int(random.integers(8))))
            assert log_damage(copy) is not None, f"byte {position - start} of the frame at {start}"


def test_a_last_transaction_of_which_power_loss_left_a_part_is_no_damage(left: Path, tmp_path: Path) -> None:
    log = log_of(left).read_bytes()
    start, random = last_transaction(log), np.random.default_rng(0)
    size = frame_starts(log).step
    with Collection.open(copied(left, tmp_path / "before", log[:start])) as collection:
        expected = len(collection)
    for _ in range(30):
        lost = bytearray(log)
        for frame in range(start, len(log), size):
            if frame == start or random.integers(2):
                lost[frame : frame + size] = bytes(size)
        copy = copied(left, tmp_path / "copy", bytes(lost))
        assert verify(copy).whole
        with Collection.open(copy) as collection:
            assert len(collection) == expected


def test_the_first_damaged_frame_is_named(left: Path, tmp_path: Path) -> None:
    log = log_of(left).read_bytes()
    first = log_damage(copied(left, tmp_path / "copy", flip(log, HEADER.size + FRAME.size + 9, 0)))
    total = len(frame_starts(log))
    assert first == f"the log (-wal) is damaged in frame 1 of {total}; what was committed from there on is not read"


def test_a_log_that_is_being_written_is_left_alone(left: Path, tmp_path: Path) -> None:
    copy = copied(left, tmp_path / "copy", log_of(left).read_bytes())
    with CollectionWriter.create(copy, copy.parent):
        log_of(copy).write_bytes(flip(log_of(copy).read_bytes(), 5, 0))
        assert log_damage(copy) is not None
        assert verify(copy).whole
