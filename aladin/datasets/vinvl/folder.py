"""A feature folder: images by id, each read when it is asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.detections import Detections, image_of, read_boxes, read_objects
from aladin.datasets.vinvl.sources import DetectionFolder, DetectionSource
from aladin.datasets.vinvl.tables import Row, Table
from aladin.errors import DataError

FEATURES, PREDICTIONS, ROWS = "features.tsv", "predictions.tsv", "imageid2idx.json"


@dataclass(frozen=True, slots=True)
class FeatureRow(DetectionSource):
    """One image of a feature folder, as a data set's examples name it."""

    image: str
    features: Row
    predictions: Row

    @property
    def file(self) -> Path:
        return self.features.path

    def read(self) -> bytes:
        """The row of features.tsv as it stands there."""
        return self.features.read()

    def detections(self, numbers: int | None = None, most: int | None = None) -> Detections:
        row = self.features
        try:
            columns = row.columns()
            self._check_image(columns)
            boxes = read_boxes(columns, numbers)
            row = self.predictions
            columns = row.columns()
            self._check_image(columns)
            return Detections(self.image, boxes[:most], read_objects(columns))
        except BadRow as bad:
            raise DataError(f"{row} (image {self.image}): {bad}") from None

    def _check_image(self, columns: list[bytes]) -> None:
        found = image_of(columns)
        if found != self.image:
            remedy = f"delete {ROWS}, it is not needed"
            raise BadRow("wrong row", f"the row of image {found}", remedy, f"that of image {self.image}")


@dataclass(frozen=True)
class FeatureFolder(DetectionFolder):
    """The images of a folder in the layout of VinVL."""

    path: Path
    features: Table
    predictions: Table
    feature_rows: Mapping[str, int]
    prediction_rows: Mapping[str, int]

    @classmethod
    def open(cls, path: Path) -> "FeatureFolder":
        """The folder at `path`. Of an image id that stands in a file twice the last row counts, as in the original."""
        features, predictions = Table.open(path / FEATURES), Table.open(path / PREDICTIONS)
        feature_rows = read_row_numbers(path / ROWS) if (path / ROWS).is_file() else _row_numbers(features)
        wrong = [image for image, number in feature_rows.items() if not 0 <= number < len(features)]
        if wrong:
            raise DataError(
                f"{path / ROWS} names row {feature_rows[wrong[0]]} for image {wrong[0]}, but {FEATURES} has {len(features)} "
                f"rows; delete {ROWS}, it is not needed"
            )
        return cls(path, features, predictions, feature_rows, _row_numbers(predictions))

    def __len__(self) -> int:
        return len(self.feature_rows)

    def images(self) -> list[str]:
        """All image ids."""
        return list(self.feature_rows)

    def of_id(self, image: str) -> FeatureRow | None:
        if image not in self.feature_rows:
            return None
        if image not in self.prediction_rows:
            raise DataError(
                f"image {image} of {self.path} has features but no row in {PREDICTIONS}; add one, without objects if there are "
                "none"
            )
        features = self.features.row(self.feature_rows[image])
        return FeatureRow(image, features, self.predictions.row(self.prediction_rows[image]))


def read_row_numbers(path: Path) -> dict[str, int]:
    """The row of each image id, as imageid2idx.json states it."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}; delete it, it is not needed") from None
    if not isinstance(value, dict) or not all(type(number) is int for number in value.values()):
        raise DataError(f"{path} holds something else than a row number for each image id; delete it, it is not needed")
    return value


def _row_numbers(table: Table) -> dict[str, int]:
    return {image: number for number, image in enumerate(table.images())}
