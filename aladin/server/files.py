"""The only place where the server opens a photograph: by the path in the collection, below its folder, through no link."""

import os
import stat
from pathlib import Path

from aladin.server.problems import Problem

MAX_BYTES = 1 << 29


def read_below(root: Path, path: str) -> bytes:
    """The content of the regular file at a path relative to `root`.

    Each part is opened from the folder before it and must not be a symbolic link, so that nothing outside `root` is read even
    if somebody exchanges a folder for a link at this moment. Problem 404 when there is no such file.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise _missing()
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for number, part in enumerate(parts):
            kind = os.O_NONBLOCK if number == len(parts) - 1 else os.O_DIRECTORY
            try:
                inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise _missing()
            return file.read(MAX_BYTES)
    except (OSError, ValueError):
        raise _missing() from None


def _missing() -> Problem:
    return Problem(404, "the image's file is not there now; it may come back when its disk does")
