"""Collections of formats 1 and 2: read as they are, and brought to the present one by the first writer.

Format 2 kept a further picture of a file in its path, as the file's, two slashes and the picture's number, and no date. Format
1 besides had no checksums of image rows, and no removed ones; its fingerprint was over whole sections of model.toml.
"""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from aladin.collection.damaged_rows import take_again
from aladin.collection.database import Database, Values, any_text, failures_named
from aladin.collection.schema import (
    APPLICATION_ID,
    BLOBS,
    CHECKED,
    IMAGES_TABLE,
    INDEXES,
    SCHEMA_VERSION,
    TABLES,
    damaged_values,
    date_from,
)
from aladin.errors import DataError, IndexMismatch

OLDEST_READABLE = 1
MARK = b"//"
_MARK_IN_PATH = f"instr(path, x'{MARK.hex()}')"
FILE_PATH = f"iif({_MARK_IN_PATH}, substr(path, 1, {_MARK_IN_PATH} - 1), path)"
FRAME = f"iif({_MARK_IN_PATH}, CAST(CAST(substr(path, {_MARK_IN_PATH} + {len(MARK)}) AS TEXT) AS INTEGER), 0)"
HAS_FRAMES = "EXISTS (SELECT 1 FROM pragma_table_info('images', 'main') WHERE name = 'frame')"
# The columns that each format's checksum of a row covers; format 1 has none.
CHECKED_BY_FORMAT = {2: tuple(name for name in CHECKED if name not in ("frame", "date")), 3: CHECKED}


# Format 2, for the first page of a file that has lost its own.
SECOND_TABLES = (
    TABLES[0],
    """
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
)""",
    INDEXES[0],
    *TABLES[-2:],
    "CREATE INDEX images_by_taken ON images (taken DESC) WHERE status = 'ok' AND taken IS NOT NULL",
    "CREATE INDEX images_by_change ON images (mtime_ns / 1000000000 DESC) WHERE status = 'ok' AND taken IS NULL",
)


def readable(version: object) -> bool:
    """Whether this version reads a file of that format."""
    return isinstance(version, int) and OLDEST_READABLE <= version <= SCHEMA_VERSION


def check_format(database: Database) -> int:
    """The file's format. DataError when it is no collection or damaged, IndexMismatch when this version does not read it."""
    if database.rows("PRAGMA application_id") != [(APPLICATION_ID,)]:
        raise DataError(f"{database.path} is not a collection of aladin; give another --collection")
    version = database.setting("schema_version")
    if not readable(version):
        raise IndexMismatch(
            f"{database.path} has format {version} and this version of aladin reads formats up to {SCHEMA_VERSION}; "
            "use the version that wrote it, or another --collection"
        )
    # In one look, since a writer may bring the file up to date at this moment. One bit makes 3 of 2, and 1 of 3.
    version, has_frames = database.rows(f"SELECT value, {HAS_FRAMES} FROM meta WHERE key = 'schema_version'")[0]
    if bool(has_frames) != (version == SCHEMA_VERSION):
        raise DataError(f"{database.path} states format {version} and has tables of another; run `aladin repair FOLDER`")
    return int(version)


def stored_path(path: str, frame: int = 0) -> bytes:
    """What formats 1 and 2, and exports to this day, call one picture of the file at a path."""
    return os.fsencode(path) + (b"%s%d" % (MARK, frame) if frame else b"")


def file_and_frame(stored: bytes) -> tuple[str, int]:
    """The file's path and the number of its picture."""
    path, mark, number = stored.partition(MARK)
    return os.fsdecode(path), int(number) if mark and number.isdigit() else 0


