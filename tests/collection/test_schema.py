"""The file's format: an older one becomes the present one, a newer one is refused."""

import os
import sqlite3
from pathlib import Path

import pytest

from aladin.collection.schema import APPLICATION_ID, SCHEMA_VERSION, row_checksum
from aladin.collection.store import Collection, default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.folder import ModelFolder
from aladin.errors import IndexMismatch
from tests.conftest import fill, stored

FIRST_FORMAT = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 BLOB,
    width INTEGER,
    height INTEGER,
    taken TEXT,
    metadata TEXT NOT NULL DEFAULT '{}',
    status TEXT NOT NULL CHECK (status IN ('ok', 'failed', 'offline', 'pending')),
    reason TEXT,
    generation INTEGER NOT NULL
);
CREATE INDEX images_by_content ON images (sha256);
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, vector BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, tokens BLOB NOT NULL, checksum INTEGER NOT NULL
);
"""


@pytest.fixture
def model(model_path: Path) -> ModelFolder:
    return ModelFolder.open(model_path)


def in_first_format(present: Path, old: Path) -> None:
    """A copy of a collection as version 1 wrote it."""
    source, target = sqlite3.connect(present), sqlite3.connect(old)
    target.executescript("PRAGMA journal_mode = WAL;" + FIRST_FORMAT + f"PRAGMA application_id = {APPLICATION_ID};")
    columns = "id, path, size, mtime_ns, sha256, width, height, taken, metadata, status, reason, generation"
    for table, names in (("images", columns), ("vectors", "*"), ("tokens", "*"), ("meta", "*")):
        rows = source.execute(f"SELECT {names} FROM {table}").fetchall()
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            into = f"{table} ({columns})" if table == "images" else table
            target.executemany(f"INSERT INTO {into} VALUES ({marks})", rows)
    target.execute("DELETE FROM meta WHERE key IN ('seal', 'device')")
    target.execute("UPDATE meta SET value = 1 WHERE key = 'schema_version'")
    target.execute("UPDATE meta SET value = json_set(value, '$.\"[heads]\"', 'abc') WHERE key = 'model_parts'")
    target.execute("UPDATE sqlite_sequence SET seq = 99 WHERE name = 'images'")
    target.commit()
    source.close()
    target.close()


@pytest.fixture
def old(tmp_path: Path, model: ModelFolder) -> Path:
    with CollectionWriter.create(tmp_path / "new.sqlite", tmp_path) as writer:
        fill(writer, model, 20)
        writer._execute("UPDATE images SET metadata = '{\"place\": \"sea\"}', status = 'offline' WHERE id = 2")
    in_first_format(tmp_path / "new.sqlite", tmp_path / "old.sqlite")
    return tmp_path / "old.sqlite"


def test_the_first_format_can_be_read_as_it_is(old: Path, tmp_path: Path, model: ModelFolder) -> None:
    before = old.read_bytes()
    with Collection.open(old) as collection, Collection.open(tmp_path / "new.sqlite") as new:
        assert stored(collection) == stored(new)
        assert verify(old).whole
        assert collection.format == 1
    assert old.read_bytes() == before


def test_a_writer_brings_the_first_format_up_to_date_and_loses_nothing(old: Path, tmp_path: Path, model: ModelFolder) -> None:
    with Collection.open(old) as collection:
        before, rows = stored(collection), {row.id: (row.metadata, row.status) for row in collection.images()}
    with CollectionWriter.create(old, tmp_path) as writer:
        assert writer.format == SCHEMA_VERSION
        assert stored(writer) == before
        assert {row.id: (row.metadata, row.status) for row in writer.images()} == rows
        writer.check_model(model)
        writer.use_model(model)
        assert writer.model_parts == model.parts
        fill(writer, model, 1, seed=5)
        assert max(row.id for row in writer.images()) == 100, "an id that was given is not given again"
        writer._execute("DELETE FROM images WHERE id = 3")
        assert writer._rows("SELECT count(*) FROM vectors WHERE id = 3") == [(0,)], "references hold after the migration"
    with CollectionWriter.create(old, tmp_path) as writer, writer.transaction():
        pass
    assert verify(old).whole


def test_a_migration_that_is_interrupted_has_changed_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.open(old) as collection:
        before = stored(collection)

    def interrupted(*arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("aladin.collection.writer.seal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CollectionWriter.create(old, tmp_path)
    monkeypatch.undo()
    with Collection.open(old) as collection:
        assert (collection.format, stored(collection)) == (1, before)


@pytest.mark.parametrize("version", [0, 3, 99, "two", None])
def test_another_format_is_refused_with_6_by_readers_and_writers(tmp_path: Path, version: object) -> None:
    place = default_file(tmp_path)
    with CollectionWriter.create(place, tmp_path) as writer:
        writer._execute("DELETE FROM meta WHERE key = 'schema_version'")
        if version is not None:
            writer._set_meta("schema_version", version)
    for opening in (lambda: Collection.open(place), lambda: CollectionWriter.create(place, tmp_path)):
        with pytest.raises(IndexMismatch, match=f"has format {version} and this version") as caught:
            opening()
        assert caught.value.exit_code == 6


def test_every_change_of_a_row_changes_its_checksum() -> None:
    row = (1, b"a.png", 10, 20, b"\x01" * 32, 4, 3, "2026-05-01T12:30:00", "{}", "ok", None, 7)
    seen = {row_checksum(*row)}
    for column, other in enumerate((2, b"b.png", 11, 21, b"\x02" * 32, 5, 4, None, '{"a": 1}', "offline", "gone", 8)):
        seen.add(row_checksum(*row[:column], other, *row[column + 1 :]))
    seen.add(row_checksum(*row[:1], os.fsdecode(row[1]), *row[2:]))
    assert len(seen) == len(row) + 2
