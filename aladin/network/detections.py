"""A data set whose images are a detector's regions, as the network reads it: region features and tags, batch by batch.

Nothing is kept in memory: a batch is read from the feature folder when it is asked for (COCO's would take 30 GB).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from aladin.datasets import Dataset
from aladin.datasets.vinvl import DetectionSource
from aladin.encoder.config import ModelConfig
from aladin.encoder.region_encoder import image_pieces
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import DataError
from aladin.network.tensors import ImageInput, Regions
from aladin.progress import SILENT, Progress


@dataclass(frozen=True)
class RegionSet:
    """The images of a data set, in its order."""

    images: tuple[DetectionSource, ...]
    tokenizer: WordPieces  # its limit is that of an image's object names
    config: ModelConfig

    def __len__(self) -> int:
        return len(self.images)

    @property
    def views(self) -> int:
        return 1

    def read(self, rows: Int[np.ndarray, " images"] | range, views: int | Int[np.ndarray, " images"] = 0) -> ImageInput:
        """The images of these rows: of each the first regions and the first word pieces of its object names, up to the limits.

        Both stay in the order of the file (spec, section 1.2).
        """
        backbone = self.config.backbone
        numbers = backbone.region_features + backbone.region_geometry
        detections = [self.images[row].detections(numbers, self.config.limits.regions) for row in rows]
        counts = torch.tensor([len(image.boxes) for image in detections])
        # By numpy, since several threads may read: each of them would begin threads of torch's own.
        boxes_read = np.zeros((len(detections), int(counts.max()), numbers), dtype=np.float32)
        for row, image in enumerate(detections):
            boxes_read[row, : len(image.boxes)] = image.boxes
        padded = torch.from_numpy(boxes_read)
        mask = torch.arange(padded.shape[1])[None] < counts[:, None]
        features, boxes = padded[:, :, : backbone.region_features], padded[:, :, backbone.region_features :]
        names = [image.objects.names for image in detections]
        pieces = image_pieces(names, self.tokenizer, self.config.quirks)
        return ImageInput(torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask), Regions(features, boxes, mask))


@dataclass(frozen=True)
class DetectionReader:
    """Reads a detector's regions (the seam of backbone.py), as a model of these settings does."""

    tokenizer: Path  # a tokenizer.json
    config: ModelConfig

    def read(self, dataset: Dataset, views: int, cache: Path, progress: Progress = SILENT) -> RegionSet:
        """One view of each image, whatever `views` is; nothing is cached. DataError if an image is a photograph."""
        return RegionSet(
            region_sources(dataset), WordPieces.load(self.tokenizer, self.config.limits.object_pieces), self.config
        )

    def missing_bytes(self, dataset: Dataset, views: int, cache: Path) -> int:
        return 0


def region_sources(dataset: Dataset) -> tuple[DetectionSource, ...]:
    """Where the regions of each image of a data set are; DataError if an image is a photograph."""
    sources = []
    for example in dataset.examples:
        if not isinstance(example.source, DetectionSource):
            raise DataError(
                f"image {example.id} is a photograph; this model reads a detector's regions: give their folder with --images"
            )
        sources.append(example.source)
    return tuple(sources)


def check_photographs(dataset: Dataset) -> None:
    """DataError if the images of the data set are a detector's regions."""
    for example in dataset.examples:
        if isinstance(example.source, DetectionSource):
            raise DataError(
                f"image {example.id} is a row of region features; this model reads photographs: give their folder with --images"
            )
