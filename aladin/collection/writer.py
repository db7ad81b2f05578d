"""Writing a collection: rows for images read, moved, gone or unreadable. What a finished transaction holds is on the disk."""

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int8

from aladin.collection.lock import WriterLock
from aladin.collection.schema import (
    SCHEMA_VERSION,
    create_date_indexes,
    create_tables,
    has_date_indexes,
    keep_checksums,
    migrate,
    seal,
)
from aladin.collection.store import Collection, ImageRow, connect, failures_named
from aladin.collection.tokens import blob_of, token_blob
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError
from aladin.pictures.frames import FILE_PATH, FRAME, file_and_frame, is_further, stored_path
from aladin.pictures.listing import FileState as FileState
from aladin.pictures.listing import Unlisted
from aladin.pictures.long_paths import is_there
from aladin.pictures.photographs import Photograph as Photograph

# An image needs no reading when its file is as it was and it has a vector, or a reason for having none; or is not wanted.
SETTLED = """(images.status = 'removed' OR images.size = listing.size AND images.mtime_ns = listing.mtime_ns AND (
    images.reason IS NOT NULL OR EXISTS (SELECT 1 FROM vectors WHERE vectors.id = images.id)))"""
# The file of a row is listed; a file's further pictures have rows of their own.
IN_LISTING = f"SELECT 1 FROM listing WHERE listing.path = {FILE_PATH.replace('path', 'images.path')}"
LISTED, LISTED_AND_SETTLED = f"EXISTS ({IN_LISTING})", f"EXISTS ({IN_LISTING} AND {SETTLED})"
# A further picture of a file is to be read, which is done with the file.
FURTHER_PENDING = f"""EXISTS (SELECT 1 FROM images AS further WHERE further.status = 'pending'
    AND {is_further("further.path", "listing.path")})"""
# Below a folder that could not be listed nothing is known to be gone.
UNKNOWN = """EXISTS (SELECT 1 FROM unlisted WHERE images.path = unlisted.path
    OR substr(images.path, 1, length(unlisted.path) + 1) = CAST(unlisted.path || '/' AS BLOB))"""
ROOT_SAMPLE = 200  # images looked for in a folder said to be the moved root


@dataclass(frozen=True)
class Comparison:
    """A folder's listing against the rows: how many files are as they were, back, gone, and to be read."""

    known: int  # images that were there at the last look
    listed: int  # files
    unchanged: int
    returned: int
    gone: int  # of those known
    unread: int


