"""Files that have moved: an image is its content, so its row, with its id and what is said of it, follows it to another path.

All of it looks at the listing that the last comparison kept, and wants a transaction.
"""

import os

from aladin.collection.comparison import LISTED, UNKNOWN
from aladin.collection.schema import date_from
from aladin.collection.store import ImageRow
from aladin.collection.writer import CollectionWriter
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Photograph


def encoded_twin(collection: CollectionWriter, sha256: bytes) -> ImageRow | None:
    """An image of the same content that has a vector; an offline one first, since it may have moved."""
    found = collection.database.rows(
        "SELECT id FROM images WHERE sha256 = ? AND id IN (SELECT id FROM vectors) ORDER BY status != 'offline', id LIMIT 1",
        (sha256,),
    )
    return collection.row(found[0][0]) if found else None


def is_removed(collection: CollectionWriter, photograph: Photograph) -> bool:
    """Whether the image has been removed, here or where its file was; in the latter case the removed row is here now."""
    known = collection.row_at(photograph.file.path, photograph.file.frame)
    if known is not None:
        return known.status == "removed"
    gone = f"status = 'removed' AND NOT {LISTED} AND NOT {UNKNOWN}"
    found = collection.database.rows(
        f"SELECT id FROM images WHERE sha256 = ? AND {gone} ORDER BY id LIMIT 1", (photograph.sha256,)
    )
    if found:
        _move(collection, collection.row(found[0][0]), photograph.file)
    return bool(found)


def follow(collection: CollectionWriter, photograph: Photograph, twin: ImageRow) -> bool:
    """Make the row of `twin`, which has the same content, that of this file, if it is the one that `twin` was read from."""
    before = collection.row_at(photograph.file.path, photograph.file.frame)
    if before is None and (twin.status == "offline" or _has_left(collection, twin, photograph)):
        _move(collection, twin, photograph.file)
        return True
    if before and before.sha256 not in (None, photograph.sha256) and _has_left(collection, twin, photograph):
        _exchange(collection, twin, photograph.file, before)
        return True
    return False


def _has_left(collection: CollectionWriter, twin: ImageRow, photograph: Photograph) -> bool:
    """Whether the file of the same content is no longer what it was, so that it is this one: files have traded their names."""
    if twin.frame or photograph.file.frame:
        return False
    as_read = "SELECT 1 FROM listing WHERE path = ? AND size = ? AND mtime_ns = ?"
    return not collection.database.rows(as_read, (os.fsencode(twin.path), twin.size, twin.mtime_ns))


def _move(collection: CollectionWriter, row: ImageRow, file: FileState) -> None:
    """`row` is from now on the file at a path that has no row yet; a removed one stays so."""
    removed = row.status == "removed"
    date = "''" if removed else date_from("taken", "?4")
    status = "" if removed else ", status = 'ok', reason = NULL"
    collection.change(
        f"path = ?1, frame = ?2, size = ?3, mtime_ns = ?4, date = {date}{status}",
        "id = ?5",
        (os.fsencode(file.path), file.frame, file.size, file.mtime_ns, row.id),
    )


def _exchange(collection: CollectionWriter, row: ImageRow, file: FileState, other: ImageRow) -> None:
    """`row` is from now on the file at the path of `other`, which takes the path that `row` had."""
    assert (other.path, other.frame) == (file.path, file.frame)
    collection.change("path = x'00' || path", "id = ?", (other.id,))  # no two rows have a path, not even meanwhile
    _move(collection, row, file)
    there = (os.fsencode(row.path), row.frame, row.status == "offline", other.id)
    collection.change("path = ?, frame = ?, status = iif(?, 'offline', status)", "id = ?", there)
