"""What a detector saw in an image, and its two rows: box features in base64, objects in JSON."""

import ast
import base64
import binascii
import itertools
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.base64_numbers import decoded

BOX_NUMBERS = 2054  # VinVL's: 2,048 features and six of geometry
GEOMETRY = 6  # x1/W, y1/H, x2/W, y2/H, w/W, h/H
GeometryOrder = Literal["width, height", "height, width", "either"]
SLACK = 0.02  # how far geometry may be off: detectors differ in whether a box's last pixel counts
LARGEST = float(np.finfo(np.float32).max)
BARE_SIZE = (600.0, 800.0)  # height and width of an image whose objects are a bare list
APPEND = "append x1/W, y1/H, x2/W, y2/H, w/W, h/H of the box"


@dataclass(frozen=True)
class Objects:
    """The named objects of an image, in the order of the file. The model reads the names only."""

    names: tuple[str, ...]
    height: float  # of the image, px
    width: float
    rects: Float32[np.ndarray, "objects 4"] | None = None  # x1, y1, x2, y2 in px
    confidences: Float32[np.ndarray, " objects"] | None = None


@dataclass(frozen=True)
class Detections:
    """Boxes and objects of one image; both in the order of the file, and neither a list of the other's."""

    image: str
    boxes: Float32[np.ndarray, "boxes numbers"]  # features, then geometry
    objects: Objects


