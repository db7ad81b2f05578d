"""What a collection holds, in figures: for `aladin status` and for programs that watch over one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aladin.collection.lock import holder_of
from aladin.collection.sqlite import Collection


@dataclass(frozen=True)
class Status:
    """A collection at one moment; images are counted by state, and those that could not be read by reason."""

    collection: str
    root: str
    root_is_there: bool
    images: dict[str, int]
    reasons: dict[str, int]
    model: str | None  # its folder's name
    fingerprint: str | None
    format: int
    generation: int
    bytes: int  # on disk, with the log of a writer at work
    unused_bytes: int  # of these, what `aladin compact` would give back
    written_by: str | None  # who is writing just now
    cropped_share: float | None = None  # of an image, on average, that a cropping model does not see; None: it sees all

    def as_text(self, printable: Callable[[str], str] = str) -> str:
        """One fact a line."""
        states = ", ".join(f"{count:,} {state}" for state, count in self.images.items()) or "none"
        lines = [
            f"images      {states}",
            f"folder      {printable(self.root)}{'' if self.root_is_there else ' (not there now)'}",
            f"collection  {printable(self.collection)}, {self.bytes / 1e6:,.1f} MB, {self.unused_bytes / 1e6:,.1f} MB unused",
            f"model       {self.model} {(self.fingerprint or '')[:12]}" if self.model else "model       none yet",
            f"format      {self.format}, generation {self.generation:,}",
        ]
        if self.cropped_share is not None:
            lines += [f"cropped     {self.cropped_share:.0%} of an image, on average, lies outside what the model sees"]
        lines += [f"failed      {count:,} {printable(reason)}" for reason, count in self.reasons.items()]
        lines += [f"written by  {printable(self.written_by)}"] if self.written_by else []
        return "\n".join(lines)


def status_of(file: Path) -> Status:
    """The status of the collection in `file`."""
    with Collection.open(file) as collection, collection.snapshot():
        counts, reasons = collection.counts(), collection.failure_counts()
        files = (file, file.with_name(file.name + "-wal"))
        return Status(
            collection=str(file),
            root=str(collection.root),
            root_is_there=collection.root.is_dir(),
            images={state: counts[state] for state in ("ok", "failed", "offline", "pending", "removed") if state in counts},
            reasons=reasons,
            model=collection.model_name,
            fingerprint=collection.fingerprint,
            format=collection.format,
            generation=collection.generation,
            bytes=sum(part.stat().st_size for part in files if part.is_file()),
            unused_bytes=collection.unused_bytes(),
            written_by=holder_of(file),
            cropped_share=collection.cropped_share(),
        )
