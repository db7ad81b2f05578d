"""A collection of encoded images: one SQLite file, the only truth; everything else about a folder can be made from it again.

Here it is opened and read, as the `Store` that searches and the server use; `writer` adds to it. Readers see a committed state
whatever a writer is doing.
"""

import dataclasses
import json
import os
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Float32, Int64

from aladin.collection.conditions import Condition
from aladin.collection.database import Database, reading_connection
from aladin.collection.formats import OlderDatabase, check_format
from aladin.collection.leafing import facets, leaf
from aladin.collection.nearest import NearestImages, VectorSource
from aladin.collection.preparing import root_of
from aladin.collection.schema import SCHEMA_VERSION
from aladin.collection.sql_conditions import compiled
from aladin.collection.store import Facets, ImageRow, Nearest, Order, Page, Position, Span, Status, Store
from aladin.collection.tokens import QuantizedTokens, tokens_from_blobs
from aladin.encoder.folder import PRESENT, ModelFolder, fingerprint_of
from aladin.errors import DataError, IndexMismatch
from aladin.progress import SILENT, Progress

BLOCK_ROWS = 65_536  # vectors read at once: 50 MB at 384 dimensions


class Collection(Store, VectorSource):
    """The images of one folder, their vectors and tokens. Open it with `Collection.open(path)`, close it or use `with`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._path = database.path
        self._nearest: NearestImages | None = None

    @classmethod
    def open(cls, path: Path) -> "Collection":
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

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def close(self) -> None:
        self.database.close()

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

    def cropped_share(self) -> float | None:
        """What a model that crops pictures to a square leaves out of them on average; None where it sees all of them."""
        if self.model_parts.get("[preprocessing] fit") != "crop":
            return None
        left_out = "1 - 1.0 * min(width, height) / max(width, height)"
        ((share,),) = self.database.rows(f"SELECT avg({left_out}) FROM images WHERE status = 'ok' AND width > 0 AND height > 0")
        return None if share is None else float(share)

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
            return [image_id for (image_id,) in self.database.rows("SELECT id FROM images ORDER BY id")]
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
        different = sorted(PRESENT.get(name, name) for name in parts if parts[name] != model.parts.get(name))
        if not different:
            return
        raise IndexMismatch(
            f"{self.path} was built with model {self.model_name} {fingerprint_of(parts)[:12]}, this is {model.name} "
            f"{model.fingerprint[:12]} ({', '.join(different)} differ); give the first with --model, "
            "or run `aladin index FOLDER --rebuild`"
        )

    def row(self, image_id: int) -> ImageRow:
        """The image with that id; KeyError when there is none."""
        found = self._images("WHERE id = ?", (image_id,))
        if not found:
            raise KeyError(image_id)
        return found[0]

    def row_at(self, path: str, frame: int = 0) -> ImageRow | None:
        """The image at a path relative to the root, or a further picture of that file, if there is one."""
        return next(iter(self._images("WHERE path = ? AND frame = ?", (os.fsencode(path), frame))), None)

    def images(self, status: Status | None = None) -> Iterator[ImageRow]:
        """All images, or those of one status, by id."""
        last = 0
        while rows := self._images("WHERE id > ? AND (? IS NULL OR status = ?) ORDER BY id LIMIT 1000", (last, status, status)):
            yield from rows
            last = rows[-1].id

    def rows(self, ids: Sequence[int]) -> list[ImageRow]:
        """The images with these ids, in the order asked."""
        rows = self._images("WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))
        by_id = {row.id: row for row in rows}
        return [by_id[image_id] for image_id in ids]

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

    def tokens(self, ids: Sequence[int]) -> QuantizedTokens:
        """The region tokens of the images with these ids, in the order asked."""
        statement = "SELECT id, tokens, checksum FROM tokens WHERE id IN (SELECT value FROM json_each(?))"
        blobs = {row[0]: self._checked(*row) for row in self.database.rows(statement, (json.dumps(list(ids)),))}
        missing = [image_id for image_id in ids if image_id not in blobs]
        if missing:
            raise self._damaged(missing[0])
        return tokens_from_blobs([blobs[image_id] for image_id in ids], self.token_dim)

    def encoded_ids(self) -> list[int]:
        """The ids of all images that have a vector, those whose files are gone included."""
        return [image_id for (image_id,) in self.database.rows("SELECT id FROM vectors ORDER BY id")]

    def vectors_of(self, ids: Sequence[int]) -> Float16[np.ndarray, "rows dim"]:
        """The vectors of the images with these ids, in the order asked."""
        statement = "SELECT id, vector, checksum FROM vectors WHERE id IN (SELECT value FROM json_each(?))"
        blobs = {row[0]: self._checked(*row) for row in self.database.rows(statement, (json.dumps(list(ids)),))}
        return np.frombuffer(b"".join(blobs[image_id] for image_id in ids), dtype="<f2").reshape(len(ids), -1)

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

    def nearest(
        self,
        vector: Float32[np.ndarray, " dim"],
        count: int,
        condition: Condition | None = None,
        excluded: frozenset[int] = frozenset(),
        progress: Progress = SILENT,
    ) -> Nearest:
        """The `count` nearest images that meet the condition, none of them excluded, within a snapshot. Ties go by id.

        `progress`, of the first call, counts vectors while the cache of a large collection grows.
        """
        if self._nearest is None:
            self._nearest = NearestImages(self, progress)
        allowed = None if condition is None else self.ids_meeting(condition)
        return self._nearest.find(vector, count, allowed, excluded)

    def ids_meeting(self, condition: Condition | None) -> Int64[np.ndarray, " rows"]:
        """The ids, rising, of the images that can be found and meet a condition."""
        sql, values = compiled(condition)
        statement = f"SELECT id FROM images WHERE status = 'ok' AND ({sql}) ORDER BY id"
        return np.array([image_id for (image_id,) in self.database.rows(statement, values)], dtype=np.int64)

    def sample(self, count: int) -> Int64[np.ndarray, " sampled"]:
        """The ids, rising, of at most so many images, evenly spread over all."""
        ids = self.ids_meeting(None)
        return ids[np.linspace(0, len(ids) - 1, min(len(ids), count)).astype(np.int64)]

    def page(
        self,
        after: Position | None,
        count: int,
        span: Span = Span(),  # noqa: B008, it is frozen
        condition: Condition | None = None,
        order: Order = "newest first",
    ) -> Page:
        """The next `count` images by date, after the one with that date and id (see `leafing`)."""
        found = leaf(self.database, after, span, condition, count + 1, order)
        rows = self.rows([image_id for _, image_id in found[:count]])
        return Page(tuple(rows), found[count - 1] if len(found) > count else None)

    def facets(self) -> Facets:
        """The folders and days that there are."""
        return facets(self.database)

    def ids_changed_since(self, generation: int) -> Int64[np.ndarray, " rows"]:
        """The ids, rising, of all images whose row is newer than that generation, those that cannot be found included."""
        rows = self.database.rows("SELECT id FROM images WHERE generation > ? ORDER BY id", (generation,))
        return np.array([image_id for (image_id,) in rows], dtype=np.int64)

    def findable_vectors(
        self, asked: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]:
        """Those of the images with these ids that can be found, by id, and their vectors."""
        return self._vectors("vectors JOIN images USING (id)", "status = 'ok'", asked)

    def stored_vectors(
        self, asked: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]:
        """Those of the images with these ids that have a vector, by id, and their vectors."""
        return self._vectors("vectors", "TRUE", asked)

    def _vectors(
        self, source: str, condition: str, asked: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]:
        statement = (
            f"SELECT id, vector, vectors.checksum FROM {source} "
            f"WHERE id IN (SELECT value FROM json_each(?)) AND {condition} ORDER BY id"
        )
        rows = self.database.rows(statement, (json.dumps(asked.tolist()),))
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

    def _checked(self, image_id: int, blob: bytes, checksum: int) -> bytes:
        if zlib.crc32(blob) != checksum:
            raise self._damaged(image_id)
        return blob

    def _damaged(self, image_id: int) -> DataError:
        return DataError(f"what {self.path} stores of {self.row(image_id).path!a} is damaged; run `aladin repair FOLDER`")
