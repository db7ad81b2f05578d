"""A feature folder: images by id, each read when it is asked for."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.detections import Detections, image_of, read_boxes, read_objects
from aladin.datasets.vinvl.tables import Row, Table
from aladin.errors import DataError

FEATURES, PREDICTIONS, ROWS = "features.tsv", "predictions.tsv", "imageid2idx.json"


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One image of a feature folder, as a data set's examples name it."""

    image: str
    features: Row
    predictions: Row

    def read(self) -> bytes:
        """The row of features.tsv as it stands there."""
        return self.features.read()

    def detections(self, numbers: int | None = None) -> Detections:
        """Boxes of `numbers` each (any if None) and objects; DataError where a row holds something else."""
        row = self.features
        try:
            columns = row.columns()
            self._check_image(columns)
            boxes = read_boxes(columns, numbers)
            row = self.predictions
            columns = row.columns()
            self._check_image(columns)
            return Detections(self.image, boxes, read_objects(columns))
        except BadRow as bad:
            raise DataError(f"{row} (image {self.image}): {bad}") from None

    def _check_image(self, columns: list[bytes]) -> None:
        found = image_of(columns)
        if found != self.image:
            remedy = f"delete {ROWS}, it is not needed"
            raise BadRow("wrong row", f"the row of image {found}", remedy, f"that of image {self.image}")


@dataclass(frozen=True)
class FeatureFolder:
    """The images of a feature folder."""

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

    def find(self, name: str) -> FeatureRow | None:
        """The image of that id, or of the id in a file's name: 391895 for val2014/COCO_val2014_000000391895.jpg.

        None if it has no features. DataError if it has features but no objects.
        """
        for image in _possible_ids(name):
            if image in self.feature_rows:
                if image not in self.prediction_rows:
                    raise DataError(
                        f"image {image} of {self.path} has features but no row in {PREDICTIONS}; add one, without objects if "
                        "there are none"
                    )
                features = self.features.row(self.feature_rows[image])
                return FeatureRow(image, features, self.predictions.row(self.prediction_rows[image]))
        return None


def is_feature_folder(path: Path) -> bool:
    """Whether the folder holds a detector's features."""
    return (path / FEATURES).is_file()


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


def _possible_ids(name: str) -> list[str]:
    stem = PurePosixPath(name).stem
    digits = re.search(r"[0-9]+$", stem)
    return [name, stem, *([digits[0].lstrip("0") or "0"] if digits else [])]
