"""Images that are copies of each other, on three levels of likeness.

- "exact": the same file content, byte by byte (SHA-256).
- "same": the same picture saved, resized or recoloured again: of the 64 bits of their fingerprints at most 10 differ, and the
  model's vectors have a cosine of 0.66 or more.
- "alike": nearly the same scene, such as a burst or a mirrored copy: a cosine of 0.93 or more.

Each level includes those before it. What is alike need not be alike to all of its group: likeness is handed on. How the
numbers were found is in docs/collections.md; `benchmarks/duplicates.py` prints what they come to.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from aladin.collection.store import ImageRow, Store
from aladin.pictures.listing import sidecar_names
from aladin.pictures.long_paths import status_of
from aladin.progress import SILENT, Progress
from aladin.search.fingerprints import SIDE, Known, content_of, read_fingerprints

Level = Literal["exact", "same", "alike"]
LEVELS: tuple[Level, ...] = ("exact", "same", "alike")
MAX_BITS = 10  # of 64 that differ
LEAST_SIGNS = SIDE**2 - 2.0 * MAX_BITS  # product of two fingerprints as 1 and -1
MIN_COSINE = 0.66  # of two pictures with nearly the same bits
ALIKE_COSINE = 0.93
BLOCK_CELLS = 2**24  # pairs compared at once: 64 MB

Likeness = tuple[Float32[np.ndarray, "images _"], float]  # what is multiplied, and the least product that counts
Near = Iterator[Int64[np.ndarray, " near"]]  # positions of images that belong together, two or more


@dataclass(frozen=True)
class Group:
    """Images that belong together; the first has the most pixels, then the most bytes, then the lowest id."""

    level: Level  # the tightest one at which they still hang together
    images: tuple[ImageRow, ...]


@dataclass(frozen=True)
class Duplicates:
    """The groups of a collection, by the id of their first image, and the images that had to be left out."""

    groups: tuple[Group, ...]
    changed: tuple[ImageRow, ...]  # their files are gone, or not as they were when they were indexed; in no group
    unreadable: tuple[ImageRow, ...]  # their files cannot be read now; compared by content and vector alone


def find_duplicates(collection: Store, level: Level = "same", progress: Progress = SILENT) -> Duplicates:
    """Groups of two images or more, of those that can be found and whose files are as the collection knows them; of a file with
    several pictures the first counts.

    From level "same" on every content is read once for its fingerprint, which is then kept in the collection's cache.
    `progress` counts the files read, then the images compared, once for each level.
    """
    root, rows, changed = collection.root, list[ImageRow](), list[ImageRow]()
    for row in collection.images("ok"):
        if row.frame:
            continue
        (rows if _as_indexed(root, row) else changed).append(row)
    unreadable: tuple[ImageRow, ...] = ()
    prints: Known = {}
    if level != "exact":
        read = read_fingerprints(collection, rows, progress)
        prints, unreadable = read.of_content, read.unreadable
        gone = {row.id for row in read.changed}
        rows, changed = [row for row in rows if row.id not in gone], sorted([*changed, *read.changed], key=lambda row: row.id)
    labels = {"exact": _by_content(rows)}
    if level != "exact":
        first = np.unique(labels["exact"])  # one of each content
        ids, found = collection.findable_vectors(np.array([rows[position].id for position in first], dtype=np.int64))
        positions, vectors = _positions(rows, ids), found.astype(np.float32)
        signs = _signs([prints.get(content_of(rows[position])) for position in positions])
        labels["same"] = _joined(labels["exact"], positions, _near([(signs, LEAST_SIGNS), (vectors, MIN_COSINE)], progress))
        if level == "alike":
            labels["alike"] = _joined(labels["same"], positions, _near([(vectors, ALIKE_COSINE)], progress))
    return Duplicates(tuple(_groups(rows, labels)), tuple(changed), unreadable)


def _as_indexed(root: Path, row: ImageRow) -> bool:
    """Whether the file's size and time are those that it had when it was indexed."""
    path = os.path.join(root, row.path)  # noqa: PTH118, a Path is dear where there are a million
    try:
        status = status_of(path)
    except OSError:
        return False
    if status.st_size != row.size or status.st_mtime_ns > row.mtime_ns:
        return False
    return status.st_mtime_ns == row.mtime_ns or _sidecar_has(path, row.mtime_ns)


