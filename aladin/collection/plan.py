"""What indexing a folder will take and what it will pass over, from a listing and a probe of a few images. Writes nothing."""

import random
import shutil
import time
from collections import Counter
from concurrent.futures import wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.tokens import token_blob
from aladin.encoder.encoder import EncodedImages, Encoder
from aladin.pictures.decoding import Decoders
from aladin.pictures.listing import FileState, Unlisted, extension_of, list_images
from aladin.pictures.photographs import Decoded, Photograph, Unreadable
from aladin.processes import peak_memory

PROBED = 64  # images read for the estimate
ROW_BYTES = 700  # of a row and its index entries, apart from vector and tokens
PAGE_BYTES = 4096
SEED = 0  # the same folder gives the same probe


@dataclass(frozen=True)
class Plan:
    """What `aladin index` would do. Figures about unreadable files, pictures, time and memory come from the probe alone."""

    images: int  # files named like images
    bytes: int  # of these
    to_read: int  # of these, new or changed, or to be read for further pictures
    frames: int  # pictures that a file gives at most
    pictures: int  # that the files to read give
    kinds: dict[str, int]  # files by extension
    passed_over: dict[str, int]  # entries that are no image files, by why
    unlisted: dict[str, int]  # folders and files that cannot be listed, by why
    probed: int
    unreadable: dict[str, int]  # of those probed, by why
    images_per_second: float
    seconds: float  # for all that has to be read
    memory_mb: int  # of all processes together
    disk_bytes: int  # that the collection will grow by
    disk_free_bytes: int

    def as_text(self) -> str:
        """One fact a line."""
        lines = [
            f"images       {self.images:,} ({self.bytes / 1e6:,.1f} MB): {_counted(self.kinds)}",
            f"to read      {self.to_read:,}{self._further()}",
            f"time         {self._time()}",
            f"memory       {self.memory_mb:,} MB, all processes together",
            f"disk         {self.disk_bytes / 1e6:,.1f} MB of {self.disk_free_bytes / 1e6:,.0f} MB free",
        ]
        if self.passed_over:
            lines.append(f"passed over  {_counted(self.passed_over)}")
        if self.unlisted:
            lines.append(f"not listed   {_counted(self.unlisted)}")
        if self.unreadable:
            share = sum(self.unreadable.values()) / self.probed
            lines.append(
                f"unreadable   about {share * self.to_read:,.0f}: of {self.probed} probed, {_counted(self.unreadable)}"
            )
        if self.disk_bytes > self.disk_free_bytes:
            lines.append("             THIS DOES NOT FIT on the disk; name another with --collection")
        return "\n".join(lines)

    def _time(self) -> str:
        if not self.probed:
            return "none, there is nothing to read"
        return f"{_duration(self.seconds)} at {self.images_per_second:,.0f} images/s ({self.probed} probed)"

    def _further(self) -> str:
        if self.frames == 1 or not self.to_read:
            return ""
        return f", with about {self.pictures:,} pictures at up to {self.frames} a file"


def plan_for(folder: Path, file: Path, encoder: Encoder, config: IndexConfig) -> Plan:
    """The plan for indexing `folder` into the collection in `file`, which need not exist."""
    kinds: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    unlisted: Counter[str] = Counter()
    sample, images, size, to_read = _Sample(PROBED), 0, 0, 0
    with Collection.open(file) if file.is_file() else nullcontext() as known:
        config = replace(config, frames=config.frames or (1 if known is None else known.frames))
        for found in list_images(folder, config.follow_symlinks, lambda kind: passed_over.update([kind])):
            if isinstance(found, Unlisted):
                unlisted[found.reason] += 1
                continue
            images, size = images + 1, size + found.size
            kinds[extension_of(found.path)] += 1
            if known is None or not _settled(known, found, config.frames):
                to_read += 1
                sample.offer(found)
        probe = _probe(folder, sample.kept, encoder, config, known)
    return Plan(
        images=images,
        bytes=size,
        to_read=to_read,
        frames=config.frames,
        pictures=round(to_read * probe.pictures_per_file),
        kinds=dict(kinds.most_common()),
        passed_over=dict(passed_over.most_common()),
        unlisted=dict(unlisted.most_common()),
        probed=len(sample.kept),
        unreadable=probe.unreadable,
        images_per_second=probe.pictures_per_file / probe.seconds_per_file if sample.kept else 0.0,
        seconds=to_read * probe.seconds_per_file,
        memory_mb=probe.memory_mb,
        disk_bytes=round(to_read * probe.new_per_file * probe.row_bytes),
        disk_free_bytes=shutil.disk_usage(_existing_part(file)).free,
    )


