"""The only changes that clients can make: put a picture into the folder, take an image out of the collection."""

import hashlib
import os
import secrets
from pathlib import Path

from aladin.collection.indexing import index_folder
from aladin.collection.store import ImageRow
from aladin.collection.writer import CollectionWriter
from aladin.errors import DataError
from aladin.server.problems import no_image
from aladin.server.service import Served

FOLDER = "added"  # below the collection's; no part of a name comes from a client
KINDS = (
    (b"\xff\xd8\xff", 0, ".jpg"), (b"\x89PNG", 0, ".png"), (b"WEBP", 8, ".webp"), (b"GIF8", 0, ".gif"), (b"BM", 0, ".bmp"),
    (b"II*\0", 0, ".tif"), (b"MM\0*", 0, ".tif"), (b"ftypavif", 4, ".avif"), (b"ftyphei", 4, ".heic"),
    (b"ftypmif1", 4, ".heic"),
)  # fmt: skip


def add(served: Served, data: bytes) -> ImageRow:
    """Write an image into the folder and its collection; its row. The same content twice is one image.

    DataError when it is none, CollectionLocked while somebody else writes.
    """
    served.renderer.threads.submit(served.renderer.render, data, 64, 50).result()  # whether it is an image at all
    ending = next((ending for magic, position, ending in KINDS if data[position : position + len(magic)] == magic), None)
    if ending is None:
        raise DataError("the image is of no format that is kept; send JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF")
    name = hashlib.sha256(data).hexdigest()[:40] + ending
    # Opened before the file is written: while somebody else writes, nothing is left behind.
    with CollectionWriter.create(served.config.file, served.config.folder) as collection:
        _write_once(collection.root, name, data)
        known = collection.row_at(f"{FOLDER}/{name}")
        if known is not None and known.status == "removed":
            with collection.transaction():
                collection.restore([known.id])
        index_folder(collection, served.encoder)
        row = collection.row_at(f"{FOLDER}/{name}")
    assert row is not None, "what was just written is listed"
    return row


def remove(served: Served, public_id: str) -> None:
    """Take an image out of the collection; its file stays as it is. Problem 404 when there is none."""
    with CollectionWriter.create(served.config.file, served.config.folder) as collection:
        try:
            row = collection.row(served.stored_id(public_id))
        except KeyError:
            raise no_image(public_id) from None
        if row.status == "removed":
            raise no_image(public_id)
        with collection.transaction():
            collection.remove([row.id])


def _write_once(root: Path, name: str, data: bytes) -> None:
    """The file whole or not at all, in a folder that is no link."""
    folder = root / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            draft = f".{secrets.token_hex(8)}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(draft, flags, 0o644, dir_fd=descriptor), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(draft, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"the image cannot be written into the folder ({error.strerror}); check that the server may") from None
