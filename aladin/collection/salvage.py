"""A collection's file whose pages do not hang together any more: every row that can still be read goes into a new one.

The damaged file may be of format 2 or 3, which its table of images tells. A row of format 1 has no checksum, so nothing
confirms it; its file is read again.
"""

import json
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aladin.collection.damaged_rows import Row, insert, read_again_at, to_read_again
from aladin.collection.database import any_text, connect, failures_named
from aladin.collection.formats import CHECKED_BY_FORMAT, HAS_FRAMES, SECOND_TABLES, file_and_frame, setting_of
from aladin.collection.lock import WriterLock
from aladin.collection.preparing import root_to_store
from aladin.collection.schema import (
    BLOBS,
    CHECKED,
    SCHEMA_VERSION,
    TABLES,
    create_tables,
    damaged_values,
    keep_checksums,
    seal,
)
from aladin.collection.verify import DAMAGE_SIGNS, was_collection
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError
from aladin.pictures.limits import MOST_FRAMES

PAGE_BYTES = 4096
LOOKED_AT = 1000  # images, to see which way of opening a damaged file gives more of them
SLIPS = 8  # characters in which the stored name of a model may differ from the model's to be taken for it, damaged
Name = tuple[bytes, int]  # a path and the number of a picture


@dataclass(frozen=True)
class Repair:
    """What a repair kept and dropped."""

    kept: int  # images as they were
    to_read_again: int  # images that keep their id and path, and are read again by the next `index`
    lost: int  # images of which no more than an id could be read; where their files are there, they come back as new ones
    damaged_copy: Path | None  # where the damaged file stands now, if a new one had to be made


def salvage(path: Path, root: Path, model: ModelFolder) -> Repair:
    """A new file of all rows that can still be read; the old one is renamed, never deleted."""
    lock = WriterLock(path)
    fresh = path.with_name(path.name + ".repaired")
    copies = {
        path.with_name(f"{path.name}.readable-{version}"): tables for version, tables in ((3, TABLES), (2, SECOND_TABLES))
    }
    beside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    try:
        with failures_named(fresh), closing(_opened_somehow(path, copies)) as source, closing(_new_file(fresh)) as target:
            counts = _copied(source, target, _settings(source, root_to_store(path, root), model))
        if not counts[0] and not (counts[1] and was_collection(path)):
            raise _nothing_left(path, root)
        _put_in_place(path, fresh, beside)
    finally:
        for left in (fresh, *copies):
            for suffix in ("", "-wal", "-shm"):
                left.with_name(left.name + suffix).unlink(missing_ok=True)
        lock.release()
    return Repair(*counts, beside)


def _nothing_left(path: Path, root: Path) -> DataError:
    if not was_collection(path):
        return DataError(f"{path} is not a collection of aladin; give another --collection")
    return DataError(f"no image can be read from {path} any more; it is as it was: move it away and run `aladin index {root}`")