@dataclass(frozen=True)
class _Probe:
    unreadable: dict[str, int]
    pictures_per_file: float  # an unreadable one has none
    new_per_file: float  # of these, those that the collection does not know as they are
    seconds_per_file: float
    memory_mb: int
    row_bytes: int


class _Sample:
    """A fair choice of so many from a stream of unknown length."""

    def __init__(self, most: int) -> None:
        self.kept: list[FileState] = []
        self._most = most
        self._offered = 0
        self._random = random.Random(SEED)

    def offer(self, file: FileState) -> None:
        self._offered += 1
        if len(self.kept) < self._most:
            self.kept.append(file)
        elif (position := self._random.randrange(self._offered)) < self._most:
            self.kept[position] = file


def _settled(known: Collection, file: FileState, frames: int) -> bool:
    """Whether the file will not be read, when so many pictures of it are wanted."""
    row = known.row_at(file.path)
    if row is None or row.status == "pending":
        return False
    if row.status == "removed":
        return True
    if (row.size, row.mtime_ns) != (file.size, file.mtime_ns):
        return False
    if row.status == "failed" or frames in (1, known.frames):
        return True
    # As `CollectionWriter.use_frames` has it: a file that was read for several pictures and has one has no others.
    return known.frames > 1 and known.ids_below(file.path) == [row.id]


def _is_known(known: Collection, photograph: Photograph) -> bool:
    """Whether the picture is not encoded again."""
    row = known.row_at(photograph.file.path, photograph.file.frame)
    return row is not None and row.status in ("ok", "offline") and row.sha256 == photograph.sha256


def _probe(folder: Path, files: list[FileState], encoder: Encoder, config: IndexConfig, known: Collection | None) -> _Probe:
    fitting, limits = encoder.model.config.preprocessing.fitting, config.decoding_limits
    blank = encoder.encode_images(
        np.full((1, fitting.size, fitting.size, 3), 128, dtype=np.uint8)
    )  # the time to load is not counted
    unreadable: Counter[str] = Counter()
    pictures = new = 0
    with Decoders(limits, config.follow_symlinks, config.frames) as decoders:
        wait(
            [decoders.submit(folder, file, fitting) for file in files[: limits.workers]]
        )  # nor is the time to start the decoders
        started = time.perf_counter()
        for batch in decoders.batches(folder, files, fitting, config.batch_images):
            unreadable.update(item.reason.split(" (")[0] for item in batch if isinstance(item, Unreadable))
            read = [item for item in batch if isinstance(item, Decoded)]
            unknown = [item.pixels for item in read if known is None or not _is_known(known, item.photograph)]
            pictures, new = pictures + len(read), new + len(unknown)
            if unknown:
                encoder.encode_images(np.stack(unknown))
        seconds = time.perf_counter() - started
    peaks = peak_memory()
    assert peaks, "a system on which decoders run counts memory"
    own, decoder = (peak >> 20 for peak in peaks)
    count = len(files) or 1
    return _Probe(
        unreadable=dict(unreadable),
        pictures_per_file=pictures / count,
        new_per_file=new / count,
        seconds_per_file=seconds / count,
        memory_mb=own + limits.workers * decoder,
        row_bytes=_row_bytes(blank),
    )


def _row_bytes(encoded: EncodedImages) -> int:
    """A large value fills pages of its own, so its last one is half empty on average."""
    tokens = len(token_blob(encoded.regions[0]))
    stored = -(-tokens // PAGE_BYTES) * PAGE_BYTES if tokens > PAGE_BYTES else tokens
    return ROW_BYTES + encoded.vectors.size * 2 + stored


def _existing_part(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
