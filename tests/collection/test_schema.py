"""The file's format: an older one is read as it is and becomes the present one, a newer one is refused."""

import os
import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aladin.collection.database import Database, Values
from aladin.collection.filters import parsed
from aladin.collection.indexing import index_folder
from aladin.collection.leafing import leaf
from aladin.collection.repair import repair
from aladin.collection.schema import APPLICATION_ID, CHECKED, INDEXES, SCHEMA_VERSION, date_from, row_checksum, seal
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.store import Span, default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError, IndexMismatch
from tests.collection.test_collection import count_rows_without_write_permission, open_folder
from tests.conftest import fill

__all__ = ["open_folder"]  # the fixture

TABLES = """
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
    status TEXT NOT NULL CHECK (status IN ('ok', 'failed', 'offline', 'pending', 'removed')),
    reason TEXT,
    generation INTEGER NOT NULL,
    checksum INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX images_by_content ON images (sha256);
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, vector BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, tokens BLOB NOT NULL, checksum INTEGER NOT NULL
);
"""


FIRST_TABLES = TABLES.replace(", 'removed'", "").replace(
    ",\n    checksum INTEGER NOT NULL DEFAULT 0\n);\nCREATE INDEX", "\n);\nCREATE INDEX"
)
DATE_INDEXES = """
CREATE INDEX images_by_taken ON images (taken DESC) WHERE status = 'ok' AND taken IS NOT NULL;
CREATE INDEX images_by_change ON images (mtime_ns / 1000000000 DESC) WHERE status = 'ok' AND taken IS NULL;
"""
COLUMNS = ("id", "path", "size", "mtime_ns", "sha256", "width", "height", "taken", "metadata", "status", "reason", "generation")
FILM = 20  # the id of the first picture of a file with three


@pytest.fixture
def model(model_path: Path) -> ModelFolder:
    return ModelFolder.open(model_path)


