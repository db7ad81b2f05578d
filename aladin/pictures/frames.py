"""The pictures of a file that holds several: how the collection names them, and which of many are taken.

The first is the file's own row. Each further one has a row at a path that no file can have: the file's, two slashes and the
picture's number. So it sorts, and is removed, with what lies below the file's path.
"""

import os
import re

CONSIDERED_FRAMES = 1000  # of an animation of ten thousand, those of its beginning
MARK = b"//"

# The same in SQL, of the column images.path.
_MARK_IN_PATH = f"instr(path, x'{MARK.hex()}')"
FILE_PATH = f"iif({_MARK_IN_PATH}, substr(path, 1, {_MARK_IN_PATH} - 1), path)"
FRAME = f"iif({_MARK_IN_PATH}, CAST(CAST(substr(path, {_MARK_IN_PATH} + {len(MARK)}) AS TEXT) AS INTEGER), 0)"


def is_further(path: str, file: str) -> str:
    """In SQL: whether `path` is that of a further picture of the file at `file`, found by the index of paths."""
    # '0' is the character after '/'; text joined to bytes is text, which is less than any bytes.
    return f"({path} > CAST({file} || '{MARK.decode()}' AS BLOB) AND {path} < CAST({file} || '/0' AS BLOB))"


def stored_path(path: str, frame: int = 0) -> bytes:
    """What the collection calls one picture of the file at a path."""
    return os.fsencode(path) + (b"%s%d" % (MARK, frame) if frame else b"")


def file_and_frame(stored: bytes) -> tuple[str, int]:
    """The file's path and the number of its picture."""
    path, mark, number = stored.partition(MARK)
    return os.fsdecode(path), int(number) if mark and number.isdigit() else 0


def picture_name(path: str, frame: int) -> str:
    """What people call it: the first by its file, the others as in ImageMagick, "cat.gif[2]", counted from 0."""
    return f"{path}[{frame}]" if frame else path


def named_picture(name: str) -> tuple[str, int]:
    """The path and number that `picture_name` was given."""
    found = re.fullmatch(r"(.+)\[([1-9][0-9]{0,8})\]", name, re.DOTALL)
    return (found[1], int(found[2])) if found else (name, 0)


def chosen_frames(count: int, most: int) -> list[int]:
    """Which of `count` pictures are taken: all, or `most` of them spread evenly; always the first."""
    count = min(count, CONSIDERED_FRAMES)
    return list(range(count)) if count <= most else [number * count // most for number in range(most)]
