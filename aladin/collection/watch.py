"""When something in a folder of images changes, told soon after it has come to rest."""

import time
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING

from aladin.errors import DataError
from aladin.pictures.listing import EXTENSIONS

if TYPE_CHECKING:
    from watchfiles import Change

REST_MS = 1600  # a change is told when so long nothing else has changed, or this long after the first of many
TICK_MS = 500


def ticks(folder: Path) -> Iterator[bool]:
    """Every half second whether an image, a sidecar or a folder has changed since; True at once for what is there already.

    Hidden files and folders, and so the collection itself, do not count. While the folder is not there nothing has changed;
    True when it is back, also as another folder of that name. DataError without the package that watches.
    """
    try:
        from watchfiles import watch
    except ModuleNotFoundError:
        raise DataError("watching needs the package watchfiles; run pip install 'aladin[watch]'") from None

    def matters(change: "Change", path: str) -> bool:
        below = Path(path).relative_to(folder.resolve())
        hidden = any(part.startswith(".") for part in below.parts)
        return not hidden and below.suffix.lower() in ("", ".json", *EXTENSIONS)

    while True:
        watched = _identity(folder)
        if watched is None:
            time.sleep(TICK_MS / 1000)
            yield False
            continue
        first = True
        try:
            ticking = watch(
                folder.resolve(), watch_filter=matters, debounce=REST_MS, rust_timeout=TICK_MS, yield_on_timeout=True
            )
            for changes in ticking:
                # The system watches the folder itself, whatever is called so later.
                if _identity(folder) != watched:
                    break
                # The first tick comes when the watch stands, so that nothing falls between the first look and the watch.
                yield first or bool(changes)
                first = False
        except FileNotFoundError:
            continue  # it went just now


def _identity(folder: Path) -> tuple[int, int] | None:
    """Device and inode of the folder; None while it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if S_ISDIR(status.st_mode) else None
