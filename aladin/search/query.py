"""What can be asked of a collection, as plain values; and what a query becomes before it meets the images.

A query names what is wanted, texts and images with a weight each, and texts that are not wanted. Its score of an image is the
weighted mean of the scores of what is wanted, less the score of each text that is not: the better some region answers the
unwanted words, the further down an image comes. Scores of texts and of images spread alike, so weights mean what they say.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

import numpy as np
from jaxtyping import Float32

from aladin.collection import filters
from aladin.collection.store import Collection, ImageRow
from aladin.encoder.encoder import Encoder
from aladin.encoder.pooling import MUTUAL, POOLINGS, PoolingMode, searchable
from aladin.encoder.word_pieces import TypedWord
from aladin.errors import ConfigError, DataError
from aladin.pictures.boxes import Box
from aladin.pictures.frames import named_picture
from aladin.pictures.long_paths import is_there, read_file, status_of
from aladin.pictures.opening import open_with_size
from aladin.pictures.pixels import to_pixels

UNWANTED_WEIGHT = -1.0  # on Flickr8k's photographs as good as any: a third of the unwanted remain, hardly a wanted one is lost


@dataclass(frozen=True)
class TextPart:
    """Images that a text describes."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class ImagePart:
    """Images like one, or like what a box cuts out of it. The image itself is no hit."""

    source: Path | bytes | int  # a file (or "film.gif[2]"), what a file contains, or the id of an image of the collection
    weight: float = 1.0
    box: Box | None = None


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
        wanted = " + ".join(f"{'' if part.weight == 1 else f'{part.weight:g} x '}{_name(part)}" for part in self.wanted)
        unwanted = "".join(f" without {text}" for text in self.without)
        return f"{wanted}{unwanted}{f' where {self.where}' if self.where else ''}"


@dataclass(frozen=True)
class EncodedPart:
    """One text or image of a query, encoded."""

    name: str  # as in `str(query)`
    weight: float  # of its score in the query's; below 0 for what is not wanted
    vector: Float32[np.ndarray, " dim"]
    tokens: Float32[np.ndarray, "tokens token_dim"]
    pooling: PoolingMode
    words: tuple[TypedWord, ...] = ()  # of a text: which tokens spell which word
    boxes: tuple[Box, ...] = ()  # of an image: where each token is


@dataclass(frozen=True)
class EncodedQuery:
    """What a query becomes before it meets the collection."""

    parts: tuple[EncodedPart, ...]  # wanted ones first
    truncated: bool = False  # the end of a text was not read by the model
    excluded: frozenset[int] = frozenset()  # ids of the query's own images

    @property
    def vector(self) -> Float32[np.ndarray, " dim"]:
        """Its product with an image's vector is the matching score: the weighted sum of those of the parts."""
        total: Float32[np.ndarray, " dim"] = np.sum([np.float32(part.weight) * part.vector for part in self.parts], axis=0)
        return total


def encode_query(query: Query, encoder: Encoder, collection: Collection | None = None) -> EncodedQuery:
    """All parts of the query, encoded; DataError for one that asks for nothing.

    Without a collection no image can be named by its id.
    """
    total = sum(part.weight for part in query.wanted)
    texts = [part for part in query.wanted if isinstance(part, TextPart)]
    texts += [TextPart(text, UNWANTED_WEIGHT * total) for text in query.without]
    encoded, truncated = _encode_texts(texts, total, encoder)
    unwanted = encoded[len(encoded) - len(query.without) :]
    of_texts = iter(encoded)
    wanted = [
        next(of_texts) if isinstance(part, TextPart) else _encode_image(part, total, encoder, collection)
        for part in query.wanted
    ]
    own = {_row_of(part.source, collection) for part in query.wanted if isinstance(part, ImagePart)}
    return EncodedQuery((*wanted, *unwanted), truncated, frozenset(number for number in own if number is not None))


def _encode_texts(parts: Sequence[TextPart], total: float, encoder: Encoder) -> tuple[list[EncodedPart], bool]:
    if not parts:
        return [], False
    pooling = searchable(encoder.model.config.heads.pooling)
    rows = encoder.encode_queries([part.text for part in parts])
    encoded = []
    for part, vector, words, mask in zip(parts, rows.vectors, rows.words, rows.word_mask, strict=True):
        if not mask.any():
            raise DataError(f"the query {part.text!r:.80} has no word that the model can read; write it in letters")
        name, typed = _name(part), encoder.typed_words(part.text)
        encoded.append(EncodedPart(name, part.weight / total, vector, words[mask], pooling, words=typed))
    return encoded, any(rows.truncated)


