"""What is wrong in a folder of detections."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from aladin.datasets.bad_rows import BadRow, Reason
from aladin.datasets.vinvl.detections import GeometryOrder


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what was found, what was expected, what to do."""

    file: str
    line: int | None  # from 1; None: the file as a whole
    image: str | None
    kind: Reason
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line is not None else ""
        image = f" (image {self.image})" if self.image is not None else ""
        return f"{self.file}{line}{image}: {self.kind}: {self.found}; expected {self.expected}; {self.remedy}"

    @classmethod
    def of(cls, bad: BadRow, file: str, line: int | None, image: str | None) -> "Problem":
        """A bad row's."""
        return cls(file, line, image, bad.reason, bad.found, bad.expected, bad.remedy)


def mixed_orders(orders: Counter[GeometryOrder], file: str) -> Iterator[Problem]:
    """That width and height stand in both orders in the boxes of `file`."""
    one, other = orders["width, height"], orders["height, width"]
    if one and other:
        found = f"boxes that end in width, height in {one:,} images, and in height, width in {other:,}"
        yield Problem(file, None, None, "geometry", found, "one order in all", "write them again by one extractor")
