"""Rectangles in a picture, in the pixels that a viewer shows: upright, from the top left corner."""

import re
from dataclasses import dataclass
from itertools import pairwise

from aladin.errors import ConfigError


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture; all in px of the upright picture at its full size."""

    x: int  # of its left edge
    y: int  # of its top edge
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.x < 0 or self.y < 0 or self.width < 1 or self.height < 1:
            raise ConfigError(f"the box {self} is none; expected x,y,width,height in px, such as 120,80,300,200")

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"

    @classmethod
    def parse(cls, text: str) -> "Box":
        """The box that "x,y,width,height" names; fractions are rounded."""
        numbers = text.split(",")
        if len(numbers) != 4 or not all(re.fullmatch(r"\s*\d{1,9}(\.\d*)?\s*", number) for number in numbers):
            raise ConfigError(f"{text[:60]!r} is no box; expected x,y,width,height in px, such as 120,80,300,200")
        return cls(*(round(float(number)) for number in numbers))

    def within(self, width: int, height: int) -> "Box":
        """The part of it that is inside a picture of this size; ConfigError when there is none."""
        if self.x >= width or self.y >= height:
            raise ConfigError(f"the box {self} is outside the picture, which has {width} x {height} px; expected it inside")
        return Box(self.x, self.y, min(self.width, width - self.x), min(self.height, height - self.y))

    def cells(self, grid: int) -> tuple["Box", ...]:
        """Its grid x grid cells in reading order, which is that of an image's regions; they meet without a gap."""
        columns = [self.x + self.width * step // grid for step in range(grid + 1)]
        rows = [self.y + self.height * step // grid for step in range(grid + 1)]
        # A cell of a picture with fewer pixels than cells still has one.
        return tuple(
            Box(left, top, max(right - left, 1), max(bottom - top, 1))
            for top, bottom in pairwise(rows)
            for left, right in pairwise(columns)
        )
