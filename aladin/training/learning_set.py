"""A data set as a network learns from it: every image as its backbone reads it, every caption in word pieces."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from aladin.datasets import DataOrigin, Dataset
from aladin.datasets.vinvl import DetectionSource
from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import DataError
from aladin.network.backbone import ImageReader, ImageSet
from aladin.network.model import Aladin
from aladin.progress import SILENT, Progress


@dataclass(frozen=True)
class Reader:
    """Who sees the images of a data set, and how often."""

    reads: ImageReader
    views: int = 1  # of each image
    name: str = ""  # of whom, where it is not the model that learns

    def missing_bytes(self, dataset: Dataset, cache: Path) -> int:
        """How much longer `images` will make the files in `cache`."""
        return self.reads.missing_bytes(dataset, self.views, cache)

    def images(self, dataset: Dataset, cache: Path, progress: Progress = SILENT) -> ImageSet:
        """The images of `dataset`, from `cache` as far as they are there.

        DataError where photographs are expected and a detector's regions found or the other way round, or where an image
        cannot be decoded.
        """
        return self.reads.read(dataset, self.views, cache, progress)


@dataclass(frozen=True)
class LearningSet:
    """Images as the model that learns reads them, and the word pieces of all captions."""

    images: ImageSet
    pieces: Pieces
    owners: Int[np.ndarray, " captions"]  # the image row of each caption, rising
    origin: DataOrigin | None = None  # what is recorded of it
    shards: Int[np.ndarray, " images"] | None = None  # `shards_of` the data

    @property
    def views(self) -> int:
        return self.images.views

    @property
    def image_count(self) -> int:
        return int(self.owners[-1]) + 1


ImagesSeen = Callable[[Reader], ImageSet]  # the training images as somebody else than the model sees them


def learning_set(
    dataset: Dataset, model: Aladin, tokenizer: Path, cache: Path, views: int = 1, progress: Progress = SILENT
) -> LearningSet:
    """The images of `dataset` as `model` reads them (from `cache` as far as they are there), and its captions' word pieces."""
    images = model.backbone.image_reader(tokenizer).read(dataset, views, cache, progress)
    pieces = WordPieces.of(tokenizer, model.config.preprocessing).encode(list(dataset.captions))
    return LearningSet(images, pieces, dataset.owners, DataOrigin.of(dataset), shards_of(dataset))


def shards_of(dataset: Dataset) -> Int[np.ndarray, " images"] | None:
    """The file in which each image's regions stand, numbered as they first appear; None unless there are several."""
    sources = [example.source for example in dataset.examples]
    files = [source.file for source in sources if isinstance(source, DetectionSource)]
    numbers = {file: number for number, file in enumerate(dict.fromkeys(files))}
    if len(files) < len(sources) or len(numbers) < 2:
        return None
    return np.array([numbers[file] for file in files])


def captions_digest(*sets: LearningSet) -> str:
    """A hash of which images have which captions."""
    digest = hashlib.sha256()
    for data in sets:
        for array in (data.owners, data.pieces.ids):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def check_captions(dataset: Dataset, name: str) -> None:
    """Training needs at least two images, since the others of a batch are the negatives."""
    if len(dataset.examples) < 2:
        raise DataError(f"{name} has fewer than 2 images with captions; the others of a batch are the negatives: add some")
