"""What stands in a collection's file: its tables, the checksums that cover them, and how an older format becomes this one.

Every row of images, every vector and every token set carries a CRC-32, and one more, the seal, covers the settings and the
tables' definitions. SQLite's own check covers how its pages hang together. So a changed bit is either noticed or stands where
nothing is stored.
"""

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from typing import Any

SCHEMA_VERSION = 2
OLDEST_READABLE = 1
APPLICATION_ID = 0x414C4144  # "ALAD", in the header of the file
# An id is never given twice. A path is relative to the root, in the bytes of the file system, which need not be UTF-8. A
# further picture of a file has that file's, two slashes and its number (`frames`).
# A row's generation is that of the collection when the row last changed. Vectors and tokens stand apart, so that a scan of
# all vectors does not pass over the tokens, which are 25 times larger.
IMAGES_TABLE = """
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
"""
SECOND_CHANGED = "mtime_ns / 1000000000"
# The images that can be found, by date. Those without a camera's are ordered by the second in which the file was changed, since
# SQLite indexes nothing that depends on the local clock. A collection of this format may lack them: its next writer adds them.
DATE_INDEXES = {
    "images_by_taken": "images (taken DESC) WHERE status = 'ok' AND taken IS NOT NULL",
    "images_by_change": f"images ({SECOND_CHANGED} DESC) WHERE status = 'ok' AND taken IS NULL",
}
SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) WITHOUT ROWID;
{IMAGES_TABLE}
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, vector BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, tokens BLOB NOT NULL, checksum INTEGER NOT NULL
);
"""
CHECKED = (
    "id", "path", "size", "mtime_ns", "sha256", "width", "height", "taken", "metadata", "status", "reason", "generation",
)  # fmt: skip

# Of a writing connection only: no reader and no other program needs the function that they call.
CHECKSUM_TRIGGERS = tuple(
    f"""
CREATE TEMP TRIGGER checked_{name} AFTER {event} ON main.images
BEGIN
    UPDATE images SET checksum = row_checksum({", ".join(f"NEW.{column}" for column in CHECKED)}) WHERE id = NEW.id;
END"""
    for name, event in (("insert", "INSERT"), ("update", f"UPDATE OF {', '.join(CHECKED[1:])}"))
)

Rows = Callable[[str], list[Any]]  # runs a statement and gives its rows


def row_checksum(*values: bytes | str | int | None) -> int:
    """The CRC-32 of one row's values, in the order of CHECKED."""
    return zlib.crc32(ascii(values).encode())


def keep_checksums(connection: sqlite3.Connection) -> None:
    """From here on every row of images that this connection writes gets its checksum."""
    connection.create_function("row_checksum", len(CHECKED), row_checksum, deterministic=True)
    for trigger in CHECKSUM_TRIGGERS:
        connection.execute(trigger)


def seal(rows: Rows) -> int:
    """The checksum over all settings but itself, the next id, and the tables' definitions."""
    settings = rows("SELECT key, value FROM meta WHERE key != 'seal' ORDER BY key")
    last_id = rows("SELECT seq FROM sqlite_sequence WHERE name = 'images'")
    tables = rows("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name")
    return zlib.crc32(ascii((settings, last_id, tables)).encode())


def create_tables(execute: Callable[[str], Any]) -> None:
    """The empty tables, within the caller's transaction."""
    _run(execute, SCHEMA)
    create_date_indexes(execute)
    execute(f"PRAGMA application_id = {APPLICATION_ID}")


def create_date_indexes(execute: Callable[[str], Any]) -> None:
    """Those that are not there yet, within the caller's transaction."""
    for name, columns in DATE_INDEXES.items():
        execute(f"CREATE INDEX IF NOT EXISTS {name} ON {columns}")


def has_date_indexes(rows: Rows) -> bool:
    """Whether all of them are there."""
    names = ", ".join(f"'{name}'" for name in DATE_INDEXES)
    found = rows(f"SELECT count(*) FROM sqlite_master WHERE type = 'index' AND name IN ({names})")
    return bool(found == [(len(DATE_INDEXES),)])


def migrate(execute: Callable[..., Any], version: int) -> None:
    """Bring the tables of an older format to this one, all but the checksums, within the caller's transaction and with foreign
    keys off.

    Format 1 had no checksums of image rows, and no removed ones; the fingerprint was over whole sections of model.toml.
    """
    assert version == 1
    names = ", ".join(CHECKED)
    execute("DROP INDEX images_by_content")
    table, index, _ = IMAGES_TABLE.split(";")
    execute(table.replace("TABLE images", "TABLE images_now"))
    execute(f"INSERT INTO images_now ({names}) SELECT {names} FROM images")
    last_id = "(SELECT seq FROM sqlite_sequence WHERE name = 'images')"
    execute(f"UPDATE sqlite_sequence SET seq = {last_id} WHERE name = 'images_now'")
    execute("DROP TABLE images")
    execute("ALTER TABLE images_now RENAME TO images")
    execute(index)
    execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (SCHEMA_VERSION,))
    # What remains are the hashes of files, which the new fingerprint has too; without a stamp they are compared.
    execute("DELETE FROM meta WHERE key = 'model_stamp'")
    execute(
        "UPDATE meta SET value = (SELECT json_group_object(key, value) FROM json_each(value) WHERE key NOT LIKE '[%') "
        "WHERE key = 'model_parts'"
    )


def _run(execute: Callable[[str], Any], statements: str) -> None:
    for statement in statements.split(";")[:-1]:
        execute(statement)


def readable(version: object) -> bool:
    """Whether this version reads a file of that format."""
    return isinstance(version, int) and OLDEST_READABLE <= version <= SCHEMA_VERSION


def damaged_values(row: Sequence[Any]) -> bool:
    """Whether a row of CHECKED and its checksum, as read from the file, disagree."""
    *values, checksum = row
    return bool(row_checksum(*values) != checksum)
