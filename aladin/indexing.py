"""A folder's images into its collection: list, compare, decode in threads, encode in batches, commit.

Every batch is committed before the next, so that an interrupted run has lost nothing and the next one goes on from there.
"""

import hashlib
import io
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from aladin.collection import ImageRow
from aladin.collection_writer import CollectionWriter, FileState, Photograph
from aladin.encode import Encoder
from aladin.errors import DataError
from aladin.images import DECODER_FAILURES, FORMATS, Pixels, open_image, to_pixels

# Which files are looked at; what they are is then decided by their content alone.
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".mpo")
)
MAX_FILE_BYTES = 1 << 29  # larger files are failed unread, since the whole file is held while it is decoded


@dataclass(frozen=True)
class IndexConfig:
    """How a folder is read."""

    batch_images: int = 32  # encoded at once, and committed at once
    threads: int = 0  # that decode; 0: one a core


@dataclass(frozen=True)
class IndexReport:
    """What a run found and did. Files that could not be read are counted by reason, those of earlier runs included."""

    added: int = 0
    updated: int = 0  # the file has another content than before
    unchanged: int = 0
    moved: int = 0  # a content whose file was gone, at another path: the same row
    returned: int = 0  # offline before, there again
    offline: int = 0  # known, but not there now; the rows are kept
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_second: float = 0.0  # of those read in this run


@dataclass(frozen=True)
class Unlisted:
    """A folder whose content cannot be listed."""

    path: str
    reason: str


@dataclass(frozen=True)
class Decoded:
    """An image ready to be encoded."""

    photograph: Photograph
    pixels: Pixels


@dataclass(frozen=True)
class Unreadable:
    """A file that gives no image; `vanished` ones are no longer there and get no row."""

    file: FileState
    reason: str
    vanished: bool = False


