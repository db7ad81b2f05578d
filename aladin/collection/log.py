"""Whether SQLite's log of a collection, the file beside it whose name ends in -wal, is whole.

SQLite takes the first frame whose checksum is wrong for the log's end, since a crash may have cut a write short there. So what
was committed behind a changed bit would be gone without a word. Here frames are looked at beyond it: each starts from the
checksum that the one before it states. The format: https://sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
from dataclasses import dataclass
from pathlib import Path

HEADER = struct.Struct(">8I")  # magic, version, page size, checkpoint, two salts, checksum (in two parts)
FRAME = struct.Struct(">6I")  # page, the file's pages after a commit or 0, two salts, checksum
MAGIC = 0x377F0682  # the last bit tells in which order of bytes checksums are computed
MOST = 0xFFFFFFFF

Sum = tuple[int, int]


@dataclass(frozen=True)
class _Frame:
    """What one frame states."""

    commits: bool
    salts: tuple[int, int]
    right: bool  # whether its checksum is


def log_damage(collection: Path) -> str | None:
    """What is wrong with the log of the collection at that path, in words; None when it is whole, or when there is none.

    Nobody may be writing meanwhile. The last transaction is not judged: when power fails while it is written, any part of it
    may be missing, and nobody can tell that from a bit that changed later.
    """
    try:
        content = collection.with_name(collection.name + "-wal").read_bytes()
    except FileNotFoundError:
        return None
    if len(content) < HEADER.size + FRAME.size:
        return None  # not one frame was written
    magic, _, page_size, _, *salts, first, second = HEADER.unpack_from(content)
    order = ">" if magic & 1 else "<"
    if magic & ~1 != MAGIC or _checksum(content[:24], (0, 0), order) != (first, second):
        return "the log (-wal) has a damaged head, so nothing of it is read"
    frames = _frames(content, page_size, (first, second), order)
    wrong = next((n for n, frame in enumerate(frames) if not frame.right or frame.salts != (salts[0], salts[1])), None)
    if wrong is None:
        return None
    # What the log held before it was begun anew has two other salts; a changed bit is in one of them.
    ours = [frame for frame in frames[wrong:] if frame.salts[0] == salts[0] or frame.salts[1] == salts[1]]
    if sum(frame.commits for frame in ours) < 2:
        return None
    return (
        f"the log (-wal) is damaged in frame {wrong + 1} of {wrong + len(ours)}; what was committed from there on is not read"
    )


def _frames(content: bytes, page_size: int, seed: Sum, order: str) -> list[_Frame]:
    """All complete frames that the file has room for; each starts from the checksum that the one before it states."""
    frames = []
    for start in range(HEADER.size, len(content) - FRAME.size - page_size + 1, FRAME.size + page_size):
        _, pages, salt, other_salt, first, second = FRAME.unpack_from(content, start)
        page = content[start + FRAME.size : start + FRAME.size + page_size]
        computed = _checksum(content[start : start + 8] + page, seed, order)
        frames.append(_Frame(pages > 0, (salt, other_salt), computed == (first, second)))
        seed = (first, second)
    return frames


def _checksum(data: bytes, seed: Sum, order: str) -> Sum:
    first, second = seed
    for one, other in struct.iter_unpack(f"{order}2I", data):
        first = (first + one + second) & MOST
        second = (second + other + first) & MOST
    return first, second
