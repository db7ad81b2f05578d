"""Files of what can be computed again: written whole or not at all, and never missed where they cannot be written."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from aladin.files import replacing


def cache_folder(collection: Path) -> Path:
    """Where what can be computed again of the collection at a path is kept; it may be deleted at any time."""
    return collection.with_name(collection.name + ".cache")


def keep(path: Path, write: Callable[[Path], object], instead_of: Iterable[Path] = ()) -> None:
    """For the next time, where it can be written: `write` is given a draft, which then takes the place of `path`.

    The files of `instead_of` are looked for and removed after that.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path, draft):
            write(draft)
        for other in instead_of:
            other.unlink(missing_ok=True)
    except OSError:
        pass  # it is computed again
