"""From a query to hits: the nearest vectors of the whole collection, then the best of them again by alignment.

Stage 1 compares one vector a row; stage 2 reads the region tokens of the `rerank` nearest and lets words (or regions of the
query image) choose among them. A re-ranking as long as the collection is exhaustive alignment.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64

from aladin.collection import Collection
from aladin.encode import Encoder
from aladin.errors import ConfigError, DataError, ModelError
from aladin.images import open_image, to_pixels
from aladin.quantized import QuantizedTokens

QueryPooling = Literal["MrSw", "MrAVGw", "mutual"]
BLOCK_TOKEN_SETS = 1000  # re-ranked at once: some 100 MB with 49 tokens of 384 dimensions


@dataclass(frozen=True)
class SearchConfig:
    """How many hits are wanted, and how many of the nearest are ranked again."""

    top: int = 10
    rerank: int = 100  # at least `top` are; 0: the order of stage 1 stands

    def __post_init__(self) -> None:
        if self.top < 1 or self.rerank < 0:
            raise ConfigError(f"top is {self.top} and rerank {self.rerank}; expected at least 1 and 0")


@dataclass(frozen=True)
class TextQuery:
    """Images that a sentence describes."""

    text: str


@dataclass(frozen=True)
class ImageQuery:
    """Images like the one in a file; the file itself is no hit when it is in the collection."""

    path: Path


Query = TextQuery | ImageQuery


@dataclass(frozen=True)
class Hit:
    """One image found; `alignment_score` is None where stage 2 did not look."""

    rank: int  # from 1
    id: int
    path: str  # relative to the collection's root, as in ImageRow
    score: float  # the one that the order follows
    matching_score: float
    alignment_score: float | None
    width: int  # px, upright
    height: int


@dataclass(frozen=True)
class Results:
    """The hits, best first, and what they were chosen from."""

    hits: tuple[Hit, ...]
    searched: int  # images compared
    truncated: bool  # the end of the text was not read by the model


@dataclass(frozen=True)
class EncodedQuery:
    """What any query becomes before it meets the collection."""

    vector: Float32[np.ndarray, " dim"]
    tokens: Float32[np.ndarray, "tokens token_dim"]
    pooling: QueryPooling
    truncated: bool = False
    without: int | None = None  # id of a row that is no hit


def search(collection: Collection, encoder: Encoder, query: Query, config: SearchConfig | None = None) -> Results:
    """The images that answer the query best, of those in the collection that can be found. Ties go by id.

    A text is scored by the pooling that the model was trained with. An image is scored by regions both ways: the mean over its
    regions of each one's best region in the other image, and the same from the other side, halved.
    """
    config = config or SearchConfig()
    collection.check_model(encoder.model)
    with collection.snapshot():
        encoded = encode_query(query, encoder, collection)
        numbers, matching, searched = nearest(collection, encoded, max(config.top, config.rerank))
        if config.rerank and len(numbers):
            alignment = alignment_of(collection, encoded, numbers)
            order = np.lexsort((numbers, -alignment))[: config.top]
            hits = _hits(collection, numbers[order], matching[order], alignment[order])
        else:
            hits = _hits(collection, numbers[: config.top], matching[: config.top], None)
    return Results(hits, searched, encoded.truncated)


def encode_query(query: Query, encoder: Encoder, collection: Collection) -> EncodedQuery:
    """The query's vector and tokens; DataError for one that asks for nothing."""
    if isinstance(query, ImageQuery):
        return _encode_image(query, encoder, collection)
    if not query.text.strip():
        raise DataError("the query is empty; describe the image that you look for, such as: a dog runs through snow")
    encoded = encoder.encode_texts([query.text])
    words = encoded.words[0][encoded.word_mask[0]]
    if not len(words):
        raise DataError(f"the query {query.text!r:.80} has no word that the model can read; write it in letters")
    pooling = encoder.model.config.heads.pooling
    if pooling not in ("MrSw", "MrAVGw"):
        raise ModelError(f"the model scores by {pooling}, and search knows MrSw and MrAVGw; train one of those")
    return EncodedQuery(encoded.vectors[0], words, pooling, encoded.truncated[0])


