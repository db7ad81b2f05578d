"""A listing of the folder held against the rows: what is gone goes offline, what is back is restored, the rest is unread."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aladin.collection.database import failures_named
from aladin.collection.writer import CollectionWriter
from aladin.pictures.listing import FileState, Unlisted

# An image needs no reading when its file is as it was and it has a vector, or a reason for having none; or is not wanted.
SETTLED = """(images.status = 'removed' OR images.size = listing.size AND images.mtime_ns = listing.mtime_ns AND (
    images.reason IS NOT NULL OR EXISTS (SELECT 1 FROM vectors WHERE vectors.id = images.id)))"""
# The file of a row is listed; further pictures of a file have rows of their own.
LISTED = "EXISTS (SELECT 1 FROM listing WHERE listing.path = images.path)"
LISTED_AND_SETTLED = f"EXISTS (SELECT 1 FROM listing WHERE listing.path = images.path AND {SETTLED})"
# A further picture of a file is to be read, which is done with the file.
FURTHER_PENDING = """EXISTS (SELECT 1 FROM images AS further
    WHERE further.path = listing.path AND further.frame > 0 AND further.status = 'pending')"""
# Below a folder that could not be listed nothing is known to be gone.
UNKNOWN = """EXISTS (SELECT 1 FROM unlisted WHERE images.path = unlisted.path
    OR substr(images.path, 1, length(unlisted.path) + 1) = CAST(unlisted.path || '/' AS BLOB))"""
GONE = f"status NOT IN ('offline', 'removed') AND NOT {LISTED} AND NOT {UNKNOWN}"
RETURNED = f"status = 'offline' AND {LISTED_AND_SETTLED}"
UNREAD_BLOCK = 1000  # files looked up at once


@dataclass(frozen=True)
class Comparison:
    """A folder's listing against the rows: how many files are as they were, back, gone, and to be read."""

    known: int  # images that were there at the last look
    listed: int  # files
    unchanged: int
    returned: int
    gone: int  # of those known
    unread: int


def compare(collection: CollectionWriter, files: Iterable[FileState | Unlisted]) -> Comparison:
    """Hold a listing of the whole folder against the rows: those gone go offline, those back are restored.

    Nothing is forgotten: an offline row keeps its id, vector and tokens. Opens its transaction when there is a change.
    """
    _keep_listing(collection, files)

    def count(source: str) -> int:
        return int(collection.database.rows(f"SELECT count(*) FROM {source}")[0][0])

    counts = {
        "known": count("images WHERE status NOT IN ('offline', 'removed')"),
        "listed": count("listing"),
        "returned": count(f"images WHERE {RETURNED}"),
        "gone": count(f"images WHERE {GONE}"),
        "unread": count("unread"),
    }
    further = count(f"images WHERE frame > 0 AND {LISTED_AND_SETTLED}")
    if counts["gone"] or counts["returned"]:
        with collection.transaction():
            collection.change("status = 'offline'", GONE)
            collection.change("status = CASE WHEN reason IS NULL THEN 'ok' ELSE 'failed' END", RETURNED)
    return Comparison(unchanged=counts["listed"] + further - counts["unread"] - counts["returned"], **counts)


def unread(collection: CollectionWriter) -> Iterator[FileState]:
    """The files that the last comparison found new or changed, by path."""
    last = 0
    statement = f"SELECT rowid, path, size, mtime_ns FROM unread WHERE rowid > ? ORDER BY rowid LIMIT {UNREAD_BLOCK}"
    while rows := collection.database.rows(statement, (last,)):
        yield from (FileState(os.fsdecode(path), size, mtime_ns) for _, path, size, mtime_ns in rows)
        last = rows[-1][0]


def _keep_listing(collection: CollectionWriter, files: Iterable[FileState | Unlisted]) -> None:
    """Tables of this connection's own: the listing, what could not be listed, and what has to be read."""
    database = collection.database
    for table in ("listing", "unlisted", "unread"):
        database.execute(f"DROP TABLE IF EXISTS temp.{table}")
    database.execute("CREATE TEMP TABLE listing (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID")
    database.execute("CREATE TEMP TABLE unlisted (path BLOB PRIMARY KEY) WITHOUT ROWID")
    unlisted: list[tuple[bytes]] = []

    def rows() -> Iterator[tuple[bytes, int, int]]:
        for file in files:
            if isinstance(file, Unlisted):
                unlisted.append((os.fsencode(file.path),))
            else:
                yield os.fsencode(file.path), file.size, file.mtime_ns

    with failures_named(database.path):
        database.connection.execute("BEGIN")
        try:
            database.connection.executemany("INSERT OR REPLACE INTO listing VALUES (?, ?, ?)", rows())
            database.connection.executemany("INSERT OR REPLACE INTO unlisted VALUES (?)", unlisted)
        finally:
            database.connection.commit()
    database.execute(
        "CREATE TEMP TABLE unread AS SELECT listing.* FROM listing "
        "LEFT JOIN images ON images.path = listing.path AND images.frame = 0 "
        f"WHERE NOT coalesce({SETTLED}, FALSE) {f'OR {FURTHER_PENDING}' if collection.frames > 1 else ''} ORDER BY listing.path"
    )
