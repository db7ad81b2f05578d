"""Conditions on images as trees, which each store compiles into its own language; `filters` reads one from text."""

from dataclasses import dataclass
from typing import Literal

Scalar = str | int | float
Kind = Literal["number", "text"] | None  # None: either, as what others have written beside an image
Operator = Literal[
    "and", "or", "not", "=", "==", "!=", "<>", "<", "<=", ">", ">=", "like", "not like", "glob", "not glob",
    "between", "not between", "in", "not in", "is null", "is not null", "+", "-", "*", "/", "%", "negative",
]  # fmt: skip
COLUMNS: dict[str, Kind] = {
    "path": "text",  # relative to the collection's folder
    "folder": "text",  # '' for the images that are in no folder below
    "name": "text",
    "frame": "number",  # which of the file's pictures, 0 for the first
    "size": "number",  # bytes
    "width": "number",  # px, upright
    "height": "number",
    "taken": "text",  # local time of the camera, as 2026-05-01T12:30:00
    "modified": "text",  # the file, in the same form
    "date": "text",  # the camera's, else the file's
    "id": "number",
    "camera": "text",
    "lens": "text",
    "iso": "number",
    "f_number": "number",
    "exposure_s": "number",
    "focal_mm": "number",
    "latitude": "number",
    "longitude": "number",
    "description": "text",
}
# Name -> with how many arguments it may be called, and what it gives.
FUNCTIONS: dict[str, tuple[int, int, Kind]] = {
    "coalesce": (2, 9, None),
    "date": (1, 1, "text"),
    "instr": (2, 2, "number"),
    "length": (1, 1, "number"),
    "lower": (1, 1, "text"),
    "month": (1, 1, "number"),
    "round": (1, 2, "number"),
    "substr": (2, 3, "text"),
    "time": (1, 1, "text"),
    "trim": (1, 1, "text"),
    "upper": (1, 1, "text"),
    "year": (1, 1, "number"),
}


@dataclass(frozen=True)
class Constant:
    """A number or a text."""

    value: Scalar


@dataclass(frozen=True)
class Column:
    """What is known of every image, by a name of COLUMNS."""

    name: str


@dataclass(frozen=True)
class Metadata:
    """What others have written beside an image, by the keys that lead there."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Function:
    """A function of FUNCTIONS of some terms."""

    name: str
    arguments: tuple["Condition", ...]


@dataclass(frozen=True)
class Operation:
    """An operator and what it is applied to, in the order in which it is written."""

    operator: Operator
    operands: tuple["Condition", ...]


Condition = Constant | Column | Metadata | Function | Operation
