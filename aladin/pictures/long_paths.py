"""Files at paths of any length: a system takes no more than 4,096 bytes at once, but goes on from a folder that is open."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

STEP_BYTES = 1000  # gone at once: less than any system takes, more than any name has


@contextmanager
def within_reach(path: str) -> Iterator[tuple[str, int | None]]:
    """A path as the system takes it: what remains of it, and the folder that this starts from, as for `dir_fd`.

    Short paths come as they are, with None. Use both before the block ends.
    """
    folder: int | None = None
    try:
        while len(os.fsencode(path)) > STEP_BYTES:
            step, path = _divided(path)
            passing = getattr(os, "O_PATH", os.O_RDONLY)  # who may pass through a folder need not be allowed to list it
            inner = os.open(step, passing | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
            if folder is not None:
                os.close(folder)
            folder = inner
        yield path, folder
    finally:
        if folder is not None:
            os.close(folder)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The whole content of a file; OSError as usual."""
    with within_reach(os.fspath(path)) as (name, folder):
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def status_of(path: str | os.PathLike[str], follow_symlinks: bool = True) -> os.stat_result:
    """What the system says of a file or folder; OSError as usual."""
    with within_reach(os.fspath(path)) as (name, folder):
        return os.stat(name, dir_fd=folder, follow_symlinks=follow_symlinks)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file or folder, as far as the system tells."""
    try:
        status_of(path)
        return True
    except OSError:
        return False


def _divided(path: str) -> tuple[str, str]:
    """A first part of a long path, of whole names, and the rest, which starts at no root."""
    raw = os.fsencode(path)
    end = raw.rfind(b"/", 1, STEP_BYTES + 1)
    if end < 0:  # a name longer than any system takes; let it say so
        return path, ""
    return os.fsdecode(raw[:end]), os.fsdecode(raw[end:].lstrip(b"/"))
