"""What a run writes down of its data: enough to tell it from other data, and nothing of the machine."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from aladin.datasets.examples import Dataset
from aladin.datasets.sources import byte_count


@dataclass(frozen=True)
class DataOrigin:
    """Which data a model learned from, or was judged by."""

    name: str  # of the file or folder, without its path
    split: str  # "" for all
    images: int
    captions: int
    digest: str  # SHA-256 over each image's id and size in bytes, in order: the same in a folder, a zip and a tar
    skipped: dict[str, int]  # reason -> rows left out

    @classmethod
    def of(cls, dataset: Dataset) -> "DataOrigin":
        digest = hashlib.sha256()
        for example in dataset.examples:
            digest.update(repr((example.id, byte_count(example.source))).encode("utf-8", "surrogateescape"))
        counts = len(dataset), dataset.caption_count
        return cls(dataset.name, dataset.split, *counts, digest.hexdigest(), dict(dataset.skipped))

    def table(self) -> dict[str, Any]:
        """The same as plain values, for TOML and JSON; without a split or skipped rows where there are none."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("split", "skipped")}