class OlderDatabase(Database):
    """A file of an older format, opened for reading, whose images look as they do in the present one.

    It is not changed. A view of this connection has the name of the table, and goes when a writer has brought the file up to
    date. Leafing sorts all images then, since there is no index of their dates.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path, connection)
        self._older = True
        with failures_named(path):
            connection.execute("PRAGMA temp_store = MEMORY")
            further = connection.execute(f"SELECT EXISTS (SELECT 1 FROM images WHERE {_MARK_IN_PATH})").fetchone()[0]
            # Without further pictures a path is found by its index.
            stored = {"path": FILE_PATH, "frame": FRAME} if further else {"frame": "0"}
            stored |= {"date": date_from("taken", "mtime_ns")}
            columns = ", ".join(f"{stored.get(name, name)} AS {name}" for name in CHECKED)
            connection.execute(f"CREATE TEMP VIEW images AS SELECT {columns} FROM main.images")

    def rows(self, statement: str, values: Values = ()) -> list[Any]:
        if self._older and setting_of(self.connection, "schema_version") == SCHEMA_VERSION:
            self.connection.execute("DROP VIEW temp.images")
            self._older = False
        return super().rows(statement, values)


def setting_of(connection: sqlite3.Connection, key: str) -> Any:
    """The value of a setting as it stands in the file; None when there is none."""
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return found[0] if found else None


def migrate(database: Database, version: int) -> list[int]:
    """Bring the tables of an older format to this one, all but the checksums of rows, within the caller's transaction and with
    foreign keys off; the ids of rows that disagree with the checksum that they had, and are to have none now.

    A damaged row that the present tables do not take, such as one with a status that there is not, is to be read again.
    """
    damaged = _damaged_ids(database, version)
    for index in ("images_by_content", "images_by_taken", "images_by_change"):
        database.execute(f"DROP INDEX IF EXISTS {index}")
    database.execute(IMAGES_TABLE.replace("TABLE images", "TABLE images_now"))
    news = {"path": FILE_PATH, "frame": FRAME, "date": date_from("taken", "mtime_ns")}
    columns = ", ".join(news.get(name, name) for name in CHECKED)
    for rows in ("NOT IN", "IN"):  # sound ones first, whose path a damaged one may have
        database.execute(
            f"INSERT OR IGNORE INTO images_now ({', '.join(CHECKED)}) SELECT {columns} FROM images "
            f"WHERE id {rows} (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(damaged),),
        )
    with any_text(database.connection):
        refused = database.connection.execute(
            f"SELECT {columns} FROM images WHERE id NOT IN (SELECT id FROM images_now) ORDER BY id"
        ).fetchall()
    database.execute("DELETE FROM sqlite_sequence WHERE name = 'images_now'")
    database.execute("INSERT INTO sqlite_sequence SELECT 'images_now', seq FROM sqlite_sequence WHERE name = 'images'")
    database.execute("DROP TABLE images")
    database.execute("ALTER TABLE images_now RENAME TO images")
    for index in INDEXES:
        database.execute(index)
    for row in refused:
        for table in BLOBS:
            database.execute(f"DELETE FROM {table} WHERE id = ?", (row[0],))
        take_again(database.connection, dict(zip(CHECKED, row, strict=True)))
    database.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (SCHEMA_VERSION,))
    if version == 1:
        _forget_sections_of_the_model(database)
    return sorted(set(damaged) - {row[0] for row in refused})


def _forget_sections_of_the_model(database: Database) -> None:
    """What remains are the hashes of files, which the new fingerprint has too; without a stamp they are compared."""
    database.execute("DELETE FROM meta WHERE key = 'model_stamp'")
    database.execute(
        "UPDATE meta SET value = (SELECT json_group_object(key, value) FROM json_each(value) WHERE key NOT LIKE '[%') "
        "WHERE key = 'model_parts'"
    )


def _damaged_ids(database: Database, version: int) -> list[int]:
    checked = CHECKED_BY_FORMAT.get(version)
    if checked is None:
        return []
    with failures_named(database.path), any_text(database.connection):
        rows = database.connection.execute(f"SELECT {', '.join(checked)}, checksum FROM main.images NOT INDEXED")
        return [row[0] for row in rows if damaged_values(row)]
