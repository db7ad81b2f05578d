"""Making a damaged collection whole: what checksums confirm is kept, what they do not is read again by the next `index`.

Where single rows are damaged they are mended in place. Where pages do not hang together any more, every row that can still be
read goes into a new file, and the damaged one stays beside it.
"""

import json
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aladin.collection.lock import WriterLock
from aladin.collection.schema import CHECKED, SCHEMA_VERSION, create_tables, damaged_values, keep_checksums, seal
from aladin.collection.store import connect, failures_named
from aladin.collection.verify import BLOBS, DAMAGE_SIGNS, Verification, any_text, verify, was_collection
from aladin.collection.writer import CollectionWriter, root_to_store
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError, IndexMismatch
from aladin.pictures.limits import MOST_FRAMES

PAGE_BYTES = 4096
LOOKED_AT = 1000  # images, to see which way of opening a damaged file gives more of them
SLIPS = 8  # characters in which the stored name of a model may differ from the model's to be taken for it, damaged
# The facts that a row is left without when they cannot be trusted; size -1 is no file's, so the file is read again.
UNTRUSTED = {"size": -1, "mtime_ns": -1, "sha256": None, "width": None, "height": None, "taken": None, "reason": None}


@dataclass(frozen=True)
class Repair:
    """What a repair kept and dropped."""

    kept: int  # images as they were
    to_read_again: int  # images that keep their id and path, and are read again by the next `index`
    lost: int  # images of which no more than an id could be read; where their files are there, they come back as new ones
    damaged_copy: Path | None  # where the damaged file stands now, if a new one had to be made


def repair(path: Path, root: Path, model: ModelFolder) -> Repair:
    """Make the collection at `path`, of the images below `root` by `model`, whole again.

    DataError when the file is not a collection, or nothing in it can be read any more; it is then left as it is.
    CollectionLocked when somebody else is writing it.
    """
    try:
        found = verify(path)
    except IndexMismatch:
        raise
    except DataError:
        if not path.is_file():
            raise
        return _salvage(path, root, model)  # where not even the first page is left
    if found.structure:
        return _salvage(path, root, model)
    if not found.damage:
        return Repair(found.rows, 0, 0, None)
    with CollectionWriter.create(path, root) as collection:
        return _mend(collection, found)


def _mend(collection: CollectionWriter, found: Verification) -> Repair:
    damaged = sorted({damage.id for damage in found.damage})
    lost = 0
    with collection.transaction():
        for number in damaged:
            for table in BLOBS:
                collection._execute(f"DELETE FROM {table} WHERE id = ?", (number,))
            with any_text(collection._connection):
                row = _image_values(collection._connection, number)
            collection._execute("DELETE FROM images WHERE id = ?", (number,))
            mended = _to_read_again(row) if row else None
            lost += mended is None
            if mended:
                _insert(collection._connection, mended | {"generation": collection.generation})
    return Repair(found.rows - len(damaged), len(damaged) - lost, lost, None)


def _to_read_again(row: dict[str, Any]) -> dict[str, Any] | None:
    """A damaged row with what can be trusted in it; None when that is nothing."""
    path = row["path"]
    if not isinstance(path, bytes) or not path or b"\0" in path or path.startswith(b"/") or b".." in path.split(b"/"):
        return None
    status = "removed" if row["status"] == "removed" else "pending"
    return row | UNTRUSTED | {"metadata": _sound_metadata(row["metadata"]), "status": status}


def _sound_metadata(text: object) -> str:
    with suppress(ValueError, UnicodeError):
        if isinstance(text, str) and text.encode() and isinstance(json.loads(text), dict):
            return text
    return "{}"


def _salvage(path: Path, root: Path, model: ModelFolder) -> Repair:
    """A new file of all rows that can still be read; the old one is renamed, never deleted."""
    lock = WriterLock(path)
    fresh, readable = path.with_name(path.name + ".repaired"), path.with_name(path.name + ".readable")
    beside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    try:
        with failures_named(fresh), closing(_opened_somehow(path, readable)) as source, closing(_new_file(fresh)) as target:
            counts = _copied(source, target, _settings(source, root_to_store(path, root), model))
        if not counts[0] and not (counts[1] and was_collection(path)):
            raise _nothing_left(path, root)
        _put_in_place(path, fresh, beside)
    finally:
        for left in (fresh, readable):
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


