"""Where detections are: those of one image, and a folder of them. Each form of file has a subclass of both."""

import re
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from aladin.datasets.vinvl.detections import Detections


class DetectionSource(ABC):
    """One image's detections, as a data set's examples name them.

    It holds no open file, so it may be pickled, forked and read by many threads at once.
    """

    __slots__ = ()
    image: str  # its id

    @property
    @abstractmethod
    def file(self) -> Path:
        """The file in which its boxes stand, beside those of other images."""

    @abstractmethod
    def read(self) -> bytes:
        """Its boxes as they stand in the file."""

    @abstractmethod
    def detections(self, numbers: int | None = None, most: int | None = None) -> Detections:
        """The first `most` boxes (all if None) of `numbers` each (any if None), and all objects.

        DataError where something else stands there.
        """


class DetectionFolder(ABC):
    """The images of a folder of detections."""

    path: Path

    @abstractmethod
    def images(self) -> list[str]:
        """All image ids."""

    @abstractmethod
    def of_id(self, image: str) -> DetectionSource | None:
        """The image of exactly that id; None if there is none. DataError if it has boxes but no objects."""

    def __len__(self) -> int:
        return len(self.images())

    def find(self, name: str) -> DetectionSource | None:
        """The image of that id, or of the id in a file's name: 391895 for val2014/COCO_val2014_000000391895.jpg."""
        return next((found for image in _possible_ids(name) if (found := self.of_id(image))), None)


def _possible_ids(name: str) -> list[str]:
    stem = PurePosixPath(name).stem
    digits = re.search(r"[0-9]+$", stem)
    return [name, stem, *([digits[0].lstrip("0") or "0"] if digits else [])]
