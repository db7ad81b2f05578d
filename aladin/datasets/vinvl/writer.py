"""Writing a feature folder, image by image."""

import json
from collections.abc import Container
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from aladin.datasets.vinvl.detections import Detections, features_row, predictions_row
from aladin.datasets.vinvl.folder import FEATURES, PREDICTIONS, ROWS
from aladin.errors import DataError

PARTIAL = ".partial"


class FeatureWriter:
    """Writes a new feature folder: the context of `add`. The files get their names when all is written, or not at all."""

    def __init__(self, folder: Path) -> None:
        for name in (FEATURES, PREDICTIONS):
            if (folder / name).exists():
                raise DataError(f"{folder} has a {name} already; give another folder or delete that one")
        self.folder = folder
        self._numbers: int | None = None  # of a box
        self._rows: dict[str, int] = {}
        self._offsets: dict[str, list[int]] = {FEATURES: [], PREDICTIONS: []}
        self._files: dict[str, BinaryIO] = {}

    def __enter__(self) -> "FeatureWriter":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in self._offsets:
                self._files[name] = (self.folder / (name + PARTIAL)).open("wb")
        except OSError as error:
            raise DataError(f"{self.folder} cannot be written: {error.strerror}; give another folder") from None
        return self

    def add(self, detections: Detections) -> None:
        """One more image; its id must be new, and free of tabs and line ends. It may have no boxes: `check_folder` minds."""
        check_image(detections, self._rows, self._numbers)
        self._numbers = detections.boxes.shape[1]
        self._rows[detections.image] = len(self._rows)
        for name, row in ((FEATURES, features_row(detections)), (PREDICTIONS, predictions_row(detections))):
            self._offsets[name].append(self._files[name].tell())
            try:
                self._files[name].write(row)
            except OSError as error:
                raise DataError(f"{self.folder / name} cannot be written: {error.strerror}; free some space") from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()
        if kind is not None:
            for name in self._files:
                (self.folder / (name + PARTIAL)).unlink()
            return
        for name, offsets in self._offsets.items():
            index = (self.folder / name).with_suffix(".lineidx")
            index.write_text("".join(f"{offset}\n" for offset in offsets), encoding="ascii")
        (self.folder / ROWS).write_text(json.dumps(self._rows), encoding="utf-8")
        for name in self._files:
            (self.folder / (name + PARTIAL)).rename(self.folder / name)


def check_image(detections: Detections, seen: Container[str], expected: int | None) -> None:
    """DataError unless its id is new and can stand in a table, and its boxes have the `expected` numbers, finite ones."""
    image, (count, numbers) = detections.image, detections.boxes.shape
    if not image or image != image.strip() or any(character in image for character in "\t\r\n"):
        raise DataError(f"image id {image!r} cannot stand in a table; give one without tabs, line ends, spaces around")
    if image in seen:
        raise DataError(f"image {image} is there twice; give every image its own id")
    if expected not in (None, numbers) or not np.isfinite(detections.boxes).all():
        raise DataError(
            f"image {image} has {count} boxes of {numbers} numbers; expected finite numbers, and "
            f"{expected or numbers} of them as for the images before it: run the detector on it again"
        )
