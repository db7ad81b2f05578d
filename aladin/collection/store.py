"""A collection of encoded images: one SQLite file, the only truth; everything else about a folder can be made from it again.

Here it is opened and read; `collection_writer` adds to it. Readers see a committed state whatever a writer is doing.
"""

import dataclasses
import json
import os
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float16, Int64

from aladin.collection.database import Database, reading_connection
from aladin.collection.formats import OlderDatabase, check_format
from aladin.collection.preparing import root_of
from aladin.collection.schema import SCHEMA_VERSION
from aladin.collection.tokens import QuantizedTokens, tokens_from_blobs
from aladin.encoder.folder import ModelFolder, fingerprint_of
from aladin.errors import DataError, IndexMismatch

BLOCK_ROWS = 65_536  # vectors read at once: 50 MB at 384 dimensions
# failed: cannot be read; offline: the file is gone; pending: known, but not encoded by the present model; removed: not wanted
Status = Literal["ok", "failed", "offline", "pending", "removed"]
Store = TypeVar("Store", bound="Collection")


@dataclass(frozen=True)
class ImageRow:
    """What the collection knows of one image file; `reason` says why a failed one could not be read."""

    id: int
    path: str  # of the file, from the root, with '/'; bytes that are not UTF-8 as surrogates (os.fsencode gives them back)
    size: int  # bytes
    mtime_ns: int
    sha256: bytes | None
    width: int | None  # px, upright
    height: int | None
    taken: str | None  # local time of the camera, as 2026-05-01T12:30:00
    metadata: dict[str, Any]
    status: Status
    reason: str | None
    generation: int
    frame: int = 0  # which of the file's pictures, where it holds several and more than the first were asked for


def default_file(folder: Path) -> Path:
    """Where the collection of a folder is kept unless the user says otherwise."""
    return folder / ".aladin" / "collection.sqlite"