def in_older_format(present: Path, old: Path, version: int) -> None:
    """A copy of a collection as version 1 or 2 wrote it: a further picture has a path that no file can have."""
    source, target = sqlite3.connect(present), sqlite3.connect(old)
    tables = {1: FIRST_TABLES, 2: TABLES + DATE_INDEXES}[version]
    target.executescript(f"PRAGMA journal_mode = WAL; {tables} PRAGMA application_id = {APPLICATION_ID};")
    stored_path = "iif(frame, CAST(path || '//' || frame AS BLOB), path)"
    names = ", ".join(stored_path if name == "path" else name for name in COLUMNS)
    for table, columns in (("images", names), ("vectors", "*"), ("tokens", "*"), ("meta", "*")):
        rows = source.execute(f"SELECT {columns} FROM {table}").fetchall()
        if table == "images" and version == 2:
            rows = [(*row, zlib.crc32(ascii(row).encode())) for row in rows]
        into = f"images ({', '.join([*COLUMNS, 'checksum'][: len(rows[0])])})" if table == "images" else table
        target.executemany(f"INSERT INTO {into} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    target.execute("DELETE FROM meta WHERE key IN ('seal', 'device')")
    target.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
    if version == 1:
        target.execute("UPDATE meta SET value = json_set(value, '$.\"[heads]\"', 'abc') WHERE key = 'model_parts'")
    target.execute("UPDATE sqlite_sequence SET seq = 99 WHERE name = 'images'")
    if version == 2:
        target.execute("INSERT INTO meta VALUES ('seal', ?)", (seal(lambda statement: target.execute(statement).fetchall()),))
    target.commit()
    source.close()
    target.close()


@pytest.fixture
def new(tmp_path: Path, model: ModelFolder) -> Path:
    """Images of all kinds: one by a camera, one without a date, one offline, and a file of which three pictures are known."""
    with CollectionWriter.create(tmp_path / "new.sqlite", tmp_path) as writer:
        fill(writer, model, 22)
        with writer.transaction():
            writer.database.set("frames", 10)
            writer.change("metadata = '{\"place\": \"sea\"}', status = 'offline'", "id = 2")
            writer.change("taken = '2024-05-01T12:00:00', date = '2024-05-01T12:00:00'", "id % 3 = 0")
            writer.change("mtime_ns = id * 100000000000000000", "taken IS NULL")
            writer.change(f"date = {date_from('taken', 'mtime_ns')}", "TRUE")
            writer.change("path = x'66696C6DFF', frame = id - 20", "id >= 20")
    return tmp_path / "new.sqlite"


@pytest.fixture(params=[1, 2])
def old(tmp_path: Path, new: Path, request: pytest.FixtureRequest) -> Path:
    in_older_format(new, tmp_path / "old.sqlite", request.param)
    return tmp_path / "old.sqlite"


def everything(collection: Collection) -> list[object]:
    """Every row as it is, its vector and tokens, and the order by date."""
    with collection.snapshot():
        blobs = collection.database.rows("SELECT * FROM vectors JOIN tokens USING (id) ORDER BY id")
        dates = collection.database.rows("SELECT id, date FROM images ORDER BY id")
        return [list(collection.images()), blobs, dates, leaf(collection.database, None, Span(), None, 99)]


def test_an_older_format_can_be_read_as_it_is(old: Path, new: Path) -> None:
    before = old.read_bytes()
    with Collection.open(old) as collection, Collection.open(new) as present:
        assert everything(collection) == everything(present)
        film = os.fsdecode(b"film\xff")
        assert [collection.row_at(film, frame) for frame in range(4)] == [*collection.rows([20, 21, 22]), None]
        assert collection.ids_below(film) == [20, 21, 22]
        assert collection.ids_meeting(parsed("frame = 2 OR date < '2000'")).tolist() == [1, 4, 5, 7, 8, 22]
        assert verify(old).whole
        assert collection.format in (1, 2)
    assert old.read_bytes() == before


def test_an_older_format_can_be_read_where_nothing_can_be_written(old: Path, open_folder: Path) -> None:
    shutil.copy(old, open_folder)
    open_folder.chmod(0o555)
    assert count_rows_without_write_permission(open_folder / old.name).stdout == "21 21\n"
    open_folder.chmod(0o755)


def test_a_writer_brings_an_older_format_up_to_date_and_loses_nothing(
    old: Path, new: Path, tmp_path: Path, model: ModelFolder
) -> None:
    with Collection.open(old) as collection:
        before, generation = everything(collection), collection.generation
    with CollectionWriter.create(old, tmp_path) as writer:
        assert writer.format == SCHEMA_VERSION
        assert everything(writer) == before
        assert writer.ids_changed_since(generation).tolist() == [], "what was made of the rows fits them still"
        writer.check_model(model)
        writer.use_model(model)
        assert writer.model_parts == model.parts
        fill(writer, model, 1, seed=5)
        assert max(row.id for row in writer.images()) == 100, "an id that was given is not given again"
        writer.database.execute("DELETE FROM images WHERE id = 3")
        found = writer.database.rows("SELECT count(*) FROM vectors WHERE id = 3")
        assert found == [(0,)], "references hold after the migration"
    with CollectionWriter.create(old, tmp_path) as writer, writer.transaction():
        pass
    assert verify(old).whole
    with closing(sqlite3.connect(old)) as connection:
        rows = connection.execute(f"SELECT {', '.join(CHECKED)}, checksum FROM images").fetchall()
        indexes = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    assert all(row_checksum(*values) == checksum for *values, checksum in rows)
    assert [sql for (sql,) in indexes] == list(INDEXES)


def test_an_empty_collection_of_an_older_format_gives_no_id_again(old: Path, tmp_path: Path, model: ModelFolder) -> None:
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript("DELETE FROM tokens; DELETE FROM vectors; DELETE FROM images;")
    with CollectionWriter.create(old, tmp_path) as writer:
        fill(writer, model, 1)
        assert [row.id for row in writer.images()] == [100]


def test_a_reader_goes_on_while_a_writer_brings_the_file_up_to_date(old: Path, tmp_path: Path) -> None:
    with Collection.open(old) as collection:
        before = everything(collection)
        with collection.snapshot():
            rows = list(collection.images())
            with CollectionWriter.create(old, tmp_path) as writer:
                assert (list(collection.images()), collection.format) == (rows, collection.format)
                assert collection.format != writer.format, "a snapshot is of one state"
        assert everything(collection) == before
        assert collection.format == SCHEMA_VERSION


def test_damage_of_an_older_format_is_damage_still_when_it_is_brought_up_to_date(
    new: Path, tmp_path: Path, model: ModelFolder
) -> None:
    old = tmp_path / "old.sqlite"
    in_older_format(new, old, 2)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("UPDATE images SET width = 7 WHERE id = 5")
        connection.execute("UPDATE images SET metadata = CAST(x'FF' AS TEXT) WHERE id = 6")
        connection.commit()
    assert [damage.id for damage in verify(old).damage] == [5, 6]
    with CollectionWriter.create(old, tmp_path) as writer:
        assert writer.format == SCHEMA_VERSION
    assert [damage.id for damage in verify(old).damage] == [5, 6]
    done = repair(old, tmp_path, model)
    assert (done.kept, done.to_read_again, done.lost, verify(old).whole) == (20, 2, 0, True)


def damaged_in_place(path: Path, statement: str) -> None:
    """A change that no constraint and no checksum has seen."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement)
        connection.commit()


def test_a_status_that_there_is_not_is_read_again_by_the_writer_that_brings_the_file_up_to_date(
    old: Path, tmp_path: Path
) -> None:
    with Collection.open(old) as collection:
        before = {row.id: row for row in collection.images()}
    damaged_in_place(old, "UPDATE images SET status = 'nk' WHERE id = 5")
    with CollectionWriter.create(old, tmp_path) as writer:
        rows = writer.database.rows("SELECT id, path, status, mtime_ns FROM images")
        assert {image_id for image_id, *_ in rows} == before.keys() | {2}
        assert [row for row in rows if row[0] == 5] == [(5, os.fsencode(before[5].path), "pending", -1)]
        assert {row.id: row for row in writer.images() if row.id != 5} == {key: row for key, row in before.items() if key != 5}
        assert writer.database.rows("SELECT id FROM vectors WHERE id = 5") == []
    assert verify(old).whole


@pytest.mark.parametrize("mark", ["//0", "//x"])
def test_a_picture_that_has_the_name_of_another_is_dropped_and_its_file_read_again(
    old: Path, tmp_path: Path, mark: str
) -> None:
    damaged_in_place(old, f"UPDATE images SET path = x'66696C6DFF{mark.encode().hex()}' WHERE id = 21")
    with CollectionWriter.create(old, tmp_path) as writer:
        rows = writer.database.rows("SELECT id, frame, mtime_ns FROM images WHERE path = x'66696C6DFF' ORDER BY id")
        assert rows == [(20, 0, -1), (22, 2, -1)]
        assert writer.database.rows("SELECT id FROM vectors WHERE id NOT IN (SELECT id FROM images)") == []
    assert verify(old).whole


def test_a_picture_lost_so_comes_back_with_the_next_index(tmp_path: Path, encoder: Encoder) -> None:
    frames = [Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8)) for value in (0, 90, 180, 250)]
    folder = tmp_path / "pictures"
    folder.mkdir()
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    with CollectionWriter.create(tmp_path / "new.sqlite", folder) as writer:
        index_folder(writer, encoder, IndexConfig(frames=4))
        assert [row.frame for row in writer.images()] == [0, 1, 2, 3]
    in_older_format(tmp_path / "new.sqlite", tmp_path / "old.sqlite", 2)
    with closing(sqlite3.connect(tmp_path / "old.sqlite")) as connection:
        connection.execute("UPDATE images SET path = CAST('film.gif//0' AS BLOB) WHERE id = 2")
        connection.commit()
    with CollectionWriter.create(tmp_path / "old.sqlite", folder) as writer:
        index_folder(writer, encoder, IndexConfig())
        assert sorted(row.frame for row in writer.images()) == [0, 1, 2, 3]
    assert verify(tmp_path / "old.sqlite").whole


@pytest.mark.parametrize("stated", [1, 2])
def test_a_format_that_its_tables_deny_is_damage(new: Path, stated: int, tmp_path: Path, model: ModelFolder) -> None:
    with closing(sqlite3.connect(new)) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (stated,))
        connection.commit()
    for opening in (lambda: Collection.open(new), lambda: CollectionWriter.create(new, tmp_path)):
        with pytest.raises(DataError, match=f"states format {stated} and has tables of another; run `aladin repair"):
            opening()
    assert not verify(new).whole
    done = repair(new, tmp_path, model)
    assert (done.kept, done.to_read_again, done.lost, verify(new).whole) == (22, 0, 0, True)


@pytest.mark.parametrize("moment", range(12))
def test_a_migration_that_is_interrupted_has_changed_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    with Collection.open(old) as collection:
        before, version = everything(collection), collection.format
    execute, left = Database.execute, [moment]

    def interrupted(self: Database, statement: str, values: Values = ()) -> int:
        if self.connection.in_transaction:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        return execute(self, statement, values)

    monkeypatch.setattr(Database, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CollectionWriter.create(old, tmp_path)
    monkeypatch.undo()
    with Collection.open(old) as collection:
        assert (collection.format, everything(collection)) == (version, before)


@pytest.mark.parametrize("version", [0, 4, 99, "two", None])
def test_another_format_is_refused_with_6_by_readers_and_writers(tmp_path: Path, version: object) -> None:
    place = default_file(tmp_path)
    with CollectionWriter.create(place, tmp_path) as writer:
        writer.database.execute("DELETE FROM meta WHERE key = 'schema_version'")
        if version is not None:
            writer.database.set("schema_version", version)
    for opening in (lambda: Collection.open(place), lambda: CollectionWriter.create(place, tmp_path)):
        with pytest.raises(IndexMismatch, match=f"has format {version} and this version") as caught:
            opening()
        assert caught.value.exit_code == 6


def test_every_change_of_a_row_changes_its_checksum() -> None:
    date = "2026-05-01T12:30:00"
    row = (1, b"a.png", 0, 10, 20, b"\x01" * 32, 4, 3, date, date, "{}", "ok", None, 7)
    seen = {row_checksum(*row)}
    for column, other in enumerate((2, b"b.png", 1, 11, 21, b"\x02" * 32, 5, 4, None, "", '{"a": 1}', "offline", "gone", 8)):
        seen.add(row_checksum(*row[:column], other, *row[column + 1 :]))
    seen.add(row_checksum(*row[:1], os.fsdecode(row[1]), *row[2:]))
    assert len(seen) == len(row) + 2
