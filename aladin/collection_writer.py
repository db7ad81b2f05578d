"""Writing a collection: rows for images read, moved, gone or unreadable. What a finished transaction holds is on the disk."""

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from aladin.collection import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, Collection, ImageRow, connect, failures_named
from aladin.errors import DataError
from aladin.model_folder import ModelFolder
from aladin.quantized import token_blob
from aladin.writer_lock import WriterLock

# An image needs no reading when its file is as it was and it has a vector, or a reason for having none.
SETTLED = """images.size = listing.size AND images.mtime_ns = listing.mtime_ns AND (
    images.reason IS NOT NULL OR EXISTS (SELECT 1 FROM vectors WHERE vectors.id = images.id))"""


@dataclass(frozen=True)
class FileState:
    """A file as the folder lists it; one whose size and time are as before is taken to be unchanged."""

    path: str  # relative to the root, as in ImageRow
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Photograph:
    """What a decoded file says of itself."""

    file: FileState
    sha256: bytes
    width: int  # px, upright
    height: int
    taken: str | None  # as in ImageRow


@dataclass(frozen=True)
class Comparison:
    """A folder's listing against the rows: how many files are as they were, back, gone, and to be read."""

    unchanged: int
    returned: int
    gone: int
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
        lock = WriterLock(path.with_name(path.name + ".lock"))
        try:
            collection = cls(path, _writing_connection(path), lock)
            collection._prepare(root)
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

    def rebuild(self, model: ModelFolder) -> None:
        """Forget every vector, token and failure, so that all images are read again, by `model`. Opens its transaction."""
        with self.transaction():
            self._execute("DELETE FROM vectors")
            self._execute("DELETE FROM tokens")
            self._execute("UPDATE images SET status = 'pending', reason = NULL WHERE status != 'offline'")
            self._execute("UPDATE images SET reason = NULL")
            self._set_model(model)

    def compare(self, files: Iterable[FileState]) -> Comparison:
        """Hold a listing of the whole folder against the rows: those gone go offline, those back are restored.

        Nothing is forgotten: an offline row keeps its id, vector and tokens. Opens its transaction when there is a change.
        """
        self._list(files)
        gone = "status != 'offline' AND NOT EXISTS (SELECT 1 FROM listing WHERE listing.path = images.path)"
        returned = f"status = 'offline' AND EXISTS (SELECT 1 FROM listing WHERE listing.path = images.path AND {SETTLED})"
        number_gone = self._count(f"images WHERE {gone}")
        number_returned = self._count(f"images WHERE {returned}")
        number_unread = self._count("unread")
        unchanged = self._count("listing") - number_unread - number_returned
        if number_gone or number_returned:
            with self.transaction():
                self._update("status = 'offline'", gone)
                self._update("status = CASE WHEN reason IS NULL THEN 'ok' ELSE 'failed' END", returned)
        return Comparison(unchanged, number_returned, number_gone, number_unread)

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

    def add(
        self,
        photographs: Sequence[Photograph],
        vectors: Float32[np.ndarray, "images dim"],
        tokens: Float32[np.ndarray, "images regions token_dim"],
    ) -> list[int]:
        """Rows for newly encoded images, one for each; an image at a known path keeps its id and metadata."""
        if not (np.isfinite(vectors).all() and np.isfinite(tokens).all() and (vectors != 0).any(axis=1).all()):
            raise DataError("a vector that is not finite, or zero, cannot be stored; pass only usable rows of EncodedImages")
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

    def move(self, row: ImageRow, file: FileState) -> None:
        """`row` is from now on the file at a path that has no row yet."""
        values = (os.fsencode(file.path), file.size, file.mtime_ns, row.id)
        self._update("path = ?, size = ?, mtime_ns = ?, status = 'ok', reason = NULL", "id = ?", values)

    def mark_failed(self, file: FileState, reason: str) -> None:
        """A row for a file that cannot be read or encoded, and why; what was known of an earlier content goes."""
        number = self._put(file, {"status": "failed", "reason": reason})
        self._execute("DELETE FROM vectors WHERE id = ?", (number,))
        self._execute("DELETE FROM tokens WHERE id = ?", (number,))

    def _list(self, files: Iterable[FileState]) -> None:
        """Two tables of this connection's own: the listing, and the part of it that has to be read."""
        self._execute("DROP TABLE IF EXISTS temp.listing")
        self._execute("DROP TABLE IF EXISTS temp.unread")
        self._execute("CREATE TEMP TABLE listing (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID")
        rows = ((os.fsencode(file.path), file.size, file.mtime_ns) for file in files)
        with failures_named(self.path):
            self._connection.execute("BEGIN")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO listing VALUES (?, ?, ?)", rows)
            finally:
                self._connection.commit()
        self._execute(
            "CREATE TEMP TABLE unread AS SELECT listing.* FROM listing LEFT JOIN images USING (path) "
            f"WHERE NOT coalesce({SETTLED}, FALSE) ORDER BY path"
        )

    def _put_photograph(self, photograph: Photograph) -> int:
        facts = {name: getattr(photograph, name) for name in ("sha256", "width", "height", "taken")}
        return self._put(photograph.file, facts | {"status": "ok"})

    def _put(self, file: FileState, values: dict[str, object]) -> int:
        """The id of the row at the file's path, new or overwritten; columns left out become NULL, metadata stays."""
        columns = ("size", "mtime_ns", "sha256", "width", "height", "taken", "status", "reason", "generation")
        values = values | {"size": file.size, "mtime_ns": file.mtime_ns, "generation": self.generation}
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        overwrite = ", ".join(f"{column} = excluded.{column}" for column in columns)
        statement = (
            f"INSERT INTO images (path, {names}) VALUES (?, {marks}) ON CONFLICT (path) DO UPDATE SET {overwrite} RETURNING id"
        )
        return int(self._rows(statement, (os.fsencode(file.path), *map(values.get, columns)))[0][0])

    def _put_blob(self, table: str, number: int, blob: bytes) -> None:
        self._execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", (number, blob, zlib.crc32(blob)))

    def _update(self, changes: str, condition: str, values: tuple[object, ...] = ()) -> None:
        self._execute(f"UPDATE images SET generation = {self.generation}, {changes} WHERE {condition}", values)

    def _count(self, source: str) -> int:
        return int(self._rows(f"SELECT count(*) FROM {source}")[0][0])

    def _set_model(self, model: ModelFolder) -> None:
        for key, value in {
            "model_name": model.name,
            "model_parts": json.dumps(model.parts),
            "model_stamp": model.stamp,
            "token_dim": model.config.heads.token_dim,
        }.items():
            self._set_meta(key, value)

    def _set_meta(self, key: str, value: object) -> None:
        self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _prepare(self, root: Path) -> None:
        """The tables of a new file, or a check of those that are there; and the folder."""
        if self._rows("PRAGMA page_count") == [(0,)] or not self._rows("SELECT 1 FROM sqlite_master LIMIT 1"):
            self._execute("PRAGMA journal_mode = WAL")
            self._execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";")[:-1]:
                self._execute(statement)
            self._execute(f"PRAGMA application_id = {APPLICATION_ID}")
            for key, value in {"schema_version": SCHEMA_VERSION, "generation": 0, "root": self._root_to_store(root)}.items():
                self._set_meta(key, value)
            self._execute("COMMIT")
        self._check_format()
        if self.root != root.resolve() and not self.root.exists():
            with self.transaction():
                self._set_meta("root", self._root_to_store(root))
        self.check_root(root)

    def _root_to_store(self, root: Path) -> bytes:
        """The way from the collection to a folder that contains it, else the folder's absolute path."""
        place, folder = self.path.parent.resolve(), root.resolve()
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
        kind = "cannot be written" if isinstance(error, sqlite3.OperationalError) else "is not a collection of aladin"
        raise DataError(f"{path} {kind} ({error}); name another place with --collection") from None