def _opened_somehow(path: Path, copy: Path) -> sqlite3.Connection:
    """The damaged file; or a copy of it under the first page of a new collection, where that gives more sound rows."""
    connection = _opened(path)
    ids, sound = _sound_rows(connection)
    if ids and sound >= ids / 2:
        return connection
    _under_a_new_first_page(path, copy)
    grafted = _opened(copy)
    worse, better = (grafted, connection) if sound >= _sound_rows(grafted)[1] else (connection, grafted)
    worse.close()
    return better


def _opened(path: Path) -> sqlite3.Connection:
    connection = connect(path, "ro")
    # A file that is shorter than its first page says is then read as far as it goes.
    connection.execute("PRAGMA writable_schema = ON")
    return connection


def _sound_rows(source: sqlite3.Connection) -> tuple[int, float]:
    """How many images the file knows, and of how many about the checksum confirms the row, by looking at some of them."""
    with any_text(source):
        known = sorted(_known_ids(source))
        looked_at = known[:: 1 + len(known) // LOOKED_AT]
        sound = sum(_row(source, number)[1] for number in looked_at)
    return len(known), len(known) * sound / max(len(looked_at), 1)


def _under_a_new_first_page(path: Path, copy: Path) -> None:
    _new_file(copy).close()
    first_page = bytearray(copy.read_bytes()[:PAGE_BYTES])
    first_page[28:32] = (path.stat().st_size // PAGE_BYTES).to_bytes(4, "big")  # pages in the file
    shutil.copyfile(path, copy)
    with copy.open("r+b") as file:
        file.write(first_page)


def _new_file(path: Path) -> sqlite3.Connection:
    path.unlink(missing_ok=True)
    connection = connect(path, "rwc")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    create_tables(connection.execute)
    connection.execute("COMMIT")
    keep_checksums(connection)
    return connection


def _copied(source: sqlite3.Connection, target: sqlite3.Connection, settings: dict[str, Any]) -> tuple[int, int, int]:
    """Every row that its checksum confirms; how many images were kept, have to be read again, and are lost."""
    kept = again = lost = 0
    target.execute("BEGIN IMMEDIATE")
    with any_text(source):
        for number, path in sorted(_known_ids(source).items()):
            row, blobs = _rescued(source, number, path)
            if row is None:
                lost += 1
                continue
            _insert(target, row)
            for table, values in blobs.items():
                target.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", (number, *values))
            again += row["status"] == "pending"
            kept += row["status"] != "pending"
    generation = target.execute("SELECT coalesce(max(generation), 0) FROM images").fetchone()[0]
    settings["generation"] = max(generation, settings["generation"]) + 1
    target.executemany("INSERT INTO meta VALUES (?, ?)", settings.items())
    sealed = seal(lambda statement: target.execute(statement).fetchall())
    target.execute("INSERT INTO meta VALUES ('seal', ?)", (sealed,))
    target.execute("COMMIT")
    target.execute("PRAGMA journal_mode = WAL")
    return kept, again, lost


def _known_ids(source: sqlite3.Connection) -> dict[int, bytes | None]:
    """The ids that any table or index still tells, with the path where the index of paths does.

    Each is read from both ends as far as it goes, since a scan ends at the first damaged page.
    """
    known: dict[int, bytes | None] = {}
    scans = [f"SELECT id, NULL FROM {table} NOT INDEXED ORDER BY id" for table in ("images", *BLOBS)]
    by_path = "SELECT id, path FROM images INDEXED BY sqlite_autoindex_images_1 ORDER BY path"
    for scan in (*scans, by_path):
        for direction in ("ASC", "DESC"):
            for number, path in _as_far_as_it_goes(source, f"{scan} {direction}"):
                if isinstance(number, int) and number > 0:
                    known[number] = known.get(number) or (path if isinstance(path, bytes) else None)
    return known


def _as_far_as_it_goes(source: sqlite3.Connection, statement: str) -> Iterator[tuple[Any, ...]]:
    with suppress(*DAMAGE_SIGNS):
        yield from source.execute(statement)


def _rescued(
    source: sqlite3.Connection, number: int, path: bytes | None
) -> tuple[dict[str, Any] | None, dict[str, tuple[bytes, int]]]:
    """The image with that id and its checked vector and tokens; without these, and to be read again, where one is damaged."""
    row, confirmed = _row(source, number)
    blobs = {table: blob for table, column in BLOBS.items() if (blob := _checked_blob(source, table, column, number))}
    if row is None and path is not None:
        row = dict.fromkeys(CHECKED) | {"id": number, "path": path, "generation": 0}
    whole = len(blobs) == len(BLOBS)
    if row is None:
        return None, {}
    if confirmed and (whole or row["status"] != "ok"):
        return row, blobs if whole else {}
    return _to_read_again(row), {}


def _row(source: sqlite3.Connection, number: int) -> tuple[dict[str, Any] | None, bool]:
    """The row with that id as far as it can be read, and whether its checksum confirms it."""
    with suppress(*DAMAGE_SIGNS):
        values = source.execute(
            f"SELECT {', '.join(CHECKED)}, checksum FROM images NOT INDEXED WHERE id = ?", (number,)
        ).fetchone()
        if values:
            return dict(zip(CHECKED, values, strict=False)), not damaged_values(values)
    return None, False


def _checked_blob(source: sqlite3.Connection, table: str, column: str, number: int) -> tuple[bytes, int] | None:
    with suppress(*DAMAGE_SIGNS):
        found = source.execute(f"SELECT {column}, checksum FROM {table} WHERE id = ?", (number,)).fetchone()
        if found and isinstance(found[0], bytes) and zlib.crc32(found[0]) == found[1]:
            return found[0], found[1]
    return None


def _image_values(connection: sqlite3.Connection, number: int) -> dict[str, Any] | None:
    statement = f"SELECT {', '.join(CHECKED)} FROM images NOT INDEXED WHERE id = ?"
    row: Sequence[Any] | None = connection.execute(statement, (number,)).fetchone()
    return dict(zip(CHECKED, row, strict=True)) if row else None


def _insert(target: sqlite3.Connection, row: dict[str, Any]) -> None:
    row = row | {"generation": row["generation"] if isinstance(row["generation"], int) else 0}
    names, marks = ", ".join(CHECKED), ", ".join("?" * len(CHECKED))
    target.execute(f"INSERT OR IGNORE INTO images ({names}) VALUES ({marks})", [*map(row.get, CHECKED)])


def _settings(source: sqlite3.Connection, root: bytes, model: ModelFolder) -> dict[str, Any]:
    """The settings as far as they can be read: the folder is the one given, and a slightly damaged model is the one given."""
    stored: dict[str, Any] = {}
    for key in ("model_name", "model_parts", "model_stamp", "token_dim", "generation", "device", "frames"):
        with suppress(*DAMAGE_SIGNS):
            found = source.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            stored |= {key: found[0]} if found else {}
    generation = stored.get("generation")
    settings = {"schema_version": SCHEMA_VERSION, "root": root, "generation": generation if isinstance(generation, int) else 0}
    frames = stored.get("frames")
    settings |= {"frames": frames} if isinstance(frames, int) and 1 < frames <= MOST_FRAMES else {}
    expected = json.dumps(model.parts)
    if not stored.get("model_parts") or _nearly(str(stored["model_parts"]), expected):
        return settings | {"model_name": model.name, "model_parts": expected, "token_dim": model.config.heads.encoded_token_dim}
    return settings | {key: stored[key] for key in ("model_name", "model_parts", "token_dim") if key in stored}


def _nearly(stored: str, expected: str) -> bool:
    return len(stored) == len(expected) and sum(a != b for a, b in zip(stored, expected, strict=True)) <= SLIPS
