"""A folder's images into its collection: list, compare, decode in other processes, encode in batches, commit.

Every batch is committed before the next, so that an interrupted run has lost nothing and the next one goes on from there.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aladin.collection.comparison import Comparison, compare, unread
from aladin.collection.moves import encoded_twin, follow, is_removed
from aladin.collection.settings import IndexConfig as IndexConfig
from aladin.collection.store import ImageRow
from aladin.collection.writer import CollectionWriter, storable
from aladin.encoder.encoder import Encoder
from aladin.errors import DataError
from aladin.pictures.decoding import Decoders
from aladin.pictures.fitting import Fitting
from aladin.pictures.listing import EXTENSIONS as EXTENSIONS
from aladin.pictures.listing import FileState, Unlisted
from aladin.pictures.listing import list_images as list_images
from aladin.pictures.photographs import Decoded, Photograph, Unreadable
from aladin.progress import SILENT, Progress

SUSPICIOUS_SHARE = 0.5  # of the known images gone at once: more than people delete, as when a disk is not there


@dataclass(frozen=True)
class IndexReport:
    """What a run found and did. Files that could not be read are counted by reason, those of earlier runs included."""

    added: int = 0
    updated: int = 0  # the file has another content than before
    unchanged: int = 0
    moved: int = 0  # a content whose file was gone, at another path: the same row
    returned: int = 0  # offline before, there again
    offline: int = 0  # known, but not there now; the rows are kept
    forgotten: int = 0  # offline ones whose rows were deleted, as confirmed
    warning: str | None = None  # why the files that are gone may not have been deleted
    skipped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_second: float = 0.0  # of those read in this run


def index_folder(
    collection: CollectionWriter,
    encoder: Encoder,
    config: IndexConfig | None = None,
    progress: Progress = SILENT,
) -> IndexReport:
    """Bring the collection up to date with its folder.

    `progress` counts the new and changed files that are done, after their rows are on the disk. Images whose files are
    gone go offline and are forgotten only with `confirm_deletes`. When the folder itself is not there, all go offline and a
    DataError says so.
    """
    started = time.perf_counter()
    config = config or IndexConfig()
    collection.use_model(encoder.model)
    if config.frames:
        collection.use_frames(config.frames)
    if config.retry_failed:
        collection.try_failed_again()
    _check_root(collection)
    tally = _Tally()
    comparison = compare(collection, _files(collection.root, config, tally))
    done = 0
    with closing(_batches(collection, encoder.model.config.preprocessing.fitting, config)) as batches:
        for batch in batches:
            _store(collection, encoder, batch, tally)
            done += sum(_is_a_file(item) for item in batch)
            progress(done, comparison.unread)
    offline = collection.counts().get("offline", 0)
    warning = _warning(collection, comparison, offline, config.confirm_deletes)
    forgotten = collection.forget_offline() if config.confirm_deletes else 0
    seconds = time.perf_counter() - started
    for row in collection.images("failed"):
        tally.skip(row.reason or "")
    return IndexReport(
        added=tally.added,
        updated=tally.updated,
        unchanged=comparison.unchanged + tally.touched,
        moved=tally.moved,
        returned=comparison.returned,
        offline=offline - forgotten,
        forgotten=forgotten,
        warning=warning,
        skipped=tally.skipped,
        seconds=seconds,
        images_per_second=done / seconds if done else 0.0,
    )


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


def _check_root(collection: CollectionWriter) -> None:
    root = collection.root
    if not root.is_dir():
        gone = compare(collection, []).known
        raise DataError(f"the folder {root} is not there; its {gone:,} images are kept as offline until it is back")


def _files(root: Path, config: IndexConfig, tally: _Tally) -> Iterator[FileState | Unlisted]:
    for found in list_images(root, config.follow_symlinks):
        if isinstance(found, Unlisted):
            tally.skip(found.reason)
        yield found


def _warning(collection: CollectionWriter, comparison: Comparison, offline: int, confirmed: bool) -> str | None:
    """Why so many images are gone that they have hardly been deleted; None when that is not so. `offline` are so in the end."""
    moved_device = collection.use_device()
    gone = min(comparison.gone, offline)  # others were there, under other names
    said = f"{gone:,} of {comparison.known:,} known images are gone"
    kept = "They are forgotten, as was confirmed" if confirmed else "They are kept as offline"
    if offline and not comparison.listed:
        said = said if gone else f"all {offline:,} images are offline"
        return f"{said}, for {collection.root} holds none; is its disk there? {kept}"
    if gone and moved_device:
        return f"{said}, and {collection.root} is on another disk than before; is the right one there? {kept}"
    if gone > SUSPICIOUS_SHARE * comparison.known:
        return f"{said}. {kept}{'' if confirmed else ', and forgotten with --confirm-deletes'}"
    return None


def _batches(
    collection: CollectionWriter, fitting: Fitting, config: IndexConfig
) -> Generator[list[Decoded | Unreadable], None, None]:
    """The pictures of the unread files."""
    with Decoders(config.decoding_limits, config.follow_symlinks, collection.frames) as decoders:
        yield from decoders.batches(collection.root, unread(collection), fitting, config.batch_images)


def _is_a_file(item: Decoded | Unreadable) -> bool:
    return isinstance(item, Unreadable) or item.photograph.file.frame == 0


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
                    collection.keep_frames(item.file.path, [])
                continue
            if _is_a_file(item):
                collection.keep_frames(item.photograph.file.path, [other.photograph.file.frame for other in item.further])
            if is_removed(collection, item.photograph):
                continue
            if (twin := encoded_twin(collection, item.photograph.sha256)) is not None:
                _store_known(collection, item.photograph, twin, tally)
            else:
                new.append(item)
        if new:
            _store_new(collection, encoder, new, tally)


def _store_known(collection: CollectionWriter, photograph: Photograph, twin: ImageRow, tally: _Tally) -> None:
    before = collection.row_at(photograph.file.path, photograph.file.frame)
    if follow(collection, photograph, twin):
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
    good_rows = storable(encoded.vectors, encoded.regions)
    for item, good in zip(new, good_rows, strict=True):
        if good:
            usable.append(item.photograph)
        else:
            collection.mark_failed(item.photograph.file, "has no finite vector from this model")
    known = sum(collection.row_at(photograph.file.path, photograph.file.frame) is not None for photograph in usable)
    collection.add(usable, encoded.vectors[good_rows], encoded.regions[good_rows])
    tally.updated += known
    tally.added += len(usable) - known