def _encode_image(part: ImagePart, total: float, encoder: Encoder, collection: Collection | None) -> EncodedPart:
    """An image whole is compared both ways, region by region; what is cut out of one may be a part of what is looked for, so
    there only the cut-out's regions choose.
    """
    name, weight, model = _name(part), part.weight / total, encoder.model.config.image
    if isinstance(part.source, int) and part.box is None:
        row, vector, regions = _stored_image(part.source, _opened(collection))
        boxes = Box(0, 0, row.width or 1, row.height or 1).cells(model.grid)
        return EncodedPart(name, weight, vector, regions, MUTUAL, boxes=boxes)
    data, frame = _content(part.source, collection)
    whole = name if part.box is None else name.removesuffix(f"[{part.box}]")
    image, size = open_with_size(data, whole, 0 if part.box else model.size, frame)
    box = Box(0, 0, *size)
    if part.box is not None:
        box = part.box.within(box.width, box.height)
        image = image.crop((box.x, box.y, box.x + box.width, box.y + box.height))
    encoded = encoder.encode_images(to_pixels(image, model.size)[None])
    if not encoded.usable[0]:
        raise DataError(f"the model has no finite vector for {name}; give another image")
    pooling = POOLINGS["MrAVGw"] if part.box else MUTUAL
    return EncodedPart(name, weight, encoded.vectors[0], encoded.regions[0], pooling, boxes=box.cells(model.grid))


def _stored_image(
    number: int, collection: Collection
) -> tuple[ImageRow, Float32[np.ndarray, " dim"], Float32[np.ndarray, "regions token_dim"]]:
    """What the collection knows of one of its images; its file need not be there."""
    row = _image(number, collection)
    if row.status not in ("ok", "offline"):
        raise DataError(f"the collection has no vector of image {number}, which is {row.status}; choose another")
    return row, collection.vectors_of([number])[0].astype(np.float32), collection.tokens([number]).restored()[0]


def _image(number: int, collection: Collection) -> ImageRow:
    try:
        return collection.image(number)
    except KeyError:
        raise DataError(f"the collection has no image {number}; choose another") from None


def _content(source: Path | bytes | int, collection: Collection | None) -> tuple[bytes, int]:
    """The content of a file, and which of its pictures is meant."""
    if isinstance(source, bytes):
        return source, 0
    if isinstance(source, int):
        stored = _opened(collection)
        row = _image(source, stored)
        return content_of_file(stored.root / row.path), row.frame
    path, frame = picture_at(source)
    return content_of_file(path), frame


def picture_at(name: Path) -> tuple[Path, int]:
    """The file that a path names and which of its pictures: of "film.gif[2]" that of number 2, unless a file is called so."""
    path, frame = named_picture(str(name))
    return (Path(path), frame) if frame and not is_there(name) else (name, 0)


def content_of_file(source: Path) -> bytes:
    """The content of an image file; DataError when it cannot be read."""
    try:
        if S_ISREG(status_of(source).st_mode):
            return read_file(source)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}); give another image") from None
    raise DataError(f"there is no image file {source}; give the path of one")


def _opened(collection: Collection | None) -> Collection:
    if collection is None:
        raise ConfigError("an image is named by its id only within a collection; give its path")
    return collection


def _row_of(source: Path | bytes | int, collection: Collection | None) -> int | None:
    """The id of the image at that path or with that id, if the collection has it."""
    if not isinstance(source, Path) or collection is None:
        return source if isinstance(source, int) else None
    path, frame = picture_at(source)
    real = path.resolve()
    if not real.is_relative_to(collection.root):
        return None
    row = collection.image_at(real.relative_to(collection.root).as_posix(), frame)
    return row.id if row else None


def _name(part: Part) -> str:
    if isinstance(part, TextPart):
        return part.text.strip()
    box = "" if part.box is None else f"[{part.box}]"
    if isinstance(part.source, Path):
        return f"{part.source}{box}"
    return f"image {part.source}{box}" if isinstance(part.source, int) else f"the given image{box}"
