"""64 bits that a picture keeps when it is saved, resized or recoloured again (dHash), read from the files of a collection.

Each of 8 x 8 bits says whether a point of the picture is darker than its right neighbour.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aladin.collection.cache import cache_folder, keep
from aladin.collection.settings import IndexConfig
from aladin.collection.store import ImageRow, Store
from aladin.pictures.decoding import Decoders
from aladin.pictures.fitting import Fitting
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Decoded, Unreadable
from aladin.progress import SILENT, Progress

SIDE = 8
MIN_BITS = 6  # set, and as many not set, in a fingerprint that tells something
READ_SIZE = 64  # px a side that pictures are decoded at
READ_AHEAD = 64  # pictures decoded before the first of them is looked at
NAME = "fingerprints.json"

Known = dict[str, int | None]  # by the content's SHA-256 in hex; None: a picture without structure


@dataclass(frozen=True)
class Fingerprints:
    """What reading the files of some images gave."""

    of_content: Known
    changed: tuple[ImageRow, ...]  # the file no longer holds what the collection read
    unreadable: tuple[ImageRow, ...]


def fingerprint(pixels: UInt8[np.ndarray, "height width 3"]) -> int | None:
    """The picture's 64 bits; None for a picture without structure, whose bits would be those of any other such."""
    small = Image.fromarray(pixels).convert("L").resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, dtype=np.int16)
    bits = (grey[:, :-1] < grey[:, 1:]).ravel()
    if not MIN_BITS <= bits.sum() <= bits.size - MIN_BITS:
        return None
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def read_fingerprints(collection: Store, rows: list[ImageRow], progress: Progress = SILENT) -> Fingerprints:
    """The fingerprints of these images, from the collection's cache where it has that content and else from the files.

    They are kept there for the next time, also when this is interrupted. `progress` counts the files that are read.
    """
    path = cache_folder(collection.path) / NAME
    known = _kept(path)
    unread = [row for row in rows if content_of(row) not in known]
    changed: list[ImageRow] = []
    unreadable: list[ImageRow] = []
    # Looked at only when it is read: by then a twin may have told what the content is.
    numbered = ((number, row) for number, row in enumerate(unread, 1) if content_of(row) not in known)
    try:
        for number, row, answer in _decoded(collection.root, numbered):
            if isinstance(answer, Unreadable):
                unreadable.append(row)
            elif answer.photograph.sha256 != row.sha256:
                changed.append(row)
            else:
                known[content_of(row)] = fingerprint(answer.pixels)
            progress(number, len(unread))
    finally:
        if unread:
            keep(path, lambda draft: draft.write_text(json.dumps(known), encoding="utf-8"))
    return Fingerprints(known, tuple(changed), tuple(unreadable))


def content_of(row: ImageRow) -> str:
    """The name of an image's content in `Known`."""
    return (row.sha256 or b"").hex()


def _decoded(root: Path, rows: Iterator[tuple[int, ImageRow]]) -> Iterator[tuple[int, ImageRow, Decoded | Unreadable]]:
    """Each image decoded small, in order, with its number."""
    ahead: deque[tuple[int, ImageRow, Future[Decoded | Unreadable]]] = deque()
    # A link is followed, since what it leads to counts only if it is the content that the collection knows.
    with Decoders(IndexConfig().decoding_limits, follow_symlinks=True) as decoders:
        for number, row in rows:
            ahead.append((number, row, decoders.submit(root, FileState(row.path, row.size, row.mtime_ns), Fitting(READ_SIZE))))
            if len(ahead) == READ_AHEAD:
                first, of, answer = ahead.popleft()
                yield first, of, answer.result()
        for first, of, answer in ahead:
            yield first, of, answer.result()


def _kept(path: Path) -> Known:
    """What an earlier run has left; nothing where that is missing or damaged."""
    try:
        kept = json.loads(path.read_bytes())
        return {str(content): None if bits is None else int(bits) % 2**64 for content, bits in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
