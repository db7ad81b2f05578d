"""Whether a collection's file is whole: every row, vector, token set and page is read and held against its checksum, and so is
the log beside it, which a writer leaves behind that was killed.
"""

import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aladin.collection.database import any_text
from aladin.collection.formats import CHECKED_BY_FORMAT, readable, setting_of
from aladin.collection.lock import holder_of
from aladin.collection.log import log_damage
from aladin.collection.schema import APPLICATION_ID, BLOBS, damaged_values, seal
from aladin.collection.sqlite import Collection
from aladin.errors import AladinError, DataError, IndexMismatch

STRUCTURE_LINES = 20  # of SQLite's own complaints, reported at most
# What reading a damaged file may raise: SQLite's own errors, and values that are not what their column promises.
DAMAGE_SIGNS = (sqlite3.Error, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Damage:
    """One row that is not as it was written."""

    id: int
    path: str | None  # as in ImageRow; None where that may be what is damaged
    what: str


@dataclass(frozen=True)
class Verification:
    """What is wrong with a collection's file: nothing when both lists are empty."""

    rows: int  # images looked at
    bytes: int
    structure: tuple[str, ...]  # of the file as a whole
    damage: tuple[Damage, ...]  # of single rows

    @property
    def whole(self) -> bool:
        return not self.structure and not self.damage


def verify(path: Path) -> Verification:
    """Check everything that the collection at `path` stores, for reading only.

    DataError when there is no file, or one of something else; IndexMismatch when it is of a newer format.
    """
    try:
        with Collection.open(path) as collection:
            return _verified(collection.database.connection, path.stat().st_size, _damage_of_log(path))
    except AladinError as error:
        if not was_collection(path):
            raise
        return Verification(0, path.stat().st_size, (str(error),), ())


def was_collection(path: Path) -> bool:
    """Whether the file's header, settings or tables show that it was a collection, however damaged it is by now.

    A newer format whose settings are whole is no damage. Not for a file that this process has open as a collection: closing
    a file ends all locks that the process has on it.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(100)
        content = file.read(1 << 16)
    if header[68:72] != APPLICATION_ID.to_bytes(4, "big") and b"CREATE TABLE images" not in content:
        return False
    try:
        with Collection.open(path):
            return True
    except IndexMismatch:
        return not _newer_and_whole(path)
    except DataError:
        return True


def _newer_and_whole(path: Path) -> bool:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        version = setting_of(connection, "schema_version")
        return isinstance(version, int) and not readable(version) and setting_of(connection, "seal") == seal_of(connection)
    except DAMAGE_SIGNS:
        return False
    finally:
        connection.close()


def seal_of(connection: sqlite3.Connection) -> int:
    """The seal that the file's settings ought to have."""
    with any_text(connection):
        return seal(lambda statement: connection.execute(statement).fetchall())


def _damage_of_log(path: Path) -> list[str]:
    """What is wrong with the log; nothing while somebody writes it, who would be met amid a frame."""
    found = log_damage(path)
    return [found] if found and not holder_of(path) else []


def _verified(connection: sqlite3.Connection, size: int, damage_of_log: list[str]) -> Verification:
    structure = damage_of_log
    damage: list[Damage] = []
    rows = 0
    with any_text(connection):
        try:
            connection.execute("BEGIN")  # one committed state, whatever a writer does meanwhile
            structure += _structure(connection)
            rows = connection.execute("SELECT count(*) FROM main.images NOT INDEXED").fetchone()[0]
            damage += _damaged_images(connection)
            for table, column in BLOBS.items():
                damage += _damaged_blobs(connection, table, column)
        except DAMAGE_SIGNS as error:
            structure.append(f"the file cannot be read to its end: {error}")
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
    return Verification(rows, size, tuple(structure), tuple(damage))


def _structure(connection: sqlite3.Connection) -> Iterator[str]:
    """What SQLite finds wrong with pages and indexes, and whether the settings are those that were sealed."""
    for (line,) in connection.execute(f"PRAGMA integrity_check({STRUCTURE_LINES})"):
        if line != "ok":
            yield from str(line).splitlines()
    sealed = setting_of(connection, "seal")
    is_sealed = sealed is not None or setting_of(connection, "schema_version") in CHECKED_BY_FORMAT  # format 1 had no seal
    if is_sealed and sealed != seal(lambda statement: connection.execute(statement).fetchall()):
        yield "the settings or the tables' definitions are not as they were written"


def _damaged_images(connection: sqlite3.Connection) -> Iterator[Damage]:
    """Rows of images that disagree with their checksum, or that lack what their status promises."""
    checked = CHECKED_BY_FORMAT.get(setting_of(connection, "schema_version"))
    if checked:
        for row in connection.execute(f"SELECT {', '.join(checked)}, checksum FROM main.images NOT INDEXED"):
            if damaged_values(row):
                yield Damage(row[0], None, "the image's row is not as it was written")
    for table in BLOBS:
        lacking = f"SELECT id, path FROM main.images WHERE status = 'ok' AND id NOT IN (SELECT id FROM {table})"
        for image_id, path in connection.execute(lacking):
            yield Damage(image_id, os.fsdecode(path), f"its {table} are missing")
        for (image_id,) in connection.execute(f"SELECT id FROM {table} WHERE id NOT IN (SELECT id FROM main.images)"):
            yield Damage(image_id, None, f"{table} without an image")


def _damaged_blobs(connection: sqlite3.Connection, table: str, column: str) -> Iterator[Damage]:
    lengths: dict[int, int] = {}
    for image_id, blob, checksum in connection.execute(f"SELECT id, {column}, checksum FROM {table} ORDER BY id"):
        if not isinstance(blob, bytes) or zlib.crc32(blob) != checksum:
            yield Damage(image_id, _path_of(connection, image_id), f"its {table} are not as they were written")
        elif table == "vectors" and not np.isfinite(np.frombuffer(blob, dtype="<f2")).all():
            yield Damage(image_id, _path_of(connection, image_id), "its vector is not finite")
        else:
            lengths[len(blob)] = lengths.get(len(blob), 0) + 1
    if len(lengths) > 1:
        usual = max(lengths, key=lambda length: lengths[length])
        for (image_id,) in connection.execute(f"SELECT id FROM {table} WHERE length({column}) != ?", (usual,)):
            yield Damage(image_id, _path_of(connection, image_id), f"its {table} are of another length than the others'")


def _path_of(connection: sqlite3.Connection, image_id: int) -> str | None:
    found = connection.execute("SELECT path FROM main.images WHERE id = ?", (image_id,)).fetchone()
    return os.fsdecode(found[0]) if found and isinstance(found[0], bytes | str) else None