def _sidecar_has(path: str, mtime_ns: int) -> bool:
    """Whether it is a file of facts beside the image that was younger."""
    folder, _, name = path.rpartition("/")
    for sidecar in sidecar_names(name):
        try:
            return status_of(f"{folder}/{sidecar}").st_mtime_ns == mtime_ns
        except OSError:
            continue
    return False


def _by_content(rows: list[ImageRow]) -> Int64[np.ndarray, " rows"]:
    """For each row the position of the first one with its content."""
    first: dict[bytes, int] = {}
    return np.array(
        [first.setdefault(row.sha256 or b"%d" % row.id, position) for position, row in enumerate(rows)], dtype=np.int64
    )


def _positions(rows: list[ImageRow], ids: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
    """Where the rows with these ids stand; both are in the order of ids."""
    return np.searchsorted(np.array([row.id for row in rows], dtype=np.int64), ids)


def _signs(prints: list[int | None]) -> Float32[np.ndarray, "images bits"]:
    """Bits as 1 and -1, so that a product counts how many agree; all 0 where there is no fingerprint."""
    signs = np.zeros((len(prints), SIDE**2), dtype=np.float32)
    for position, value in enumerate(prints):
        if value is not None:
            signs[position] = np.unpackbits(np.frombuffer(value.to_bytes(SIDE, "big"), dtype=np.uint8)) * 2.0 - 1.0
    return signs


def _near(likenesses: list[Likeness], progress: Progress) -> Near:
    """Each image that has any, first, and the images that are near to it by every likeness; each pair at least once.

    What comes later in the list is computed only for images that have any by what comes before.
    """
    images = len(likenesses[0][0])
    step = max(1, BLOCK_CELLS // max(images, 1))
    for start in range(0, images, step):
        rows = np.arange(start, min(start + step, images))
        near = np.ones((len(rows), images - start), dtype=bool)
        np.fill_diagonal(near, False)  # itself
        for values, least in likenesses:
            near &= values[rows] @ values[start:].T >= least
            some = near.any(axis=1)
            rows, near = rows[some], near[some]
        for row, others in zip(rows, near, strict=True):
            yield np.concatenate([[row], start + np.flatnonzero(others)])
        progress(min(start + step, images), images)


def _joined(
    labels: Int64[np.ndarray, " rows"], positions: Int64[np.ndarray, " images"], links: Near
) -> Int64[np.ndarray, " rows"]:
    """New labels, equal for all that hangs together by these links among some positions; a label is its lowest position."""
    labels = labels.copy()
    for link in links:
        found = labels[positions[link]]
        if (found != found[0]).any():  # thousands of copies are one group after the first of them
            found = np.unique(found)
            labels[np.isin(labels, found)] = found[0]
    return labels


def _groups(rows: list[ImageRow], labels: dict[str, Int64[np.ndarray, " rows"]]) -> list[Group]:
    """What has the same label on the loosest level."""
    loosest = list(labels.values())[-1]
    members: dict[int, list[int]] = defaultdict(list)
    for position, label in enumerate(loosest.tolist()):
        members[label].append(position)
    groups = []
    for positions in members.values():
        if len(positions) > 1:
            level = next(level for level in LEVELS if len(set(labels[level][positions].tolist())) == 1)
            groups.append(Group(level, tuple(sorted((rows[position] for position in positions), key=_best_first))))
    return sorted(groups, key=lambda group: group.images[0].id)


def _best_first(row: ImageRow) -> tuple[int, int, int]:
    return (-(row.width or 0) * (row.height or 0), -row.size, row.id)