def with_geometry(
    features: Float32[np.ndarray, "boxes features"], rects: Float32[np.ndarray, "boxes 4"], height: float, width: float
) -> Float32[np.ndarray, "boxes numbers"]:
    """The features, each followed by its box (x1, y1, x2, y2 in px) as six shares of the image."""
    x1, y1, x2, y2 = rects.T
    shares = [x1 / width, y1 / height, x2 / width, y2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return np.concatenate([features, np.stack(shares, axis=1).astype(np.float32)], axis=1)


def image_of(columns: list[bytes]) -> str:
    """The image id of a row."""
    try:
        return columns[0].decode("utf-8")
    except UnicodeDecodeError:
        raise BadRow("not UTF-8", f"image id {columns[0]!r}", "write the id in UTF-8", "text") from None


def read_boxes(columns: list[bytes], numbers: int | None) -> Float32[np.ndarray, "boxes numbers"]:
    """The boxes of a row of features.tsv; BadRow unless it holds at least one box of `numbers` (any if None) finite ones."""
    count, encoded = _count_and_data(columns)
    if count == 0:
        raise BadRow("no boxes", "0 boxes", "leave the image out, or lower the detector's threshold", "at least one")
    try:
        data = decoded(encoded)
    except binascii.Error as error:
        expected = "base64 in the last column"
        raise BadRow(
            "bad base64", f"text that ends too early or is no base64 ({error})", "copy the row again", expected
        ) from None
    found, left = divmod(len(data), 4 * count)
    if len(data) == 2 * count * (numbers or BOX_NUMBERS):
        found_text = f"{len(data):,} bytes for {count} boxes, as float16 has"
        raise BadRow("wrong size", found_text, "write the numbers as float32", "float32")
    if left:
        expected = f"{numbers or BOX_NUMBERS} x 4 bytes a box, {(numbers or BOX_NUMBERS) * 4 * count:,} in all"
        raise BadRow("wrong size", f"{len(data):,} bytes for {count} boxes", "copy the row again", expected)
    if numbers is not None and found != numbers:
        remedy = APPEND if found == numbers - GEOMETRY else "copy the row again, or say with --numbers what a box has"
        raise BadRow("wrong size", f"{found:,} numbers a box", remedy, f"{numbers:,}")
    boxes = np.frombuffer(data, dtype="<f4").reshape(count, found).astype(np.float32)
    if not np.isfinite(boxes).all():
        box, number = np.argwhere(~np.isfinite(boxes))[0]
        found_text = f"{boxes[box, number]}, number {number + 1} of box {box + 1}"
        raise BadRow("not a number", found_text, "run the detector on the image again", "finite numbers")
    return boxes


def geometry_order(boxes: Float32[np.ndarray, "boxes numbers"]) -> GeometryOrder:
    """In which order the last two of a box's six numbers stand, by all boxes; "either" where no box tells.

    Public converters write both. BadRow if the six are no box, such as another extractor's six features.
    """
    geometry = boxes[:, -GEOMETRY:]
    x1, y1, x2, y2, first, second = geometry.T
    outside = ((geometry < -SLACK) | (geometry > 1 + SLACK)).any(axis=1) | (x2 < x1) | (y2 < y1)
    wide = (np.abs(x2 - x1 - first) <= SLACK) & (np.abs(y2 - y1 - second) <= SLACK)
    high = (np.abs(y2 - y1 - first) <= SLACK) & (np.abs(x2 - x1 - second) <= SLACK)
    wrong = outside | ~(wide if wide.sum() >= high.sum() else high)
    if wrong.any():
        box = int(wrong.argmax())
        shown = ", ".join(f"{value:.3g}" for value in geometry[box])
        found = f"({shown}) at the end of box {box + 1}, and {wrong.sum() - 1} more boxes like it"
        expected = "x1, y1, x2, y2, width, height as shares of the image, or the last two in the other order"
        raise BadRow("geometry", found, f"there {APPEND}", expected)
    if wide.all():
        return "either" if high.all() else "width, height"
    return "height, width"


def is_python_text(content: bytes) -> bool:
    """Whether it is a list or dictionary as Python prints them."""
    try:
        return isinstance(ast.literal_eval(content.decode()), dict | list)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def read_objects(columns: list[bytes]) -> Objects:
    """The objects of a row of predictions.tsv: a bare list of them, or an object with the image's size."""
    return parsed_objects(*objects_value(columns))


def objects_value(columns: list[bytes]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The JSON of such a row: what stands beside the objects, nothing for a bare list, and the objects."""
    if len(columns) < 2:
        raise BadRow("wrong columns", "1 column", "write the row again", "an image id and JSON")
    try:
        value = json.loads(columns[1])
    except (ValueError, RecursionError) as error:
        if is_python_text(columns[1]):
            found = "text as Python prints it, with single quotes"
            raise BadRow("not JSON", found, "write the row by json.dumps", "JSON in the second column") from None
        raise BadRow("not JSON", f"no JSON ({error})", "copy the row again", "JSON in the second column") from None
    beside, items = (value, value.get("objects")) if isinstance(value, dict) else ({}, value)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise BadRow("not JSON", "something else", "write the row again", 'a list of objects, or one under "objects"')
    return beside, items


def parsed_objects(beside: dict[str, Any], items: list[dict[str, Any]]) -> Objects:
    """The objects, with the image's size where it stands beside them."""
    height, width = (_size(beside, key, default) for key, default in zip(("image_h", "image_w"), BARE_SIZE, strict=True))
    names = [item.get("class") for item in items]
    if not all(isinstance(name, str) for name in names):
        raise BadRow("not JSON", "an object without a name", "write the row again", '"class" with text in every object')
    return Objects(tuple(map(str, names)), height, width, *_rects_and_confidences(items))


def features_row(detections: Detections) -> bytes:
    """The row of features.tsv, with its end of line."""
    data = base64.b64encode(np.ascontiguousarray(detections.boxes, dtype="<f4").tobytes())
    return b"\t".join([detections.image.encode(), str(len(detections.boxes)).encode(), data]) + b"\n"


def predictions_row(detections: Detections) -> bytes:
    """The row of predictions.tsv, with its end of line."""
    objects = detections.objects
    items: list[dict[str, Any]] = [{"class": name} for name in objects.names]
    if objects.rects is not None:
        for item, rect in zip(items, objects.rects.tolist(), strict=True):
            item["rect"] = rect
    if objects.confidences is not None:
        for item, confidence in zip(items, objects.confidences.tolist(), strict=True):
            item["conf"] = confidence
    value = {"image_h": objects.height, "image_w": objects.width, "objects": items}
    return f"{detections.image}\t{json.dumps(value)}\n".encode()


def _count_and_data(columns: list[bytes]) -> tuple[int, bytes]:
    """The number of boxes, and their base64 in the last column. Some detectors put both into one column of JSON."""
    if len(columns) == 2 and columns[1].startswith(b"{"):
        try:
            value = json.loads(columns[1])
            return _whole(str(value["num_boxes"]).encode()), str(value["features"]).encode()
        except (ValueError, KeyError) as error:
            expected = '"num_boxes" and "features"'
            raise BadRow("not JSON", f"no such JSON ({error})", "copy the row again", expected) from None
    if len(columns) < 3:
        expected = "an image id, the number of boxes and base64, with tabs between"
        raise BadRow("wrong columns", f"{len(columns)} columns", "copy the row again", expected)
    return _whole(columns[1]), columns[-1]


def _whole(text: bytes) -> int:
    if not text.isdigit():
        shown = text[:20].decode("utf-8", "replace")
        raise BadRow("wrong columns", f"{shown!r} as the number of boxes", "write the row again", "a whole number")
    return int(text)


def _size(value: dict[str, Any], key: str, default: float) -> float:
    size = value.get(key, default)
    if not _is_number(size) or not size > 0:
        raise BadRow("not JSON", f"{key} {size!r}", "write the row again", "a number above 0")
    return float(size)


def _rects_and_confidences(
    items: list[dict[str, Any]],
) -> tuple[Float32[np.ndarray, "objects 4"] | None, Float32[np.ndarray, " objects"] | None]:
    """Both where every object has one; the model reads neither."""
    rects: list[Any] = [item.get("rect") for item in items]
    confidences = [item.get("conf") for item in items]
    four = all(type(rect) is list and len(rect) == 4 for rect in rects)
    numbers = _numbers(list(itertools.chain.from_iterable(rects))) if four else None
    return None if numbers is None else numbers.reshape(-1, 4), _numbers(confidences)


def _numbers(values: list[Any]) -> Float32[np.ndarray, " values"] | None:
    """The values as an array if they are finite numbers, as float32 too, and there are any."""
    if not values or not set(map(type, values)) <= {int, float}:  # bool is a kind of int to isinstance
        return None
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        return None
    return numbers.astype(np.float32) if (np.abs(numbers) <= LARGEST).all() else None


def _is_number(value: Any) -> bool:
    """Whether it is a finite number, as float32 too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