def nearest(
    collection: Collection, query: EncodedQuery, count: int
) -> tuple[Int64[np.ndarray, " hits"], Float32[np.ndarray, " hits"], int]:
    """Stage 1: ids and matching scores of the `count` nearest images, best first, and how many were compared. Exact."""
    best, scores, searched = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), 0
    for numbers, vectors in collection.vector_blocks():
        if query.without is not None:
            numbers, vectors = numbers[numbers != query.without], vectors[numbers != query.without]
        searched += len(numbers)
        best = np.concatenate([best, numbers])
        # Not a matrix product: there, what a row scores in the last digit depends on where in the block it stands.
        scores = np.concatenate([scores, np.einsum("rd,d->r", vectors.astype(np.float32), query.vector)])
        order = np.lexsort((best, -scores))[:count]
        best, scores = best[order], scores[order]
    return best, scores, searched


def alignment_of(
    collection: Collection, query: EncodedQuery, numbers: Int64[np.ndarray, " hits"]
) -> Float32[np.ndarray, " hits"]:
    """Stage 2: the alignment score of each of these images with the query, in the order asked."""
    parts = []
    for start in range(0, len(numbers), BLOCK_TOKEN_SETS):
        regions = collection.tokens(numbers[start : start + BLOCK_TOKEN_SETS].tolist())
        similarity = token_similarity(regions, query.tokens)
        parts.append(alignment_scores(similarity, regions.mask, query.pooling))
    return np.concatenate(parts)


def token_similarity(
    regions: QuantizedTokens | Float32[np.ndarray, "images regions dim"], words: Float32[np.ndarray, "words dim"]
) -> Float32[np.ndarray, "images regions words"]:
    """The cosine of each region of each image with each word of one query."""
    if isinstance(regions, QuantizedTokens):
        similarity = token_similarity(regions.values.astype(np.float32), words)
        similarity *= regions.scales[:, :, None]
        return similarity
    cosines: Float32[np.ndarray, "images regions words"] = regions @ words.T
    return cosines


def alignment_scores(
    similarity: Float32[np.ndarray, "images regions words"],
    region_mask: Bool[np.ndarray, "images regions"],
    pooling: QueryPooling,
) -> Float32[np.ndarray, " images"]:
    """How well each image shows one query, all of whose words are real: as `aladin.scores`, without PyTorch.

    `MrSw`: each word takes its best region and words add up. `MrAVGw`: their mean. `mutual`, for two images: the mean of
    MrAVGw and of the same with the sides exchanged. Padding never changes a score. A query without words scores 0, an image
    without regions -inf.
    """
    # Not 0: a padded region would then beat a real one that disagrees with the word.
    masked = np.where(region_mask[:, :, None], similarity, np.float32(-np.inf))
    total: Float32[np.ndarray, " images"] = masked.max(axis=1, initial=-np.inf).sum(axis=1)
    if pooling == "MrSw":
        return total
    mean: Float32[np.ndarray, " images"] = total / np.float32(max(similarity.shape[2], 1))
    if pooling == "MrAVGw":
        return mean
    best_words = np.where(region_mask, similarity.max(axis=2, initial=-np.inf), np.float32(0)).sum(axis=1)
    regions = np.maximum(region_mask.sum(axis=1), 1).astype(np.float32)
    mutual: Float32[np.ndarray, " images"] = (mean + best_words / regions) / np.float32(2)
    return mutual


def _encode_image(query: ImageQuery, encoder: Encoder, collection: Collection) -> EncodedQuery:
    if not query.path.is_file():
        raise DataError(f"there is no image file {query.path}; give the path of one")
    size = encoder.model.config.image.size
    encoded = encoder.encode_images(to_pixels(open_image(query.path, draft_size=size), size)[None])
    if not encoded.usable[0]:
        raise DataError(f"the model has no finite vector for {query.path}; give another image")
    return EncodedQuery(encoded.vectors[0], encoded.regions[0], "mutual", without=_row_of(query.path, collection))


def _row_of(path: Path, collection: Collection) -> int | None:
    real = path.resolve()
    if not real.is_relative_to(collection.root):
        return None
    row = collection.image_at(real.relative_to(collection.root).as_posix())
    return row.id if row else None


def _hits(
    collection: Collection,
    numbers: Int64[np.ndarray, " hits"],
    matching: Float32[np.ndarray, " hits"],
    alignment: Float32[np.ndarray, " hits"] | None,
) -> tuple[Hit, ...]:
    rows = collection.images_of(numbers.tolist())
    return tuple(
        Hit(
            rank=place + 1,
            id=row.id,
            path=row.path,
            score=float(matching[place] if alignment is None else alignment[place]),
            matching_score=float(matching[place]),
            alignment_score=None if alignment is None else float(alignment[place]),
            width=row.width or 0,
            height=row.height or 0,
        )
        for place, row in enumerate(rows)
    )
