"""What a query becomes before it meets the images: a vector, and tokens that choose among regions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from aladin.collection.store import ImageRow, Store
from aladin.encoder.composition import composed
from aladin.encoder.config import EncoderConfig, ModelConfig
from aladin.encoder.encoder import Encoder
from aladin.encoder.pooling import MUTUAL, POOLINGS, PoolingMode, searchable
from aladin.encoder.word_pieces import TypedWord
from aladin.errors import ConfigError, DataError
from aladin.pictures.boxes import Box
from aladin.pictures.opening import open_with_size
from aladin.pictures.pixels import to_pixels
from aladin.search.image_files import content_of_file, picture_at
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.stored_regions import stored_regions

UNWANTED_WEIGHT = -1.0  # on Flickr8k's photographs as good as any: a third of the unwanted remain, hardly a wanted one is lost


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
    encoder: EncoderConfig = field(default_factory=EncoderConfig)  # by which its tokens are composed, and images' must be

    @property
    def by_vector_alone(self) -> bool:
        """Whether regions and words add nothing, so that the nearest are in their order already."""
        return bool(self.encoder.family) and not self.encoder.share

    @property
    def vector(self) -> Float32[np.ndarray, " dim"]:
        """Its product with an image's vector is the matching score: the weighted sum of those of the parts."""
        total: Float32[np.ndarray, " dim"] = np.sum([np.float32(part.weight) * part.vector for part in self.parts], axis=0)
        return total


def encode_query(query: Query, encoder: Encoder, collection: Store | None = None) -> EncodedQuery:
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
    themselves = {_id_of(part.source, collection) for part in query.wanted if isinstance(part, ImagePart)}
    excluded = frozenset(found for found in themselves if found is not None)
    return EncodedQuery((*wanted, *unwanted), truncated, excluded, encoder.model.config.encoder)


def _encode_texts(parts: Sequence[TextPart], total: float, encoder: Encoder) -> tuple[list[EncodedPart], bool]:
    if not parts:
        return [], False
    pooling = searchable(encoder.model.config.heads.pooling)
    rows = encoder.encode_queries([part.text for part in parts])
    encoded = []
    for part, vector, words, mask in zip(parts, rows.vectors, rows.words, rows.word_mask, strict=True):
        if not mask.any():
            raise DataError(f"the query {part.text!r:.80} has no word that the model can read; write it in letters")
        name, typed = str(part), encoder.typed_words(part.text)
        encoded.append(EncodedPart(name, part.weight / total, vector, words[mask], pooling, words=typed))
    return encoded, any(rows.truncated)


def _encode_image(part: ImagePart, total: float, encoder: Encoder, collection: Store | None) -> EncodedPart:
    """An image whole is compared both ways, region by region; what is cut out of one may be a part of what is looked for, so
    there only the cut-out's regions choose.
    """
    name, weight, model = str(part), part.weight / total, encoder.model.config
    if isinstance(part.source, int) and part.box is None:
        row, vector, regions = _stored_image(part.source, _opened(collection), model)
        boxes = model.region_boxes(Box(0, 0, row.width or 1, row.height or 1))
        return EncodedPart(name, weight, vector, regions, MUTUAL, boxes=boxes)
    data, frame = _content(part.source, collection)
    whole = name if part.box is None else name.removesuffix(f"[{part.box}]")
    image, size = open_with_size(data, whole, 0 if part.box else model.preprocessing.fitting.draft_size, frame)
    box = Box(0, 0, *size)
    if part.box is not None:
        box = part.box.within(box.width, box.height)
        image = image.crop((box.x, box.y, box.x + box.width, box.y + box.height))
    encoded = encoder.encode_images(to_pixels(image, model.preprocessing.fitting)[None])
    if not encoded.usable[0]:
        raise DataError(f"the model has no finite vector for {name}; give another image")
    pooling = POOLINGS["MrAVGw"] if part.box else MUTUAL
    regions = composed(encoded.regions, encoded.vectors, model.encoder)[0]
    return EncodedPart(name, weight, encoded.vectors[0], regions, pooling, boxes=model.region_boxes(box))


def _stored_image(
    image_id: int, collection: Store, model: ModelConfig
) -> tuple[ImageRow, Float32[np.ndarray, " dim"], Float32[np.ndarray, "regions token_dim"]]:
    """What the collection knows of one of its images; its file need not be there."""
    row = _image(image_id, collection)
    if row.status not in ("ok", "offline"):
        raise DataError(f"the collection has no vector of image {image_id}, which is {row.status}; choose another")
    vector = collection.vectors_of([image_id])[0].astype(np.float32)
    return row, vector, stored_regions(collection, [image_id], model.encoder)[0][0]


def _image(image_id: int, collection: Store) -> ImageRow:
    try:
        return collection.row(image_id)
    except KeyError:
        raise DataError(f"the collection has no image {image_id}; choose another") from None


def _content(source: Path | bytes | int, collection: Store | None) -> tuple[bytes, int]:
    """The content of a file, and which of its pictures is meant."""
    if isinstance(source, bytes):
        return source, 0
    if isinstance(source, int):
        stored = _opened(collection)
        row = _image(source, stored)
        return content_of_file(stored.root / row.path), row.frame
    path, frame = picture_at(source)
    return content_of_file(path), frame


def _opened(collection: Store | None) -> Store:
    if collection is None:
        raise ConfigError("an image is named by its id only within a collection; give its path")
    return collection


def _id_of(source: Path | bytes | int, collection: Store | None) -> int | None:
    """The id of the image at that path or with that id, if the collection has it."""
    if not isinstance(source, Path) or collection is None:
        return source if isinstance(source, int) else None
    path, frame = picture_at(source)
    real = path.resolve()
    if not real.is_relative_to(collection.root):
        return None
    row = collection.row_at(real.relative_to(collection.root).as_posix(), frame)
    return row.id if row else None