def list_images(root: Path) -> Iterator[FileState | Unlisted]:
    """Every regular file below `root` named like an image, by path; hidden files and folders and all links are passed over.

    A link's target is listed where it really is if that is below `root`, and is none of this collection's business if not.
    """
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {root} cannot be read: {error.strerror}; check that it is there") from None
    pending = deque((entry, entry.name) for entry in entries)
    while pending:
        entry, path = pending.popleft()
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir(follow_symlinks=False):
                below = sorted(os.scandir(entry.path), key=lambda entry: entry.name)
                pending.extendleft((inner, f"{path}/{inner.name}") for inner in reversed(below))
            elif entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in EXTENSIONS:
                status = entry.stat(follow_symlinks=False)
                yield FileState(path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            yield Unlisted(path, f"cannot be listed ({error.strerror})")


def index_folder(
    collection: CollectionWriter,
    encoder: Encoder,
    config: IndexConfig | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> IndexReport:
    """Bring the collection up to date with its folder.

    `progress` is told how many of all new and changed files are done, after their rows are on the disk.
    """
    started = time.perf_counter()
    config = config or IndexConfig()
    collection.use_model(encoder.model)
    tally = _Tally()
    comparison = collection.compare(_files(collection.root, tally))
    done = 0
    with closing(_batches(collection, encoder.model.config.image.size, config)) as batches:
        for batch in batches:
            _store(collection, encoder, batch, tally)
            done += len(batch)
            progress(done, comparison.unread)
    seconds = time.perf_counter() - started
    for row in collection.images("failed"):
        tally.skip(row.reason or "")
    return IndexReport(
        added=tally.added,
        updated=tally.updated,
        unchanged=comparison.unchanged + tally.touched,
        moved=tally.moved,
        returned=comparison.returned,
        offline=collection.counts().get("offline", 0),
        skipped=tally.skipped,
        seconds=seconds,
        images_per_second=done / seconds if done else 0.0,
    )


def read_photograph(root: Path, file: FileState, size: int) -> Decoded | Unreadable:
    """The file's image at the model's size with its facts, or why there is none; never raises for what a file contains."""
    try:
        data = _read_bytes(root / file.path)
        image = open_image(data, name="it", draft_size=size)
        width, height, taken = _facts(data)
        photograph = Photograph(file, hashlib.sha256(data).digest(), width, height, taken)
        return Decoded(photograph, to_pixels(image, size))
    except FileNotFoundError:
        return Unreadable(file, "vanished while the folder was read", vanished=True)
    except OSError as error:
        # A time that no file has, so that the next run tries again: mended permissions leave no trace in the file's own.
        return Unreadable(replace(file, mtime_ns=-1), f"cannot be read ({error.strerror or error})")
    except DataError as error:
        return Unreadable(file, str(error).removeprefix("it ").rsplit("; ", 1)[0])
    except DECODER_FAILURES as error:
        return Unreadable(file, f"cannot be decoded ({type(error).__name__}: {error})")


@dataclass
class _Tally:
    added: int = 0
    updated: int = 0
    touched: int = 0
    moved: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        kind = reason.split(" (")[0]
        self.skipped[kind] = self.skipped.get(kind, 0) + 1


def _files(root: Path, tally: _Tally) -> Iterator[FileState]:
    for found in list_images(root):
        if isinstance(found, Unlisted):
            tally.skip(found.reason)
        else:
            yield found


def _batches(collection: CollectionWriter, size: int, config: IndexConfig) -> Generator[list[Decoded | Unreadable], None, None]:
    """The unread files in batches, decoded ahead: while one batch is encoded, the threads work on the next two."""
    threads = config.threads or os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    ahead: deque[Future[Decoded | Unreadable]] = deque()
    root = collection.root
    try:
        for file in collection.unread():
            ahead.append(pool.submit(read_photograph, root, file, size))
            if len(ahead) == 3 * config.batch_images:
                yield [ahead.popleft().result() for _ in range(config.batch_images)]
        while ahead:
            yield [ahead.popleft().result() for _ in range(min(config.batch_images, len(ahead)))]
    finally:
        pool.shutdown(cancel_futures=True)


def _store(collection: CollectionWriter, encoder: Encoder, batch: list[Decoded | Unreadable], tally: _Tally) -> None:
    """One batch into the collection, in one transaction; a content that is known already is not encoded again."""
    new: list[Decoded] = []
    with collection.transaction():
        for item in batch:
            if isinstance(item, Unreadable):
                if item.vanished:
                    tally.skip(item.reason)
                else:
                    collection.mark_failed(item.file, item.reason)
            elif (twin := collection.encoded_twin(item.photograph.sha256)) is not None:
                _store_known(collection, item.photograph, twin, tally)
            else:
                new.append(item)
        if new:
            _store_new(collection, encoder, new, tally)


def _store_known(collection: CollectionWriter, photograph: Photograph, twin: ImageRow, tally: _Tally) -> None:
    before = collection.image_at(photograph.file.path)
    if before is None and twin.status == "offline":
        collection.move(twin, photograph.file)
        tally.moved += 1
        return
    collection.add_copy(photograph, twin)
    if before is None:
        tally.added += 1
    elif before.sha256 == photograph.sha256:
        tally.touched += 1
    else:
        tally.updated += 1


def _store_new(collection: CollectionWriter, encoder: Encoder, new: list[Decoded], tally: _Tally) -> None:
    encoded = encoder.encode_images(np.stack([item.pixels for item in new]))
    usable: list[Photograph] = []
    for item, good in zip(new, encoded.usable, strict=True):
        if good:
            usable.append(item.photograph)
        else:
            collection.mark_failed(item.photograph.file, "has no finite vector from this model")
    known = sum(collection.image_at(photograph.file.path) is not None for photograph in usable)
    collection.add(usable, encoded.vectors[encoded.usable], encoded.regions[encoded.usable])
    tally.updated += known
    tally.added += len(usable) - known


def _read_bytes(path: Path) -> bytes:
    """The content of a regular file; what has become a pipe or a link since it was listed is refused without waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("it is not a regular file; expected an image")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"it is larger than {MAX_FILE_BYTES >> 20} MB; expected an image")
        data = file.read(MAX_FILE_BYTES + 1)
    if not data:
        raise DataError("it is empty; expected an image")
    return data


def _facts(data: bytes) -> tuple[int, int, str | None]:
    """Width and height as displayed, and when the camera took it: from the header, since a JPEG may be decoded smaller."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as header:
        width, height = header.size
        try:
            exif = header.getexif()
            turned = exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            details = exif.get_ifd(ExifTags.IFD.Exif)
            taken = details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        except DECODER_FAILURES:
            return width, height, None  # a picture with a broken EXIF block is still a picture
    return (height, width, _iso_time(taken)) if turned else (width, height, _iso_time(taken))


def _iso_time(exif_time: object) -> str | None:
    try:
        return datetime.strptime(str(exif_time).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None
