"""What stands in a collection's file: its tables and the checksums that cover them. Older formats are in `formats`.

Every row of images, every vector and every token set carries a CRC-32, and one more, the seal, covers the settings and the
tables' definitions. SQLite's own check covers how its pages hang together. So a changed bit is either noticed or stands where
nothing is stored.
"""

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from typing import Any

SCHEMA_VERSION = 3
APPLICATION_ID = 0x414C4144  # "ALAD", in the header of the file
# An id is never given twice. A path is relative to the root, in the bytes of the file system, which need not be UTF-8. A file
# that holds several pictures may have a row for each; its first has frame 0.
# A date is the camera's, else what the local clock of the writer showed when the file was changed, else ''.
# A row's generation is that of the collection when the row last changed. Vectors and tokens stand apart, so that a scan of
# all vectors does not pass over the tokens, which are 25 times larger.
IMAGES_TABLE = """
CREATE TABLE images (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path BLOB NOT NULL,
    frame INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 BLOB,
    width INTEGER,
    height INTEGER,
    taken TEXT,
    date TEXT NOT NULL DEFAULT '',
    metadata TEXT NOT NULL DEFAULT '{}',
    status TEXT NOT NULL CHECK (status IN ('ok', 'failed', 'offline', 'pending', 'removed')),
    reason TEXT,
    generation INTEGER NOT NULL,
    checksum INTEGER NOT NULL DEFAULT 0,
    UNIQUE (path, frame)
)"""
INDEXES = (
    "CREATE INDEX images_by_content ON images (sha256)",
    "CREATE INDEX images_by_date ON images (date DESC, id) WHERE status = 'ok'",
)
TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) WITHOUT ROWID",
    IMAGES_TABLE,
    *INDEXES,
    """
CREATE TABLE vectors (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, vector BLOB NOT NULL, checksum INTEGER NOT NULL
)""",
    """
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY REFERENCES images ON DELETE CASCADE, tokens BLOB NOT NULL, checksum INTEGER NOT NULL
)""",
)
BLOBS = {"vectors": "vector", "tokens": "tokens"}  # table -> its column
CHECKED = (
    "id", "path", "frame", "size", "mtime_ns", "sha256", "width", "height", "taken", "date", "metadata", "status", "reason",
    "generation",
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


def local_time(mtime_ns: str) -> str:
    """In SQL: what the local clock shows at that moment, as 2026-05-01T12:30:00."""
    return f"strftime('%Y-%m-%dT%H:%M:%S', {mtime_ns} / 1000000000, 'unixepoch', 'localtime')"


def date_from(taken: str, mtime_ns: str) -> str:
    """In SQL: the date of an image with that camera's date, or NULL, whose file was changed at that moment."""
    return f"coalesce({taken}, {local_time(mtime_ns)}, '')"


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


def create_tables(execute: Callable[[str], Any], tables: Sequence[str] = TABLES) -> None:
    """The empty tables, within the caller's transaction."""
    for statement in tables:
        execute(statement)
    execute(f"PRAGMA application_id = {APPLICATION_ID}")


def damaged_values(row: Sequence[Any]) -> bool:
    """Whether a row's values and its checksum behind them, as read from the file, disagree."""
    *values, checksum = row
    return bool(row_checksum(*values) != checksum)
