"""Another model for a collection: its vectors and tokens grow beside those that answer, and take their place in one step.

Beside the tables vectors and tokens stand `vectors_next` and `tokens_next` while the new model encodes, and `vectors_before`
and `tokens_before` once it answers, for the way back. A table of contents says of which content each row beside is. So what
has changed since is not taken for what it was.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aladin.collection.schema import BLOBS
from aladin.collection.settings import IndexConfig
from aladin.collection.tokens import SCALE_BYTES
from aladin.collection.writer import CollectionWriter, storable
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder, fingerprint_of
from aladin.errors import ConfigError, DataError
from aladin.pictures.decoding import Decoders
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Decoded, Unreadable
from aladin.progress import SILENT, Progress

Side = Literal["next", "before"]
MODEL_SETTINGS = ("model_name", "model_parts", "model_stamp", "token_dim")
ROW_BYTES = 200  # of the three rows beside, apart from vector and tokens
FILES_AT_ONCE = 1000  # looked up


@dataclass(frozen=True)
class Migrated:
    """What a migration came to."""

    model: str  # that answers now
    before: str  # that answered, whose rows stand beside
    images: int  # that can be found by the model now
    encoded: int  # of these in this run; others in runs that were stopped
    left_out: dict[str, int]  # images that cannot be found now, by why; the next `aladin index` looks at them again
    seconds: float


def migrate(
    collection: CollectionWriter, encoder: Encoder, config: IndexConfig | None = None, progress: Progress = SILENT
) -> Migrated:
    """Encode every image that can be found by another model, and let that one answer from then on.

    Until the end the model before answers, whatever happens; a run that was stopped goes on with the same model, and begins
    anew with another. ConfigError where the collection is of that model already, DataError where the disk has too little room.
    """
    began, config = time.perf_counter(), config or IndexConfig()
    before = collection.model_name
    if before is None:
        raise DataError(f"{collection.path} holds no image yet; index its folder with the model that you want")
    if collection.fingerprint == encoder.model.fingerprint:
        raise ConfigError(f"{collection.path} is of the model {encoder.model.name} already; give another with --model")
    _begin(collection, encoder.model)
    _check_room(collection, encoder.model)
    left_out, encoded = _encode(collection, encoder, config, progress)
    images = _take(collection, "next")
    return Migrated(encoder.model.name, before, images, encoded, dict(left_out), time.perf_counter() - began)


def go_back(collection: CollectionWriter) -> Migrated:
    """Let the model before the last migration answer again; the present one's rows stand beside then, for the way back.

    Images that are new or have changed since are pending. ConfigError where there is no way back.
    """
    began, name = time.perf_counter(), collection.model_name
    before = _setting(collection, "before", "model_name")
    if before is None or name is None:
        raise ConfigError(f"{collection.path} keeps no rows of another model; a migration does, until `aladin compact`")
    images = _take(collection, "before")
    return Migrated(str(before), name, images, 0, _without_vectors(collection), time.perf_counter() - began)


def forget_beside(collection: CollectionWriter) -> None:
    """Drop what stands beside: rows of the model before, and of a migration that was not finished."""
    if any(_setting(collection, side, "model_name") for side in ("next", "before")):
        with collection.transaction():
            _drop(collection, "next")
            _drop(collection, "before")


def _begin(collection: CollectionWriter, model: ModelFolder) -> None:
    """Empty tables for the model, unless those of an earlier run are there."""
    parts = _setting(collection, "next", "model_parts")
    if parts is not None and fingerprint_of(json.loads(str(parts))) == model.fingerprint:
        return
    with collection.transaction():
        _drop(collection, "next")
        for table, column in BLOBS.items():
            _create(collection, f"{table}_next", f"{column} BLOB NOT NULL, checksum INTEGER NOT NULL")
        _create(collection, "contents_next", "sha256 BLOB")
        for name, value in collection.settings_of(model).items():
            collection.database.set(f"next_{name}", value)


def _create(collection: CollectionWriter, table: str, columns: str) -> None:
    key = "id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE"
    collection.database.execute(f"CREATE TABLE {table} ({key}, {columns})")


def _check_room(collection: CollectionWriter, model: ModelFolder) -> None:
    """DataError unless the rows that are still missing fit on the disk."""
    config, dim = model.config, collection.settings_of(model)["token_dim"]
    assert isinstance(dim, int), "numbers of a token"
    row = 2 * config.vector_dim + config.regions * (dim + SCALE_BYTES) + ROW_BYTES
    needed, free = _count(collection, _UNENCODED) * row, shutil.disk_usage(collection.path.parent).free
    if needed > free:
        raise DataError(
            f"the rows of {model.name} take {needed / 1e6:,.0f} MB beside those of {collection.model_name}, and "
            f"{collection.path.parent} has {free / 1e6:,.0f} MB; make room, or let `aladin index FOLDER --rebuild` replace them"
        )


_UNENCODED = """status = 'ok' AND NOT EXISTS (
    SELECT 1 FROM contents_next WHERE contents_next.id = images.id AND contents_next.sha256 IS images.sha256)"""


def _encode(
    collection: CollectionWriter, encoder: Encoder, config: IndexConfig, progress: Progress
) -> tuple[Counter[str], int]:
    """Everything that is missing; what could not be encoded by why, and how many were."""
    left_out: Counter[str] = Counter()
    fitting = encoder.model.config.preprocessing.fitting
    total, done, encoded = _count(collection, _UNENCODED), 0, 0
    with Decoders(config.decoding_limits, config.follow_symlinks, collection.frames) as decoding:
        for batch in decoding.batches(collection.root, _files(collection), fitting, config.batch_images):
            with collection.transaction():
                encoded += _store(collection, encoder, batch, left_out)
            done += len(batch)
            progress(min(done, total), total)
    return left_out, encoded


def _files(collection: CollectionWriter) -> Iterator[FileState]:
    """The files of which a picture is missing, by path."""
    last = b""
    statement = (
        f"SELECT path, size, mtime_ns FROM images WHERE path > ? AND {_UNENCODED} GROUP BY path ORDER BY path "
        f"LIMIT {FILES_AT_ONCE}"
    )
    while rows := collection.database.rows(statement, (last,)):
        yield from (FileState(os.fsdecode(path), size, mtime_ns) for path, size, mtime_ns in rows)
        last = rows[-1][0]


def _store(
    collection: CollectionWriter, encoder: Encoder, batch: Sequence[Decoded | Unreadable], left_out: Counter[str]
) -> int:
    """One batch beside the rows that answer; how many images."""
    known = []
    for item in batch:
        if isinstance(item, Unreadable):
            left_out["is not there" if item.vanished else item.reason.split(" (")[0]] += 1
            continue
        row = collection.row_at(item.photograph.file.path, item.photograph.file.frame)
        if row is None or row.status != "ok":  # a further picture that nobody asked for
            continue
        if row.sha256 != item.photograph.sha256:
            left_out["has changed since it was indexed"] += 1
        else:
            known.append((row.id, item))
    if not known:
        return 0
    encoded = encoder.encode_images(np.stack([item.pixels for _, item in known]))
    good = storable(encoded.vectors, encoded.regions)
    for number, (image_id, item) in enumerate(known):
        if not good[number]:
            left_out["has no finite vector from this model"] += 1
            continue
        collection.put_vectors(image_id, encoded.vectors[number], encoded.regions[number], "_next")
        contents = "INSERT OR REPLACE INTO contents_next VALUES (?, ?)"
        collection.database.execute(contents, (image_id, item.photograph.sha256))
    return int(good.sum())


def _take(collection: CollectionWriter, side: Side) -> int:
    """The rows beside in the place of those that answer, which stand beside as the model before; how many images answer."""
    database = collection.database
    with collection.transaction():
        # Rows beside that are of another content than the images are now, or of images that are not wanted any more.
        stale = (
            f"id NOT IN (SELECT id FROM contents_{side} AS beside JOIN images USING (id) "
            "WHERE images.status IN ('ok', 'offline') AND beside.sha256 IS images.sha256)"
        )
        for table in (*BLOBS, "contents"):  # the contents last: the others are held against them
            database.execute(f"DELETE FROM {table}_{side} WHERE {stale}")
        _create(collection, "contents_now", "sha256 BLOB")
        database.execute("INSERT INTO contents_now SELECT id, sha256 FROM images WHERE id IN (SELECT id FROM vectors)")
        settings = {name: database.setting(name) for name in MODEL_SETTINGS}
        chosen = {name: _setting(collection, side, name) for name in MODEL_SETTINGS}
        for table in BLOBS:
            database.execute(f"ALTER TABLE {table} RENAME TO {table}_now")
            database.execute(f"ALTER TABLE {table}_{side} RENAME TO {table}")
        database.execute(f"DROP TABLE contents_{side}")
        _drop(collection, "next")
        _drop(collection, "before")
        for table in (*BLOBS, "contents"):
            database.execute(f"ALTER TABLE {table}_now RENAME TO {table}_before")
        for name in MODEL_SETTINGS:
            database.set(name, chosen[name])
            database.set(f"before_{name}", settings[name])
        # What has no vector of this model cannot be found; `aladin index` reads it again.
        collection.change("status = 'pending', reason = NULL", "status = 'ok' AND id NOT IN (SELECT id FROM vectors)")
    return len(collection)


def _drop(collection: CollectionWriter, side: Side) -> None:
    for table in (*BLOBS, "contents"):
        collection.database.execute(f"DROP TABLE IF EXISTS {table}_{side}")
    for name in MODEL_SETTINGS:
        collection.database.execute("DELETE FROM meta WHERE key = ?", (f"{side}_{name}",))


def _setting(collection: CollectionWriter, side: Side, name: str) -> object:
    found: object = collection.database.setting(f"{side}_{name}")
    return found


def _without_vectors(collection: CollectionWriter) -> dict[str, int]:
    pending = _count(collection, "status = 'pending'")
    return {"is new or has changed since": pending} if pending else {}


def _count(collection: CollectionWriter, condition: str) -> int:
    return int(collection.database.rows(f"SELECT count(*) FROM images WHERE {condition}")[0][0])