class CollectionWriter(Collection):
    """A collection opened for writing: the only one at a time, whoever else reads. All methods but `transaction` want one."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: WriterLock) -> None:
        super().__init__(path, connection)
        self._lock = lock

    @classmethod
    def create(cls, path: Path, root: Path) -> "CollectionWriter":
        """The collection at `path` of the images below `root`, made when there is none.

        CollectionLocked when somebody else is writing it. A collection outside its folder follows when the folder has moved.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{path.parent} cannot be made ({error.strerror}); name another place with --collection") from None
        lock = WriterLock(path)
        try:
            connection = _writing_connection(path)
            try:
                collection = cls(path, connection, lock)
                collection._prepare(root)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            lock.release()
            raise
        return collection

    def close(self) -> None:
        super().close()
        self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes made within it, or none; they are on the disk when it ends, and the generation is one higher."""
        self._execute("BEGIN IMMEDIATE")
        try:
            self._execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
            yield
            self._set_meta("seal", seal(self._rows))
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has already ended it
                self._connection.rollback()
            raise

    def use_model(self, model: ModelFolder) -> None:
        """Take the vectors of `model` from here on: IndexMismatch when those of another are stored. Opens its transaction."""
        self.check_model(model)
        if self._meta("model_stamp") != model.stamp:
            with self.transaction():
                self._set_model(model)

    def use_device(self) -> bool:
        """Remember the disk that the folder is on; whether it was on another before. Opens its transaction when it is news."""
        device, before = self.root.stat().st_dev, self._meta("device")
        if device == before:
            return False
        with self.transaction():
            self._set_meta("device", device)
        return before is not None

    def use_frames(self, most: int) -> None:
        """Read at most so many pictures of a file that holds several, from here on. Opens its transaction when that is news.

        What has to be read again for that is unread at the next comparison; it is not encoded again.
        """
        before = self.frames
        if most == before:
            return
        with self.transaction():
            self._set_meta("frames", most)
            if most == 1:
                self._execute(f"DELETE FROM images WHERE {FRAME}")
            # A file that was read for several pictures and has no further one has none now; else any may have some.
            several = f"({FRAME} OR path IN (SELECT {FILE_PATH} FROM images WHERE {FRAME}))" if before > 1 else "TRUE"
            if most > 1:
                self._update("mtime_ns = -1", f"status IN ('ok', 'offline') AND {several}")

    def keep_frames(self, path: str, numbers: Sequence[int]) -> None:
        """Of the further pictures of the file at a path, the rows of these alone."""
        file, kept = os.fsencode(path), json.dumps(sorted(numbers))
        others = f"{is_further('path', '?')} AND {FRAME} NOT IN (SELECT value FROM json_each(?))"
        self._execute(f"DELETE FROM images WHERE {others}", (file, file, kept))

    def rebuild(self, model: ModelFolder) -> None:
        """Forget every vector, token and failure, so that all images are read again, by `model`. Opens its transaction."""
        with self.transaction():
            self._execute("DELETE FROM vectors")
            self._execute("DELETE FROM tokens")
            self._update("status = 'pending', reason = NULL", "status IN ('ok', 'failed')")
            self._update("reason = NULL", "reason IS NOT NULL AND status != 'removed'")
            self._set_model(model)

    def compare(self, files: Iterable[FileState | Unlisted]) -> Comparison:
        """Hold a listing of the whole folder against the rows: those gone go offline, those back are restored.

        Nothing is forgotten: an offline row keeps its id, vector and tokens. Opens its transaction when there is a change.
        """
        self._list(files)
        gone = f"status NOT IN ('offline', 'removed') AND NOT {LISTED} AND NOT {UNKNOWN}"
        returned = f"status = 'offline' AND {LISTED_AND_SETTLED}"
        counts = {
            "known": self._count("images WHERE status NOT IN ('offline', 'removed')"),
            "listed": self._count("listing"),
            "returned": self._count(f"images WHERE {returned}"),
            "gone": self._count(f"images WHERE {gone}"),
            "unread": self._count("unread"),
        }
        further = self._count(f"images WHERE {FRAME} AND {LISTED_AND_SETTLED}")
        if counts["gone"] or counts["returned"]:
            with self.transaction():
                self._update("status = 'offline'", gone)
                self._update("status = CASE WHEN reason IS NULL THEN 'ok' ELSE 'failed' END", returned)
        return Comparison(unchanged=counts["listed"] + further - counts["unread"] - counts["returned"], **counts)

    def forget_offline(self) -> int:
        """Delete every image whose file is gone; how many. Opens its transaction."""
        with self.transaction():
            return self._execute("DELETE FROM images WHERE status = 'offline'")

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk. Outside of any transaction; what remains is written to a temporary
        file, and from there to the log beside the collection.
        """
        self._execute("VACUUM")
        self._execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def remove(self, numbers: Sequence[int]) -> int:
        """Images that are to be neither found nor read again: path, id and SHA-256 stay, for `restore` and a moved file. How
        many were not removed before.
        """
        which = json.dumps(list(numbers))
        for table in ("vectors", "tokens"):
            self._execute(f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))", (which,))
        nothing = ", ".join(f"{name} = NULL" for name in ("width", "height", "taken", "reason"))
        condition = "status != 'removed' AND id IN (SELECT value FROM json_each(?))"
        return self._update(f"status = 'removed', metadata = '{{}}', {nothing}", condition, (which,))

    def restore(self, numbers: Sequence[int]) -> int:
        """Removed images that the next run is to read again; how many of these were removed."""
        return self._update(
            "status = 'pending'", "status = 'removed' AND id IN (SELECT value FROM json_each(?))", (json.dumps(list(numbers)),)
        )

    def try_failed_again(self) -> None:
        """Files that could not be read become unread ones. Opens its transaction."""
        with self.transaction():
            self._update("status = 'pending', reason = NULL", "status = 'failed'")

    def unread(self) -> Iterator[FileState]:
        """The files that the last comparison found new or changed, by path."""
        last = 0
        statement = "SELECT rowid, path, size, mtime_ns FROM unread WHERE rowid > ? ORDER BY rowid LIMIT 1000"
        while rows := self._rows(statement, (last,)):
            yield from (FileState(os.fsdecode(path), size, mtime_ns) for _, path, size, mtime_ns in rows)
            last = rows[-1][0]

    def encoded_twin(self, sha256: bytes) -> ImageRow | None:
        """An image of the same content that has a vector; an offline one first, since it may have moved."""
        condition = "WHERE sha256 = ? AND id IN (SELECT id FROM vectors) ORDER BY status != 'offline', id LIMIT 1"
        return next(iter(self._images(condition, (sha256,))), None)

    def removed_twin(self, sha256: bytes) -> ImageRow | None:
        """A removed image of the same content whose file is not there."""
        gone = f"status = 'removed' AND NOT {LISTED} AND NOT {UNKNOWN}"
        return next(iter(self._images(f"WHERE sha256 = ? AND {gone} ORDER BY id LIMIT 1", (sha256,))), None)

    def add(
        self,
        photographs: Sequence[Photograph],
        vectors: Float32[np.ndarray, "images dim"],
        tokens: Float32[np.ndarray, "images regions token_dim"],
    ) -> list[int]:
        """Rows for newly encoded images, one for each; an image at a known path keeps its id and metadata."""
        if not storable(vectors, tokens).all():
            raise DataError("a vector that is not finite, or zero, cannot be stored; pass only rows that are storable")
        numbers = []
        for photograph, vector, regions in zip(photographs, vectors, tokens, strict=True):
            number = self._put_photograph(photograph)
            self._put_blob("vectors", number, vector.astype("<f2").tobytes())
            self._put_blob("tokens", number, token_blob(regions))
            numbers.append(number)
        return numbers

    def add_copy(self, photograph: Photograph, twin: ImageRow) -> int:
        """A row for an image whose content is that of `twin`, with the same vector and tokens."""
        number = self._put_photograph(photograph)
        if number != twin.id:
            for table, blob in (("vectors", "vector"), ("tokens", "tokens")):
                copy = f"INSERT OR REPLACE INTO {table} SELECT ?, {blob}, checksum FROM {table} WHERE id = ?"
                self._execute(copy, (number, twin.id))
        return number

    def put_encoded(
        self,
        file: FileState,
        facts: dict[str, Any],
        vector: Float16[np.ndarray, " dim"],
        values: Int8[np.ndarray, "regions token_dim"],
        scales: Float32[np.ndarray, " regions"],
    ) -> None:
        """A row from an export of this model: `facts` are the columns of images but those of the file, metadata as JSON."""
        number = self._put(file, facts)
        self._execute("UPDATE images SET metadata = ? WHERE id = ?", (facts["metadata"], number))
        self._put_blob("vectors", number, vector.astype("<f2").tobytes())
        self._put_blob("tokens", number, blob_of(values, scales))

    def describe(self, path: str, metadata: dict[str, Any]) -> None:
        """Add to the metadata of the image at a path; one that is not known yet gets a row, and is read by the next run."""
        columns = "path, size, mtime_ns, status, generation"
        add = f"INSERT INTO images ({columns}) VALUES (?, -1, -1, 'pending', ?) ON CONFLICT DO NOTHING"
        self._execute(add, (os.fsencode(path), self.generation))
        self._update("metadata = json_patch(metadata, ?)", "path = ?", (json.dumps(metadata), os.fsencode(path)))

    def move(self, row: ImageRow, file: FileState) -> None:
        """`row` is from now on the file at a path that has no row yet; a removed one stays so."""
        values = (stored_path(file.path, file.frame), file.size, file.mtime_ns, row.id)
        status = "status = iif(status = 'removed', status, 'ok')"
        self._update(f"path = ?, size = ?, mtime_ns = ?, {status}, reason = NULL", "id = ?", values)

    def trade_places(self, row: ImageRow, file: FileState, other: ImageRow) -> None:
        """`row` is from now on the file at the path of `other`, which takes the path that `row` had."""
        here, there = stored_path(other.path, other.frame), stored_path(row.path, row.frame)
        self._update("path = x'00' || path", "id = ?", (other.id,))  # no two rows have a path, not even meanwhile
        self.move(row, file)
        gone = row.status == "offline"
        assert here == stored_path(file.path, file.frame)
        self._update("path = ?, status = iif(?, 'offline', status)", "id = ?", (there, gone, other.id))

    def is_where_it_was(self, row: ImageRow) -> bool:
        """Whether the last listing has the file of `row` as it was when it was read."""
        found = "SELECT 1 FROM listing WHERE path = ? AND size = ? AND mtime_ns = ?"
        return bool(self._rows(found, (os.fsencode(row.path), row.size, row.mtime_ns)))

    def mark_failed(self, file: FileState, reason: str) -> None:
        """A row for a file that cannot be read or encoded, and why; what was known of an earlier content goes."""
        number = self._put(file, {"status": "failed", "reason": reason})
        self._execute("DELETE FROM vectors WHERE id = ?", (number,))
        self._execute("DELETE FROM tokens WHERE id = ?", (number,))

    def _list(self, files: Iterable[FileState | Unlisted]) -> None:
        """Tables of this connection's own: the listing, what could not be listed, and what has to be read."""
        for table in ("listing", "unlisted", "unread"):
            self._execute(f"DROP TABLE IF EXISTS temp.{table}")
        self._execute("CREATE TEMP TABLE listing (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID")
        self._execute("CREATE TEMP TABLE unlisted (path BLOB PRIMARY KEY) WITHOUT ROWID")
        unlisted: list[tuple[bytes]] = []

        def rows() -> Iterator[tuple[bytes, int, int]]:
            for file in files:
                if isinstance(file, Unlisted):
                    unlisted.append((os.fsencode(file.path),))
                else:
                    yield os.fsencode(file.path), file.size, file.mtime_ns

        with failures_named(self.path):
            self._connection.execute("BEGIN")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO listing VALUES (?, ?, ?)", rows())
                self._connection.executemany("INSERT OR REPLACE INTO unlisted VALUES (?)", unlisted)
            finally:
                self._connection.commit()
        self._execute(
            "CREATE TEMP TABLE unread AS SELECT listing.* FROM listing LEFT JOIN images USING (path) "
            f"WHERE NOT coalesce({SETTLED}, FALSE) {f'OR {FURTHER_PENDING}' if self.frames > 1 else ''} ORDER BY path"
        )

    def _put_photograph(self, photograph: Photograph) -> int:
        facts = {name: getattr(photograph, name) for name in ("sha256", "width", "height", "taken")}
        number = self._put(photograph.file, facts | {"status": "ok"})
        if photograph.metadata:
            news = any(value is not None for value in photograph.metadata.values())
            patch = "UPDATE images SET metadata = json_patch(metadata, ?) WHERE id = ? AND (? OR metadata != '{}')"
            self._execute(patch, (json.dumps(photograph.metadata), number, news))
        return number

    def _put(self, file: FileState, values: dict[str, object]) -> int:
        """The id of the row at the file's path, new or overwritten; columns left out become NULL, metadata stays."""
        columns = ("size", "mtime_ns", "sha256", "width", "height", "taken", "status", "reason", "generation")
        values = values | {"size": file.size, "mtime_ns": file.mtime_ns, "generation": self.generation}
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        overwrite = ", ".join(f"{column} = excluded.{column}" for column in columns)
        statement = (
            f"INSERT INTO images (path, {names}) VALUES (?, {marks}) ON CONFLICT (path) DO UPDATE SET {overwrite} RETURNING id"
        )
        return int(self._rows(statement, (stored_path(file.path, file.frame), *map(values.get, columns)))[0][0])

    def _put_blob(self, table: str, number: int, blob: bytes) -> None:
        self._execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", (number, blob, zlib.crc32(blob)))

    def _update(self, changes: str, condition: str, values: tuple[object, ...] = ()) -> int:
        return self._execute(f"UPDATE images SET generation = {self.generation}, {changes} WHERE {condition}", values)

    def _count(self, source: str) -> int:
        return int(self._rows(f"SELECT count(*) FROM {source}")[0][0])

    def _set_model(self, model: ModelFolder) -> None:
        for key, value in {
            "model_name": model.name,
            "model_parts": json.dumps(model.parts),
            "model_stamp": model.stamp,
            "token_dim": model.config.heads.encoded_token_dim,
        }.items():
            self._set_meta(key, value)

    def _set_meta(self, key: str, value: object) -> None:
        self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _prepare(self, root: Path) -> None:
        """The tables of a new file, or a check of those that are there; and the folder."""
        if self._rows("PRAGMA page_count") == [(0,)] or not self._rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            self._execute("PRAGMA journal_mode = WAL")
            self._execute("BEGIN IMMEDIATE")
            create_tables(self._execute)
            self._set_meta("schema_version", SCHEMA_VERSION)
            self._set_meta("generation", 0)
            self._set_meta("root", root_to_store(self.path, root))
            self._set_meta("seal", seal(self._rows))
            self._execute("COMMIT")
        self._check_format()
        self._keep_checksums()
        if not has_date_indexes(self._rows):
            with self.transaction():
                create_date_indexes(self._execute)
        if self.root != root.resolve() and not self.root.exists() and self._holds_images_of(root):
            with self.transaction():
                self._set_meta("root", root_to_store(self.path, root))
        self.check_root(root)

    def _keep_checksums(self) -> None:
        """From here on; a file of an older format is brought to the present one first."""
        version = self._meta("schema_version")
        with failures_named(self.path):
            if version == SCHEMA_VERSION:
                keep_checksums(self._connection)
                return
        self._execute("PRAGMA foreign_keys = OFF")  # the table that others refer to is replaced
        with self.transaction():
            migrate(self._execute, version)
            with failures_named(self.path):
                keep_checksums(self._connection)
            self._execute("UPDATE images SET generation = generation")
        self._execute("PRAGMA foreign_keys = ON")

    def _holds_images_of(self, root: Path) -> bool:
        """Whether that folder may be the one that these images were in: some known file is there, or none is known."""
        paths = self._rows("SELECT path FROM images ORDER BY id LIMIT ?", (ROOT_SAMPLE,))
        return not paths or any(is_there(root / file_and_frame(path)[0]) for (path,) in paths)


