"""A detector's own output: one predictions.tsv whose objects carry their features, as VinVL's detector writes it.

A row is an image id and JSON: `{"image_h": 480, "image_w": 640, "objects": [{"class": "dog", "rect": [x1, y1, x2, y2], "conf":
0.9, "feature": base64 of 2,048 float32}, ...]}`. Such a table becomes a feature folder: each object is a box, too.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.detections import (
    BOX_NUMBERS,
    GEOMETRY,
    Detections,
    geometry_order,
    image_of,
    objects_value,
    parsed_objects,
    with_geometry,
)
from aladin.datasets.vinvl.folder import FEATURES, PREDICTIONS
from aladin.datasets.vinvl.tables import columns_of
from aladin.errors import DataError
from aladin.progress import SILENT, Progress

FEATURE = "feature"


def detector_output(path: Path) -> Path | None:
    """The table of a detector's output at `path`, which is the table or its folder; None where there is none.

    A folder that has features.tsv is a feature folder already.
    """
    table = path / PREDICTIONS if path.is_dir() and not (path / FEATURES).exists() else path
    if table.suffix != ".tsv" or not table.is_file():
        return None
    return table if carries_features(table) else None


def carries_features(table: Path) -> bool:
    """Whether an object of the first row that has objects holds a feature; rows that cannot be read are passed over."""
    for line in _lines(table):
        try:
            _, items = objects_value(columns_of(line))
        except BadRow:
            continue
        if items:
            return any(FEATURE in item for item in items)
    return False


def read_output_row(columns: list[bytes], numbers: int | None) -> Detections:
    """An image of its row: of every object a box with geometry. BadRow unless it has boxes of `numbers` (any if None) finite
    ones, and the size of the image.
    """
    image = image_of(columns)
    if not image:
        raise BadRow("missing key", "no image id", "write it, or remove the line", "an image id in the first column")
    value, items = objects_value(columns)
    missing = [name for name in ("image_h", "image_w") if name not in value]
    if missing:
        expected = "the image's height and width in px beside the objects"
        raise BadRow("geometry", f"no {missing[0]}", "add both, or the boxes have no geometry", expected)
    objects = parsed_objects(value, items)
    if not items:
        raise BadRow("no boxes", "0 objects", "leave the image out, or lower the detector's threshold", "at least one")
    if objects.rects is None:
        expected = '"rect" with x1, y1, x2, y2 in px in every object'
        raise BadRow(
            "geometry", "an object without a box of four finite numbers", "run the detector on the image again", expected
        )
    wanted = None if numbers is None else numbers - GEOMETRY
    features = np.stack(_equally_long([_feature(item, number, wanted) for number, item in enumerate(items, start=1)]))
    with np.errstate(all="ignore"):  # a box far outside the image is infinite, which is told below
        boxes = with_geometry(features, objects.rects, objects.height, objects.width)
    if not np.isfinite(boxes).all():
        box, number = np.argwhere(~np.isfinite(boxes))[0]
        found = f"{boxes[box, number]}, number {number + 1} of box {box + 1}"
        raise BadRow("not a number", found, "run the detector on the image again", "finite numbers")
    geometry_order(boxes)  # so that no box stands outside the image, or on its head
    return Detections(image, boxes, objects)


def output_detections(table: Path, numbers: int | None = None, progress: Progress = SILENT) -> Iterator[Detections]:
    """Every image of a detector's output in the order of its rows; DataError with the line of one that cannot be used.

    Boxes are of `numbers` each, any if None. `progress` counts bytes.
    """
    lines: dict[str, int] = {}
    done, total = 0, table.stat().st_size
    for number, line in enumerate(_lines(table), start=1):
        columns = columns_of(line)
        try:
            found = read_output_row(columns, numbers)
            first = lines.setdefault(found.image, number)
            if first != number:
                raise BadRow("duplicate image", f"the image of line {first} again", "remove one of the two", "each image once")
        except BadRow as bad:
            raise DataError(f"{table}, line {number}{_named(columns)}: {bad.reason}: {bad}") from None
        yield found
        done += len(line)
        progress(done, total)


def _lines(table: Path) -> Iterator[bytes]:
    try:
        with table.open("rb") as file:
            yield from file
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}; check the disk and its permissions") from None


def _named(columns: list[bytes]) -> str:
    try:
        return f" (image {image})" if (image := image_of(columns)) else ""
    except BadRow:
        return ""


def _feature(item: dict[str, Any], number: int, wanted: int | None) -> Float32[np.ndarray, " features"]:
    """The feature of one object, the `number`th from 1."""
    text, usual = item.get(FEATURE), wanted or BOX_NUMBERS - GEOMETRY
    if not isinstance(text, str):
        found = f"no {FEATURE} in object {number}" if text is None else f"a {FEATURE} that is no text in object {number}"
        raise BadRow("missing key", found, "run the detector on the image again", "base64 in every object")
    try:
        data = base64.b64decode(text.encode("ascii", "replace"), validate=True)
    except binascii.Error as error:
        found = f"text in object {number} that ends too early or is no base64 ({error})"
        raise BadRow("bad base64", found, "copy the row again", f"base64 as {FEATURE}") from None
    if len(data) == 2 * usual:
        found = f"{len(data):,} bytes in object {number}, as float16 has"
        remedy = "write the numbers as float32, or say with --numbers what a box has"
        raise BadRow("wrong size", found, remedy, "float32")
    if not data or len(data) % 4:
        found, expected = f"{len(data):,} bytes in object {number}", f"{usual:,} x 4 bytes"
        raise BadRow("wrong size", found, "copy the row again", expected)
    if wanted is not None and len(data) != 4 * wanted:
        found, remedy = (
            f"{len(data) // 4:,} features in object {number}",
            "copy the row again, or say with --numbers what a box has",
        )
        raise BadRow("wrong size", found, remedy, f"{wanted:,}, and {GEOMETRY} numbers of geometry from its box")
    return np.frombuffer(data, dtype="<f4").astype(np.float32)


def _equally_long(features: list[Float32[np.ndarray, " features"]]) -> list[Float32[np.ndarray, " features"]]:
    lengths = Counter(map(len, features))
    if len(lengths) > 1:
        found = " and ".join(f"{length:,} ({count})" for length, count in lengths.most_common())
        raise BadRow("wrong size", f"objects with {found} features", "run the detector on the image again", "as many in each")
    return features
