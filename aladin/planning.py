"""What indexing a folder will take and what it will pass over, from a listing and a probe of a few images. Writes nothing."""

import random
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aladin.collection import Collection
from aladin.config import IndexConfig
from aladin.decoding import Decoders, DecodingLimits
from aladin.encode import EncodedImages, Encoder
from aladin.listing import FileState, Unlisted, list_images
from aladin.photographs import Decoded, Unreadable
from aladin.quantized import token_blob

PROBED = 64  # images read for the estimate
ROW_BYTES = 700  # of a row and its index entries, apart from vector and tokens
PAGE_BYTES = 4096
SEED = 0  # the same folder gives the same probe


@dataclass(frozen=True)
class Plan:
    """What `aladin index` would do. Figures about unreadable files, time and memory come from the probe alone."""

    images: int  # files named like images
    bytes: int  # of these
    to_read: int  # of these, new or changed
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
            f"to read      {self.to_read:,}",
            f"time         {_duration(self.seconds)} at {self.images_per_second:,.0f} images/s ({self.probed} probed)",
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


def plan_for(folder: Path, place: Path, encoder: Encoder, config: IndexConfig) -> Plan:
    """The plan for indexing `folder` into the collection at `place`, which need not exist."""
    kinds: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    unlisted: Counter[str] = Counter()
    sample, images, size, to_read = _Sample(PROBED), 0, 0, 0
    known = Collection.open(place) if place.is_file() else None
    for found in list_images(folder, config.follow_symlinks, lambda kind: passed_over.update([kind])):
        if isinstance(found, Unlisted):
            unlisted[found.reason] += 1
            continue
        images, size = images + 1, size + found.size
        kinds[Path(found.path).suffix.lower()] += 1
        if known is None or not _settled(known, found):
            to_read += 1
            sample.offer(found)
    if known is not None:
        known.close()
    probe = _probe(folder, sample.kept, encoder, config)
    return Plan(
        images=images,
        bytes=size,
        to_read=to_read,
        kinds=dict(kinds.most_common()),
        passed_over=dict(passed_over.most_common()),
        unlisted=dict(unlisted.most_common()),
        probed=len(sample.kept),
        unreadable=probe.unreadable,
        images_per_second=probe.rate,
        seconds=to_read / probe.rate if probe.rate else 0.0,
        memory_mb=probe.memory_mb,
        disk_bytes=to_read * probe.row_bytes,
        disk_free_bytes=shutil.disk_usage(_existing_part(place)).free,
    )


@dataclass(frozen=True)
class _Probe:
    unreadable: dict[str, int]
    rate: float  # images a second
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
        elif (place := self._random.randrange(self._offered)) < self._most:
            self.kept[place] = file


def _settled(known: Collection, file: FileState) -> bool:
    row = known.image_at(file.path)
    if row is None or row.status == "pending":
        return False
    return row.status == "removed" or (row.size, row.mtime_ns) == (file.size, file.mtime_ns)


def _probe(folder: Path, files: list[FileState], encoder: Encoder, config: IndexConfig) -> _Probe:
    size, limits = encoder.model.config.image.size, DecodingLimits.of(config)
    blank = encoder.encode_images(np.full((1, size, size, 3), 128, dtype=np.uint8))  # the time to load is not counted
    unreadable: Counter[str] = Counter()
    with Decoders(limits, config.follow_symlinks) as decoders:
        coming = [decoders.submit(folder, file, size) for file in files]
        if coming:
            coming[0].result()  # nor is the time to start the decoders
        started = time.perf_counter()
        for batch in _in_batches((future.result() for future in coming), config.batch_images):
            unreadable.update(item.reason.split(" (")[0] for item in batch if isinstance(item, Unreadable))
            pixels = [item.pixels for item in batch if isinstance(item, Decoded)]
            if pixels:
                encoder.encode_images(np.stack(pixels))
        seconds = time.perf_counter() - started
    own, decoder = (_peak_mb(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return _Probe(dict(unreadable), len(files) / seconds if files else 0.0, own + limits.workers * decoder, _row_bytes(blank))


def _in_batches(items: Iterator[Decoded | Unreadable], count: int) -> Iterator[list[Decoded | Unreadable]]:
    batch: list[Decoded | Unreadable] = []
    for item in items:
        batch.append(item)
        if len(batch) == count:
            yield batch
            batch = []
    yield batch


def _row_bytes(encoded: EncodedImages) -> int:
    """A large value fills pages of its own, so its last one is half empty on average."""
    tokens = len(token_blob(encoded.regions[0]))
    stored = -(-tokens // PAGE_BYTES) * PAGE_BYTES if tokens > PAGE_BYTES else tokens
    return ROW_BYTES + encoded.vectors.size * 2 + stored


def _peak_mb(who: int) -> int:
    peak = int(resource.getrusage(who).ru_maxrss)
    return peak >> 20 if sys.platform == "darwin" else peak >> 10  # bytes there, kilobytes elsewhere


def _existing_part(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