def storable(
    vectors: Float32[np.ndarray, "images dim"], tokens: Float32[np.ndarray, "images regions token_dim"]
) -> Bool[np.ndarray, " images"]:
    """Which images have a vector with a direction and finite tokens, in the precision that they are stored in."""
    with np.errstate(over="ignore"):
        halves = vectors.astype("<f2")
    finite = np.isfinite(halves).all(axis=1) & np.isfinite(tokens).all(axis=(1, 2))
    usable: Bool[np.ndarray, " images"] = finite & (halves != 0).any(axis=1)
    return usable


def root_to_store(path: Path, root: Path) -> bytes:
    """The way from the collection at `path` to a folder that contains it, else the folder's absolute path."""
    place, folder = path.parent.resolve(), root.resolve()
    return os.fsencode(os.path.relpath(folder, place) if place.is_relative_to(folder) else folder)


def _writing_connection(path: Path) -> sqlite3.Connection:
    connection = None
    try:
        connection = connect(path, "rwc")
        connection.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut, not only a crash
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        return connection
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        other = not isinstance(error, sqlite3.OperationalError)
        kind = "is not a collection of aladin" if other else "cannot be written"
        repair = ", or if it was one, run `aladin repair` on its folder" if other else ""
        raise DataError(f"{path} {kind} ({error}); name another place with --collection{repair}") from None