class Collection:
    """The images of one folder, their vectors and tokens. Open it with `Collection.open(path)`, close it or use `with`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.path = database.path

    @classmethod
    def open(cls: type[Store], path: Path) -> Store:
        """The collection stored at `path`, for reading; also from a folder or a medium that cannot be written."""
        if not path.is_file():
            raise DataError(f"there is no collection at {path}; make one with `aladin index FOLDER`")
        database = Database(path, reading_connection(path))
        try:
            version = check_format(database)
            return cls(database if version == SCHEMA_VERSION else OlderDatabase(path, database.connection))
        except BaseException:
            database.close()  # now, not when it is collected: it holds locks
            raise

    def close(self) -> None:
        self.database.close()

    def __enter__(self: Store) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many images can be found."""
        return self.counts().get("ok", 0)

    def counts(self) -> dict[str, int]:
        """How many images there are of each status that occurs."""
        return dict(self.database.rows("SELECT status, count(*) FROM images GROUP BY status"))

    @property
    def root(self) -> Path:
        """The folder whose images these are. One that contains its collection may be moved with it."""
        return root_of(self.database)

    @property
    def generation(self) -> int:
        """A number that grows with every change; equal numbers of one collection mean equal contents."""
        return int(self.database.setting("generation"))

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the model whose vectors these are; None before the first image."""
        parts = self.database.setting("model_parts")
        return fingerprint_of(json.loads(parts)) if parts else None

    @property
    def model_name(self) -> str | None:
        """The name of the folder that this model had; None before the first image."""
        name: str | None = self.database.setting("model_name")
        return name

    @property
    def model_parts(self) -> dict[str, str]:
        """What identifies the model whose vectors these are, part by part; empty before the first image."""
        parts: dict[str, str] = json.loads(self.database.setting("model_parts") or "{}")
        return parts

    @property
    def format(self) -> int:
        return int(self.database.setting("schema_version"))

    @property
    def frames(self) -> int:
        """How many pictures at most are read of a file that holds several."""
        return int(self.database.setting("frames") or 1)

    def failure_counts(self) -> dict[str, int]:
        """How many files could not be read, by reason, the most frequent first; details in brackets count as one reason."""
        reasons = (
            "SELECT CASE instr(reason, ' (') WHEN 0 THEN reason ELSE substr(reason, 1, instr(reason, ' (') - 1) END AS kind"
        )
        return dict(
            self.database.rows(
                f"{reasons}, count(*) FROM images WHERE status = 'failed' GROUP BY kind ORDER BY count(*) DESC, kind"
            )
        )

    def unused_bytes(self) -> int:
        """Of the file's size, the part that is free for new rows."""
        return int(self.database.rows("PRAGMA freelist_count")[0][0]) * int(self.database.rows("PRAGMA page_size")[0][0])

    def ids_below(self, path: str) -> list[int]:
        """The ids of the image at a path relative to the root, with its further pictures, or of all images below it; "." is the
        root.
        """
        if path == ".":
            return [number for (number,) in self.database.rows("SELECT id FROM images ORDER BY id")]
        exact = os.fsencode(path)
        # '0' is the character after '/', so this is a range of the index of paths.
        condition = "path = ? OR (path > ? AND path < ?)"
        return [
            n for (n,) in self.database.rows(f"SELECT id FROM images WHERE {condition}", (exact, exact + b"/", exact + b"0"))
        ]

    def has_folder(self, path: str) -> bool:
        """Whether some image, of any state, lies below the folder at a path relative to the root; "." is the root."""
        below = os.fsencode(posixpath.normpath(path).strip("/"))
        return below == b"." or bool(
            self.database.rows("SELECT 1 FROM images WHERE path > ? AND path < ? LIMIT 1", (below + b"/", below + b"0"))
        )

    def check_root(self, folder: Path) -> None:
        """DataError unless these are the images of `folder`."""
        if self.root != folder.resolve():
            raise DataError(f"{self.path} holds the images of {self.root}, not of {folder}; give another --collection")

    def check_model(self, model: ModelFolder) -> None:
        """IndexMismatch unless the vectors are those of `model`, naming both and where they differ."""
        stored = self.database.setting("model_parts")
        if stored is None or self.database.setting("model_stamp") == model.stamp:
            return
        parts: dict[str, str] = json.loads(stored)
        different = sorted(name for name in parts if parts[name] != model.parts.get(name))
        if not different:
            return
        raise IndexMismatch(
            f"{self.path} was built with model {self.model_name} {fingerprint_of(parts)[:12]}, this is {model.name} "
            f"{model.fingerprint[:12]} ({', '.join(different)} differ); give the first with --model, "
            "or run `aladin index FOLDER --rebuild`"
        )

    def image(self, number: int) -> ImageRow:
        """The image with that id; KeyError when there is none."""
        found = self._images("WHERE id = ?", (number,))
        if not found:
            raise KeyError(number)
        return found[0]

    def image_at(self, path: str, frame: int = 0) -> ImageRow | None:
        """The image at a path relative to the root, or a further picture of that file, if there is one."""
        return next(iter(self._images("WHERE path = ? AND frame = ?", (os.fsencode(path), frame))), None)

    def images(self, status: Status | None = None) -> Iterator[ImageRow]:
        """All images, or those of one status, by id."""
        last = 0
        while rows := self._images("WHERE id > ? AND (? IS NULL OR status = ?) ORDER BY id LIMIT 1000", (last, status, status)):
            yield from rows
            last = rows[-1].id

    def images_of(self, numbers: Sequence[int]) -> list[ImageRow]:
        """The images with these ids, in the order asked."""
        rows = self._images("WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(numbers)),))
        by_id = {row.id: row for row in rows}
        return [by_id[number] for number in numbers]

    def vector_blocks(self) -> Iterator[tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]]:
        """Ids and vectors of all images that can be found, by id, a block at a time."""
        statement = (
            "SELECT id, vector, vectors.checksum FROM vectors JOIN images USING (id) "
            "WHERE id > ? AND status = 'ok' ORDER BY id LIMIT ?"
        )
        last = 0
        while rows := self.database.rows(statement, (last, BLOCK_ROWS)):
            blobs = b"".join(self._checked(*row) for row in rows)
            yield np.array([row[0] for row in rows]), np.frombuffer(blobs, dtype="<f2").reshape(len(rows), -1)
            last = rows[-1][0]

    def tokens(self, numbers: Sequence[int]) -> QuantizedTokens:
        """The region tokens of the images with these ids, in the order asked."""
        statement = "SELECT id, tokens, checksum FROM tokens WHERE id IN (SELECT value FROM json_each(?))"
        blobs = {row[0]: self._checked(*row) for row in self.database.rows(statement, (json.dumps(list(numbers)),))}
        missing = [number for number in numbers if number not in blobs]
        if missing:
            raise self._damaged(missing[0])
        return tokens_from_blobs([blobs[number] for number in numbers], self.token_dim)

    def encoded_ids(self) -> list[int]:
        """The ids of all images that have a vector, those whose files are gone included."""
        return [number for (number,) in self.database.rows("SELECT id FROM vectors ORDER BY id")]

    def vectors_of(self, numbers: Sequence[int]) -> Float16[np.ndarray, "rows dim"]:
        """The vectors of the images with these ids, in the order asked."""
        statement = "SELECT id, vector, checksum FROM vectors WHERE id IN (SELECT value FROM json_each(?))"
        blobs = {row[0]: self._checked(*row) for row in self.database.rows(statement, (json.dumps(list(numbers)),))}
        return np.frombuffer(b"".join(blobs[number] for number in numbers), dtype="<f2").reshape(len(numbers), -1)

    @property
    def token_dim(self) -> int:
        return int(self.database.setting("token_dim"))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within it every read sees the same committed state."""
        self.database.execute("BEGIN")
        try:
            yield
        finally:
            self.database.execute("COMMIT")

    def ids_where(self, condition: str, values: Sequence[Any]) -> Int64[np.ndarray, " rows"]:
        """The ids, rising, of the images that can be found and meet an SQL condition on the columns of images."""
        statement = f"SELECT id FROM images WHERE status = 'ok' AND ({condition}) ORDER BY id"
        return np.array([number for (number,) in self.database.rows(statement, values)], dtype=np.int64)

    def select(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of an SQL query on the tables of `stored_format`, whose layout may change with the format's number.

        For what no method here answers, such as how the server leafs through a collection. Values go in by question marks. A
        collection opened for reading cannot be changed by it; failures are sentences as everywhere.
        """
        return self.database.rows(query, values)

    def ids_changed_since(self, generation: int) -> Int64[np.ndarray, " rows"]:
        """The ids, rising, of all images whose row is newer than that generation, those that cannot be found included."""
        rows = self.database.rows("SELECT id FROM images WHERE generation > ? ORDER BY id", (generation,))
        return np.array([number for (number,) in rows], dtype=np.int64)

    def findable_vectors(
        self, numbers: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]:
        """Those of the images with these ids that can be found, by id, and their vectors."""
        return self._vectors("vectors JOIN images USING (id)", "status = 'ok'", numbers)

    def stored_vectors(
        self, numbers: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]:
        """Those of the images with these ids that have a vector, by id, and their vectors."""
        return self._vectors("vectors", "TRUE", numbers)

    def _vectors(
        self, source: str, condition: str, numbers: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]:
        statement = (
            f"SELECT id, vector, vectors.checksum FROM {source} "
            f"WHERE id IN (SELECT value FROM json_each(?)) AND {condition} ORDER BY id"
        )
        rows = self.database.rows(statement, (json.dumps(numbers.tolist()),))
        blobs = b"".join(self._checked(*row) for row in rows)
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        return ids, np.frombuffer(blobs, dtype="<f2").reshape(len(rows), -1) if rows else np.empty((0, 0), dtype="<f2")

    def _images(self, condition: str, values: tuple[Any, ...]) -> list[ImageRow]:
        columns = [column.name for column in dataclasses.fields(ImageRow)]
        found = self.database.rows(f"SELECT {', '.join(columns)} FROM images {condition}", values)
        rows = []
        for row in (dict(zip(columns, values, strict=True)) for values in found):
            rows.append(ImageRow(**row | {"path": os.fsdecode(row["path"]), "metadata": json.loads(row["metadata"])}))
        return rows

    def _checked(self, number: int, blob: bytes, checksum: int) -> bytes:
        if zlib.crc32(blob) != checksum:
            raise self._damaged(number)
        return blob

    def _damaged(self, number: int) -> DataError:
        return DataError(f"what {self.path} stores of {self.image(number).path!a} is damaged; run `aladin repair FOLDER`")