def _put_in_place(path: Path, fresh: Path, beside: Path) -> None:
    """A crash in between leaves the damaged file under its new name or its old, and no half of either."""
    for suffix in ("-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(beside.with_name(beside.name + suffix))
    fresh.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Source:
    """What can still be read of a damaged file, in the terms of the present format."""

    def __init__(self, path: Path) -> None:
        self.connection = connect(path, "ro")
        # A file that is shorter than its first page says is then read as far as it goes.
        self.connection.execute("PRAGMA writable_schema = ON")
        self._older = False
        with suppress(*DAMAGE_SIGNS):
            self._older = not self.connection.execute(f"SELECT {HAS_FRAMES}").fetchone()[0]
        self._checked = CHECKED_BY_FORMAT[2 if self._older else SCHEMA_VERSION]

    def close(self) -> None:
        self.connection.close()

    def known_ids(self) -> dict[int, Name | None]:
        """The ids that any table or index still tells, with path and frame where the index of paths does.

        Each is read from both ends as far as it goes, since a scan ends at the first damaged page.
        """
        known: dict[int, Name | None] = {}
        scans = [f"SELECT id, NULL, NULL FROM {table} NOT INDEXED ORDER BY id" for table in ("images", *BLOBS)]
        column = "0" if self._older else "frame"
        by_path = f"SELECT id, path, {column} FROM images INDEXED BY sqlite_autoindex_images_1 ORDER BY path"
        for scan in (*scans, by_path):
            for direction in ("ASC", "DESC"):
                for image_id, path, frame in self._as_far_as_it_goes(f"{scan} {direction}"):
                    if isinstance(image_id, int) and image_id > 0:
                        known[image_id] = known.get(image_id) or self._name(path, frame)
        return known

    def sound_rows(self) -> tuple[int, float]:
        """How many images the file knows, and of how many about the checksum confirms the row, by looking at some of them."""
        with any_text(self.connection):
            known = sorted(self.known_ids())
            looked_at = known[:: 1 + len(known) // LOOKED_AT]
            sound = sum(self._row(image_id)[1] for image_id in looked_at)
        return len(known), len(known) * sound / max(len(looked_at), 1)

    def rescued(self, image_id: int, name: Name | None) -> tuple[Row | None, dict[str, tuple[bytes, int]]]:
        """The image with that id, its checked vector and tokens; without these, and to be read again, where one is damaged."""
        row, confirmed = self._row(image_id)
        blobs = {table: blob for table, column in BLOBS.items() if (blob := self._checked_blob(table, column, image_id))}
        if row is None and name is not None:
            row = dict.fromkeys(CHECKED) | {"id": image_id, "path": name[0], "frame": name[1], "generation": 0}
        whole = len(blobs) == len(BLOBS)
        if row is None:
            return None, {}
        if confirmed and (whole or row["status"] != "ok"):
            return row, blobs if whole else {}
        return to_read_again(row), {}

    def setting(self, key: str) -> Any:
        """The value of a setting; None where it cannot be read."""
        with suppress(*DAMAGE_SIGNS):
            return setting_of(self.connection, key)
        return None

    def _as_far_as_it_goes(self, statement: str) -> Iterator[tuple[Any, ...]]:
        with suppress(*DAMAGE_SIGNS):
            yield from self.connection.execute(statement)

    def _row(self, image_id: int) -> tuple[Row | None, bool]:
        """The row with that id as far as it can be read, and whether its checksum confirms it."""
        with suppress(*DAMAGE_SIGNS):
            values = self.connection.execute(
                f"SELECT {', '.join(self._checked)}, checksum FROM images NOT INDEXED WHERE id = ?", (image_id,)
            ).fetchone()
            if values:
                row = dict(zip(self._checked, values, strict=False))
                if self._older and (name := self._name(row["path"], 0)):
                    row |= {"path": name[0], "frame": name[1], "date": None}
                return row, not damaged_values(values)
        return None, False

    def _name(self, path: object, frame: object) -> Name | None:
        if not isinstance(path, bytes) or not isinstance(frame, int):
            return None
        if not self._older:
            return path, frame
        file, frame = file_and_frame(path)
        return os.fsencode(file), frame

    def _checked_blob(self, table: str, column: str, image_id: int) -> tuple[bytes, int] | None:
        with suppress(*DAMAGE_SIGNS):
            found = self.connection.execute(f"SELECT {column}, checksum FROM {table} WHERE id = ?", (image_id,)).fetchone()
            if found and isinstance(found[0], bytes) and zlib.crc32(found[0]) == found[1]:
                return found[0], found[1]
        return None


def _opened_somehow(path: Path, copies: Mapping[Path, Sequence[str]]) -> _Source:
    """The damaged file; or a copy of it under the first page of a new file with such tables, where that has more sound rows."""
    best = _Source(path)
    ids, most = best.sound_rows()
    if ids and most >= ids / 2:
        return best
    for copy, tables in copies.items():
        _under_a_new_first_page(path, copy, tables)
        other = _Source(copy)
        sound = other.sound_rows()[1]
        worse, best = (best, other) if sound > most else (other, best)
        most = max(sound, most)
        worse.close()
    return best


def _under_a_new_first_page(path: Path, copy: Path, tables: Sequence[str]) -> None:
    _new_file(copy, tables).close()
    first_page = bytearray(copy.read_bytes()[:PAGE_BYTES])
    first_page[28:32] = (path.stat().st_size // PAGE_BYTES).to_bytes(4, "big")  # pages in the file
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        file.write(first_page)


def _new_file(path: Path, tables: Sequence[str] = TABLES) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    connection = connect(path, "rwc")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    create_tables(connection.execute, tables)
    connection.execute("COMMIT")
    return connection


def _copied(source: _Source, target: sqlite3.Connection, settings: dict[str, Any]) -> tuple[int, int, int]:
    """Every row that its checksum confirms; how many images were kept, have to be read again, and are lost."""
    kept = again = lost = 0
    keep_checksums(target)
    target.execute("BEGIN IMMEDIATE")
    with any_text(source.connection):
        known = sorted(source.known_ids().items())
        unsure, beside = [], []
        for image_id, name in known:
            row, blobs = source.rescued(image_id, name)
            if row is None or row["status"] == "pending":
                unsure.append((image_id, name))
            elif insert(target, row):
                kept += 1
                for table, values in blobs.items():
                    target.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", (image_id, *values))
            else:
                lost += 1
                beside.append(row["path"])
        # After all others, since a damaged path may be that of a sound row.
        for image_id, name in unsure:
            row, _ = source.rescued(image_id, name)
            found = row is not None and insert(target, row)
            again, lost = again + found, lost + (not found)
            if row is not None and not found:
                beside.append(row["path"])
    for path in beside:
        read_again_at(target, path)
    generation = target.execute("SELECT coalesce(max(generation), 0) FROM images").fetchone()[0]
    settings["generation"] = max(generation, settings["generation"]) + 1
    target.executemany("INSERT INTO meta VALUES (?, ?)", settings.items())
    sealed = seal(lambda statement: target.execute(statement).fetchall())
    target.execute("INSERT INTO meta VALUES ('seal', ?)", (sealed,))
    target.execute("COMMIT")
    target.execute("PRAGMA journal_mode = WAL")
    return kept, again, lost


def _settings(source: _Source, root: bytes, model: ModelFolder) -> dict[str, Any]:
    """The settings as far as they can be read: the folder is the one given, and a slightly damaged model is the one given."""
    generation, frames, parts = source.setting("generation"), source.setting("frames"), source.setting("model_parts")
    settings = {"schema_version": SCHEMA_VERSION, "root": root, "generation": generation if isinstance(generation, int) else 0}
    settings |= {"frames": frames} if isinstance(frames, int) and 1 < frames <= MOST_FRAMES else {}
    expected = json.dumps(model.parts)
    if not parts or _nearly(str(parts), expected):
        return settings | {"model_name": model.name, "model_parts": expected, "token_dim": model.config.heads.encoded_token_dim}
    found = {"model_name": source.setting("model_name"), "model_parts": parts, "token_dim": source.setting("token_dim")}
    return settings | {key: value for key, value in found.items() if value is not None}


def _nearly(stored: str, expected: str) -> bool:
    return len(stored) == len(expected) and sum(a != b for a, b in zip(stored, expected, strict=True)) <= SLIPS
