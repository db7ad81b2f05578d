"""Rows that no checksum confirms: what of one can be trusted, and how it gets into a table beside the sound ones."""

import json
import sqlite3
from contextlib import suppress
from typing import Any

from aladin.collection.schema import CHECKED, date_from

Row = dict[str, Any]  # the values of CHECKED
# The facts that a row is left without when they cannot be trusted; size -1 is no file's, so the file is read again.
UNTRUSTED = {
    "size": -1, "mtime_ns": -1, "sha256": None, "width": None, "height": None, "taken": None, "date": "", "reason": None,
}  # fmt: skip


def values_of(connection: sqlite3.Connection, image_id: int) -> Row | None:
    """The row with that id as it stands in the file; None when there is none."""
    statement = f"SELECT {', '.join(CHECKED)} FROM images NOT INDEXED WHERE id = ?"
    row = connection.execute(statement, (image_id,)).fetchone()
    return dict(zip(CHECKED, row, strict=True)) if row else None


def insert(target: sqlite3.Connection, row: Row) -> bool:
    """Insert a row as it was read, one without a date with that of an older format; whether no other has its id or its path."""
    row = row | {"generation": row["generation"] if isinstance(row["generation"], int) else 0}
    date = f"coalesce(:date, {date_from(':taken', ':mtime_ns')})"
    values = ", ".join(date if name == "date" else f":{name}" for name in CHECKED)
    statement = f"INSERT OR IGNORE INTO images ({', '.join(CHECKED)}) VALUES ({values})"
    return target.execute(statement, row).rowcount == 1


def to_read_again(row: Row) -> Row | None:
    """A damaged row with what can be trusted in it; None when that is nothing."""
    path, frame = row["path"], row.get("frame")
    if not isinstance(path, bytes) or not path or b"\0" in path or path.startswith(b"/") or b".." in path.split(b"/"):
        return None
    if not isinstance(frame, int) or frame < 0:
        return None
    status = "removed" if row["status"] == "removed" else "pending"
    return row | UNTRUSTED | {"metadata": _sound_metadata(row["metadata"]), "status": status}


def _sound_metadata(text: object) -> str:
    with suppress(ValueError, UnicodeError):
        if isinstance(text, str) and text.encode() and isinstance(json.loads(text), dict):
            return text
    return "{}"


def take_again(connection: sqlite3.Connection, row: Row) -> bool:
    """Put a damaged row in to be read again, or where that cannot be, let the file at its path be; whether the row is in."""
    mended = to_read_again(row)
    if mended is not None and insert(connection, mended):
        return True
    read_again_at(connection, row["path"])
    return False


def read_again_at(connection: sqlite3.Connection, path: object) -> None:
    """Let the file at a path be read again by the next `index`, since one of its pictures may have been lost."""
    connection.execute("UPDATE images SET mtime_ns = -1 WHERE path = ?", (path,))
