"""A data set as a network learns from it: every image as somebody reads it, every caption in word pieces."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from aladin.datasets import DataOrigin, Dataset, placing_undecodable
from aladin.encoder.config import ModelConfig
from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import DataError
from aladin.network.detections import RegionSet, check_photographs, region_set
from aladin.network.features import Features, cached_features, missing_bytes
from aladin.network.grid import GridNetwork
from aladin.network.model import Aladin
from aladin.progress import SILENT, Progress

Images = Features | RegionSet  # grid features of photographs, or detections of a detector


@dataclass(frozen=True)
class Reader:
    """How somebody sees images: photographs through a network, or a detector's regions, by the settings of a model."""

    config: ModelConfig
    network: GridNetwork | None  # None: detections
    views: int = 1  # of each photograph
    name: str = ""  # of whom, where it is not the model that learns

    @classmethod
    def of(cls, model: Aladin, views: int = 1, name: str = "") -> "Reader":
        return cls(model.config, model.image_network, views, name)

    def missing_bytes(self, dataset: Dataset, cache: Path) -> int:
        """How much longer `images` will make the files in `cache`."""
        if self.network is None:
            return 0
        config = self.config
        return missing_bytes(dataset, self.network, config.image.size, config.limits.tags, self.views, cache)

    def images(self, dataset: Dataset, tokenizer: Path, cache: Path, progress: Progress = SILENT) -> Images:
        """The images of `dataset`, features of photographs from `cache` where they are there.

        DataError where the one is expected and the other found, or where an image cannot be decoded.
        """
        if self.network is None:
            return region_set(dataset, tokenizer, self.config)
        check_photographs(dataset)
        config = self.config
        with placing_undecodable(dataset):
            return cached_features(dataset, self.network, config.image.size, config.limits.tags, self.views, cache, progress)


@dataclass(frozen=True)
class LearningSet:
    """Images as the model that learns reads them, and the word pieces of all captions."""

    images: Images
    pieces: Pieces
    owners: Int[np.ndarray, " captions"]  # the image row of each caption, rising
    origin: DataOrigin | None = None  # what is recorded of it

    @property
    def views(self) -> int:
        return self.images.views if isinstance(self.images, Features) else 1

    @property
    def image_count(self) -> int:
        return int(self.owners[-1]) + 1


ImagesSeen = Callable[[Reader], Images]  # the training images as somebody else than the model sees them


def learning_set(dataset: Dataset, reader: Reader, tokenizer: Path, cache: Path, progress: Progress = SILENT) -> LearningSet:
    """Images (grid features of photographs from `cache` where they are there) and word pieces of `dataset`."""
    images = reader.images(dataset, tokenizer, cache, progress)
    pieces = WordPieces.load(tokenizer, reader.config.limits.caption_pieces).encode(list(dataset.captions))
    return LearningSet(images, pieces, dataset.owners, DataOrigin.of(dataset))


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
