"""Writing a collection: rows for images read, moved, gone or unreadable. What a finished transaction holds is on the disk."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int8

from aladin.collection.database import Database, writing_connection
from aladin.collection.lock import WriterLock
from aladin.collection.preparing import prepare
from aladin.collection.schema import date_from
from aladin.collection.sqlite import Collection
from aladin.collection.store import ImageRow
from aladin.collection.tokens import blob_of, token_blob
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError
from aladin.pictures.listing import FileState as FileState
from aladin.pictures.photographs import Photograph as Photograph

# What a row takes from a file that was read, besides its path and frame.
OVERWRITTEN = ("size", "mtime_ns", "sha256", "width", "height", "taken", "date", "status", "reason", "generation")
WRITTEN_DATE = date_from(":taken", ":mtime_ns")
GIVEN_IDS = "id IN (SELECT value FROM json_each(?))"


class CollectionWriter(Collection):
    """A collection opened for writing: the only one at a time, whoever else reads. All methods but `transaction` want one."""

    def __init__(self, database: Database, lock: WriterLock) -> None:
        super().__init__(database)
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
            database = Database(path, writing_connection(path))
            try:
                prepare(database, root)
                collection = cls(database, lock)
                collection.check_root(root)
            except BaseException:
                database.close()
                raise
        except BaseException:
            lock.release()
            raise
        return collection

    def close(self) -> None:
        super().close()
        self._lock.release()

    def transaction(self) -> AbstractContextManager[None]:
        """All changes made within it, or none; they are on the disk when it ends, and the generation is one higher."""
        return self.database.transaction()

    def use_model(self, model: ModelFolder) -> None:
        """Take the vectors of `model` from here on: IndexMismatch when those of another are stored. Opens its transaction."""
        self.check_model(model)
        if self.database.setting("model_stamp") != model.stamp:
            with self.transaction():
                self._set_model(model)

    def use_device(self) -> bool:
        """Remember the disk that the folder is on; whether it was on another before. Opens its transaction when it is news."""
        device, before = self.root.stat().st_dev, self.database.setting("device")
        if device == before:
            return False
        with self.transaction():
            self.database.set("device", device)
        return before is not None

    def use_frames(self, most: int) -> None:
        """Read at most so many pictures of a file that holds several, from here on. Opens its transaction when that is news.

        What has to be read again for that is unread at the next comparison; it is not encoded again.
        """
        before = self.frames
        if most == before:
            return
        with self.transaction():
            self.database.set("frames", most)
            if most == 1:
                self.database.execute("DELETE FROM images WHERE frame > 0")
            # A file that was read for several pictures and has no further one has none now; else any may have some.
            several = "path IN (SELECT path FROM images WHERE frame > 0)" if before > 1 else "TRUE"
            if most > 1:
                self.change("mtime_ns = -1", f"status IN ('ok', 'offline') AND {several}")

    def keep_frames(self, path: str, frames: Sequence[int]) -> None:
        """Of the further pictures of the file at a path, the rows of these alone."""
        others = "path = ? AND frame > 0 AND frame NOT IN (SELECT value FROM json_each(?))"
        self.database.execute(f"DELETE FROM images WHERE {others}", (os.fsencode(path), json.dumps(list(frames))))

    def rebuild(self, model: ModelFolder) -> None:
        """Forget every vector, token and failure, so that all images are read again, by `model`. Opens its transaction."""
        with self.transaction():
            self.database.execute("DELETE FROM vectors")
            self.database.execute("DELETE FROM tokens")
            self.change("status = 'pending', reason = NULL", "status IN ('ok', 'failed')")
            self.change("reason = NULL", "reason IS NOT NULL AND status != 'removed'")
            self._set_model(model)

    def change(self, changes: str, condition: str, values: tuple[object, ...] = ()) -> int:
        """Change rows of images, for the modules of this room; how many. Such rows have the present generation then."""
        return self.database.execute(f"UPDATE images SET generation = {self.generation}, {changes} WHERE {condition}", values)

    def forget_offline(self) -> int:
        """Delete every image whose file is gone; how many. Opens its transaction."""
        with self.transaction():
            return self.database.execute("DELETE FROM images WHERE status = 'offline'")

    def compact(self) -> None:
        """Give the space of deleted rows back to the disk. Outside of any transaction; what remains is written to a temporary
        file, and from there to the log beside the collection.
        """
        self.database.execute("VACUUM")
        self.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def remove(self, ids: Sequence[int]) -> int:
        """Images that are to be neither found nor read again: path, id and SHA-256 stay, for `restore` and a moved file. How
        many were not removed before.
        """
        which = json.dumps(list(ids))
        for table in ("vectors", "tokens"):
            self.database.execute(f"DELETE FROM {table} WHERE {GIVEN_IDS}", (which,))
        nothing = "width = NULL, height = NULL, taken = NULL, date = '', metadata = '{}', reason = NULL"
        return self.change(f"status = 'removed', {nothing}", f"status != 'removed' AND {GIVEN_IDS}", (which,))

    def restore(self, ids: Sequence[int]) -> int:
        """Removed images that the next run is to read again; how many of these were removed."""
        return self.change("status = 'pending'", f"status = 'removed' AND {GIVEN_IDS}", (json.dumps(list(ids)),))

    def try_failed_again(self) -> None:
        """Files that could not be read become unread ones. Opens its transaction."""
        with self.transaction():
            self.change("status = 'pending', reason = NULL", "status = 'failed'")

    def add(
        self,
        photographs: Sequence[Photograph],
        vectors: Float32[np.ndarray, "images dim"],
        tokens: Float32[np.ndarray, "images regions token_dim"],
    ) -> list[int]:
        """Rows for newly encoded images, one for each; an image at a known path keeps its id and metadata."""
        if not storable(vectors, tokens).all():
            raise DataError("a vector that is not finite, or zero, cannot be stored; pass only rows that are storable")
        ids = []
        for photograph, vector, regions in zip(photographs, vectors, tokens, strict=True):
            image_id = self._put_photograph(photograph)
            self.put_vectors(image_id, vector, regions)
            ids.append(image_id)
        return ids

    def add_copy(self, photograph: Photograph, twin: ImageRow) -> int:
        """A row for an image whose content is that of `twin`, with the same vector and tokens."""
        image_id = self._put_photograph(photograph)
        if image_id != twin.id:
            for table, blob in (("vectors", "vector"), ("tokens", "tokens")):
                copy = f"INSERT OR REPLACE INTO {table} SELECT ?, {blob}, checksum FROM {table} WHERE id = ?"
                self.database.execute(copy, (image_id, twin.id))
        return image_id

    def put_encoded(
        self,
        file: FileState,
        facts: dict[str, Any],
        vector: Float16[np.ndarray, " dim"],
        values: Int8[np.ndarray, "regions token_dim"],
        scales: Float32[np.ndarray, " regions"],
    ) -> None:
        """A row from an export of this model: `facts` are the columns of images but those of the file, metadata as JSON."""
        image_id = self._put(file, facts)
        self.database.execute("UPDATE images SET metadata = ? WHERE id = ?", (facts["metadata"], image_id))
        self._put_blob("vectors", image_id, vector.astype("<f2").tobytes())
        self._put_blob("tokens", image_id, blob_of(values, scales))

    def describe(self, path: str, metadata: dict[str, Any]) -> None:
        """Add to the metadata of the image at a path; one that is not known yet gets a row, and is read by the next run."""
        columns = "path, size, mtime_ns, status, generation"
        add = f"INSERT INTO images ({columns}) VALUES (?, -1, -1, 'pending', ?) ON CONFLICT DO NOTHING"
        self.database.execute(add, (os.fsencode(path), self.generation))
        self.change("metadata = json_patch(metadata, ?)", "path = ? AND frame = 0", (json.dumps(metadata), os.fsencode(path)))

    def mark_failed(self, file: FileState, reason: str) -> None:
        """A row for a file that cannot be read or encoded, and why; what was known of an earlier content goes."""
        image_id = self._put(file, {"status": "failed", "reason": reason})
        self.database.execute("DELETE FROM vectors WHERE id = ?", (image_id,))
        self.database.execute("DELETE FROM tokens WHERE id = ?", (image_id,))

    def _put_photograph(self, photograph: Photograph) -> int:
        facts = {name: getattr(photograph, name) for name in ("sha256", "width", "height", "taken")}
        image_id = self._put(photograph.file, facts | {"status": "ok"})
        if photograph.metadata:
            news = any(value is not None for value in photograph.metadata.values())
            patch = "UPDATE images SET metadata = json_patch(metadata, ?) WHERE id = ? AND (? OR metadata != '{}')"
            self.database.execute(patch, (json.dumps(photograph.metadata), image_id, news))
        return image_id

    def _put(self, file: FileState, facts: Mapping[str, object]) -> int:
        """The id of the row at the file's path, new or overwritten; columns left out become NULL, metadata stays."""
        found = dict.fromkeys(OVERWRITTEN) | dict(facts) | {"generation": self.generation}
        found |= {"path": os.fsencode(file.path), "frame": file.frame, "size": file.size, "mtime_ns": file.mtime_ns}
        columns = ("path", "frame", *OVERWRITTEN)
        values = ", ".join(WRITTEN_DATE if column == "date" else f":{column}" for column in columns)
        overwrite = ", ".join(f"{column} = excluded.{column}" for column in OVERWRITTEN)
        statement = (
            f"INSERT INTO images ({', '.join(columns)}) VALUES ({values}) "
            f"ON CONFLICT (path, frame) DO UPDATE SET {overwrite} RETURNING id"
        )
        return int(self.database.rows(statement, found)[0][0])

    def put_vectors(
        self,
        image_id: int,
        vector: Float32[np.ndarray, " dim"],
        regions: Float32[np.ndarray, "regions token_dim"],
        beside: str = "",
    ) -> None:
        """What a model makes of an image, for the modules of this room; in the tables whose names end so."""
        self._put_blob(f"vectors{beside}", image_id, vector.astype("<f2").tobytes())
        self._put_blob(f"tokens{beside}", image_id, token_blob(regions))

    def _put_blob(self, table: str, image_id: int, blob: bytes) -> None:
        self.database.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", (image_id, blob, zlib.crc32(blob)))

    def settings_of(self, model: ModelFolder) -> dict[str, str | int]:
        """What a collection keeps of the model whose vectors it holds."""
        return {
            "model_name": model.name,
            "model_parts": json.dumps(model.parts),
            "model_stamp": model.stamp,
            "token_dim": model.config.heads.encoded_token_dim,
        }

    def _set_model(self, model: ModelFolder) -> None:
        for key, value in self.settings_of(model).items():
            self.database.set(key, value)


def storable(
    vectors: Float32[np.ndarray, "images dim"], tokens: Float32[np.ndarray, "images regions token_dim"]
) -> Bool[np.ndarray, " images"]:
    """Which images have a vector with a direction and finite tokens, in the precision that they are stored in."""
    with np.errstate(over="ignore"):
        halves = vectors.astype("<f2")
    finite = np.isfinite(halves).all(axis=1) & np.isfinite(tokens).all(axis=(1, 2))
    usable: Bool[np.ndarray, " images"] = finite & (halves != 0).any(axis=1)
    return usable
