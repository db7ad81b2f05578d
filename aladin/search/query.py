"""What can be asked of a collection, as plain values.

A query names what is wanted, texts and images with a weight each, and texts that are not wanted. Its score of an image is the
weighted mean of the scores of what is wanted, less the score of each text that is not: the better some region answers the
unwanted words, the further down an image comes. Scores of texts and of images spread alike, so weights mean what they say.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from aladin.collection import filters
from aladin.errors import ConfigError, DataError
from aladin.pictures.boxes import Box


@dataclass(frozen=True)
class TextPart:
    """Images that a text describes."""

    text: str
    weight: float = 1.0

    def __str__(self) -> str:
        return self.text.strip()


@dataclass(frozen=True)
class ImagePart:
    """Images like one, or like what a box cuts out of it. The image itself is no hit."""

    source: Path | bytes | int  # a file (or "film.gif[2]"), what a file contains, or the id of an image of the collection
    weight: float = 1.0
    box: Box | None = None

    def __str__(self) -> str:
        """For people: beach.jpg[10,20,300,200], or image 7."""
        box = "" if self.box is None else f"[{self.box}]"
        if isinstance(self.source, Path):
            return f"{self.source}{box}"
        return f"image {self.source}{box}" if isinstance(self.source, int) else f"the given image{box}"


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Query:
    """What is wanted, what is not, and a condition that images must meet (see `aladin.collection.filters`)."""

    wanted: tuple[Part, ...]
    without: tuple[str, ...] = ()
    where: str | None = None

    def __post_init__(self) -> None:
        texts = [part.text for part in self.wanted if isinstance(part, TextPart)]
        for text in (*texts, *self.without):
            if not isinstance(text, str):
                raise DataError(f"a text of the query is of the type {type(text).__name__}; expected str")
        if not self.wanted or not all(text.strip() for text in (*texts, *self.without)):
            raise DataError("the query is empty; describe the image that you look for, such as: a dog runs through snow")
        if self.where is not None:
            filters.parsed(self.where)
        for part in self.wanted:
            if not (math.isfinite(part.weight) and part.weight > 0):
                raise ConfigError(f"the weight of a part of the query is {part.weight}; expected a finite number, more than 0")

    def __str__(self) -> str:
        """For people: a dog + 2 x snow + beach.jpg[10,20,300,200] without people."""
        wanted = " + ".join(f"{'' if part.weight == 1 else f'{part.weight:g} x '}{part}" for part in self.wanted)
        unwanted = "".join(f" without {text}" for text in self.without)
        return f"{wanted}{unwanted}{f' where {self.where}' if self.where else ''}"
