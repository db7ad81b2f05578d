"""The image files of a folder: which there are, and which are passed over and why."""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aladin.errors import DataError
from aladin.pictures.long_paths import status_of, within_reach

# Which files are looked at; what they are is then decided by their content alone.
EXTENSIONS = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".mpo",
        ".heic", ".heif", ".hif",
    )
)  # fmt: skip

OWN_FOLDER = ".aladin"  # where a collection stands; nobody needs to hear that it is passed over

Ignored = Literal["hidden", "link", "pipe, socket or device", "not named like an image", "the same file as another"]


@dataclass(frozen=True)
class FileState:
    """A file as the folder lists it; one whose size and time are as before is taken to be unchanged."""

    path: str  # relative to the root, as in ImageRow
    size: int  # bytes
    mtime_ns: int  # of the file or of its sidecar, whichever is later
    frame: int = 0  # which of its pictures is meant, where it holds several


@dataclass(frozen=True)
class Unlisted:
    """A folder whose content, or a file whose size, the operating system does not give: nothing is known of what it holds."""

    path: str
    reason: str


def list_images(
    root: Path, follow_symlinks: bool = False, ignored: Callable[[Ignored], None] = lambda kind: None
) -> Iterator[FileState | Unlisted]:
    """Every regular file below `root` named like an image; `ignored` is told of each entry passed over.

    Hidden files and folders are passed over, and links unless `follow_symlinks`: a link's target is listed where it really
    is if that is below `root`, and is none of this collection's business if not. No folder and no file is listed twice,
    whatever links, hard links and mounts lead to it. The order is the same for the same folder: files of a folder by name,
    then its folders by name.
    """
    listing = _Listing(root, follow_symlinks, ignored)
    if not root.is_dir():
        raise DataError(f"the folder {root} cannot be read: {_why_not(root)}; check that it is there")
    pending = deque([""])
    while pending:
        folder = pending.popleft()
        try:
            files, folders = listing.names(folder)
        except OSError as error:
            if not folder:
                raise DataError(f"the folder {root} cannot be read: {error.strerror}; check that it is there") from None
            yield Unlisted(folder, f"cannot be listed ({error.strerror})")
            continue
        yield from listing.states(folder, files)
        pending.extendleft(_below(folder, name) for name in reversed(folders))


def extension_of(name: str) -> str:
    """How a file's name ends, as in ".jpg": dots and blanks after it do not count."""
    return os.path.splitext(name.rstrip(" ."))[1].lower()  # noqa: PTH122


def sidecar_names(name: str) -> tuple[str, ...]:
    """Where the facts that go with an image file may stand, the likeliest first."""
    stem = name.rpartition(".")[0]
    return (f"{name}.json", f"{name}.supplemental-metadata.json", f"{stem}.json")


class _Listing:
    """What has been met on the way through one folder."""

    def __init__(self, root: Path, follow_symlinks: bool, ignored: Callable[[Ignored], None]) -> None:
        self._root = os.fspath(root)
        self._follow = follow_symlinks
        self._ignored = ignored
        self._folders: set[tuple[int, int]] = set()  # device and inode
        self._linked_files: set[tuple[int, int]] = set()  # of those that have several names
        self._sidecars: set[str] = set()  # of the folder looked at

    def names(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of a folder's image files and of its folders. Names alone, since a folder may hold a million files."""
        path = os.path.join(self._root, folder)  # noqa: PTH118, a Path is dear where there are a million
        status = status_of(path, follow_symlinks=self._follow or not folder)
        self._sidecars = set()
        if (status.st_dev, status.st_ino) in self._folders:
            self._ignored("the same file as another")
            return [], []
        self._folders.add((status.st_dev, status.st_ino))
        files: list[str] = []
        folders: list[str] = []
        with _entries(path) as entries:
            for entry in entries:
                self._sort(entry, files, folders)
        return sorted(files), sorted(folders)

    def _sort(self, entry: os.DirEntry[str], files: list[str], folders: list[str]) -> None:
        extension = extension_of(entry.name)
        if entry.name.startswith("."):
            if entry.name != OWN_FOLDER:
                self._ignored("hidden")
        elif entry.is_symlink() and not self._follow:
            self._ignored("link")
        elif _is_dir(entry):
            folders.append(entry.name)
        elif extension in EXTENSIONS:
            files.append(entry.name)
        elif extension == ".json":
            self._sidecars.add(entry.name)
        else:
            self._ignored("not named like an image")

    def states(self, folder: str, files: list[str]) -> Iterator[FileState | Unlisted]:
        for name in files:
            path = _below(folder, name)
            try:
                status = self._stat(path)
                if not stat.S_ISREG(status.st_mode):
                    self._ignored("pipe, socket or device")
                elif status.st_nlink > 1 and (status.st_dev, status.st_ino) in self._linked_files:
                    self._ignored("the same file as another")
                else:
                    if status.st_nlink > 1:
                        self._linked_files.add((status.st_dev, status.st_ino))
                    yield FileState(path, status.st_size, max(status.st_mtime_ns, self._sidecar_time(folder, name)))
            except OSError as error:
                yield Unlisted(path, f"cannot be listed ({error.strerror})")

    def _sidecar_time(self, folder: str, name: str) -> int:
        if not self._sidecars:
            return 0
        present = [sidecar for sidecar in sidecar_names(name) if sidecar in self._sidecars]
        return self._stat(_below(folder, present[0])).st_mtime_ns if present else 0

    def _stat(self, path: str) -> os.stat_result:
        return status_of(os.path.join(self._root, path), follow_symlinks=self._follow)  # noqa: PTH118


@contextmanager
def _entries(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """What a folder holds, at a path of any length."""
    with within_reach(path) as (name, above):
        if above is None:
            with os.scandir(name) as entries:
                yield entries
            return
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=above)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to nothing, or to itself


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _why_not(root: Path) -> str:
    try:
        return "Not a directory" if root.lstat() else ""
    except OSError as error:
        return error.strerror or "unknown"
