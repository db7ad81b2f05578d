"""Which images and captions of a data set are measured, and in which folds: the protocols that papers report."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aladin.datasets import Dataset, Example
from aladin.errors import DataError


@dataclass(frozen=True)
class Protocol:
    """A way to take queries and candidates from a data set; None stands for as many as there are."""

    name: str
    images: int | None  # how many are measured, the first of the data
    captions: int | None  # of each image, its first
    sizes: tuple[int, ...]  # how many images the data may have; any where there are none
    folds: int = 1  # of consecutive images; a query's candidates are those of its own fold

    def __str__(self) -> str:
        return f"{self.name}, {self.folds} folds" if self.folds > 1 else self.name


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("full", None, None, ()),
        Protocol("coco-5k", 5000, 5, (5000,)),
        Protocol("coco-1k", 1000, 5, (1000, 5000)),
        Protocol("coco-1k-5fold", 5000, 5, (5000,), folds=5),
        Protocol("flickr30k", 1000, 5, (1000,)),
        Protocol("flickr8k", 1000, 5, (1000,)),
    )
}


@dataclass(frozen=True)
class Fold:
    """Consecutive images and all of their captions, as rows of the data set."""

    images: slice
    captions: slice


def chosen(dataset: Dataset, protocol: Protocol) -> Dataset:
    """The images and captions that the protocol measures; DataError when the data do not fit it."""
    if protocol.sizes and len(dataset) not in protocol.sizes:
        expected = " or ".join(f"{size:,}" for size in protocol.sizes)
        raise DataError(
            f"the data have {len(dataset):,} images where the protocol {protocol.name} expects {expected}; "
            "choose the right --split, or another --protocol"
        )
    examples = dataset.examples[: protocol.images]
    if protocol.captions is not None:
        for example in examples:
            if len(example.captions) < protocol.captions:
                raise DataError(
                    f"image {example.id!r} has {len(example.captions)} captions where the protocol {protocol.name} expects "
                    f"{protocol.captions} of each image; complete the data, or choose --protocol full"
                )
        examples = tuple(_with_captions(example, protocol.captions) for example in examples)
    return replace(dataset, examples=examples)


def _with_captions(example: Example, count: int) -> Example:
    return replace(example, captions=example.captions[:count], untrimmed=example.untrimmed[:count])


def folds(captions_of_each: Sequence[int], protocol: Protocol) -> list[Fold]:
    """The folds, of as many images each; given the number of captions of each image."""
    size = len(captions_of_each) // protocol.folds
    starts = [size * fold for fold in range(protocol.folds)]
    first = [sum(captions_of_each[:start]) for start in (*starts, len(captions_of_each))]
    return [Fold(slice(start, start + size), slice(first[fold], first[fold + 1])) for fold, start in enumerate(starts)]


def digest(dataset: Dataset) -> str:
    """A SHA-256 of which images and captions these are, in their order; of the pixels it knows nothing."""
    content = [[example.id, *example.captions] for example in dataset.examples]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
