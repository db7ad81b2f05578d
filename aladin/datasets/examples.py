"""What reading a dataset gives: images with their captions, in the order in which the data names them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from aladin.datasets.sources import ImageSource


@dataclass(frozen=True)
class Example:
    """One image with everything that was written about it."""

    id: str  # the image's path as the dataset writes it, unique within the dataset
    captions: tuple[str, ...]  # at least one, none blank, without white space around
    split: str  # "train", "val", "test" or ""; Karpathy's "restval" counts as "train"
    source: ImageSource
    position: str = field(default="", compare=False)  # where the data first name the image: "captions.jsonl, line 3"
    untrimmed: tuple[str, ...] = field(default=(), compare=False)  # the captions with white space around; () where none has any


@dataclass(frozen=True)
class Dataset:
    """Examples in the order in which their images first appear; its length is the number of images."""

    examples: tuple[Example, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)  # reason -> rows left out (only with skip_bad)
    # Where it was read from, for records: the file's or folder's name and the split that was asked for, "" for all.
    name: str = field(default="", compare=False)
    split: str = field(default="", compare=False)
    images: str = field(default="", compare=False)  # the name of the folder or zip of its images, where one was given

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def captions(self) -> tuple[str, ...]:
        """The captions of the first image, then those of the second, and so on."""
        return tuple(caption for example in self.examples for caption in example.captions)

    @property
    def captions_as_written(self) -> tuple[str, ...]:
        """The same with the white space around them that the data have."""
        return tuple(caption for example in self.examples for caption in example.untrimmed or example.captions)

    @property
    def caption_count(self) -> int:
        return sum(len(example.captions) for example in self.examples)

    @property
    def owners(self) -> Int64[np.ndarray, " captions"]:
        """For each of `captions`, the row of its image in `examples`."""
        counts = np.array([len(example.captions) for example in self.examples], dtype=np.int64)
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)
