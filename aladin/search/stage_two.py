"""Stage 2: the images that stage 1 found, aligned with the query region by region; each one's tokens are read once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from aladin.collection.store import Store
from aladin.search.alignment import Alignment, alignment_scores, token_similarity
from aladin.search.encoding import EncodedQuery
from aladin.search.stored_regions import stored_regions
from aladin.search.timing import Clock

BLOCK_TOKEN_SETS = 1000  # aligned at once: some 100 MB with 49 tokens of 384 dimensions


@dataclass(frozen=True)
class Aligned:
    """The alignment of a query with images, in the order asked."""

    by_part: Float64[np.ndarray, "parts images"]  # the score of each part of the query
    scores: Float64[np.ndarray, " images"]  # the query's, from those of its parts
    chosen: dict[int, tuple[Alignment, ...]]  # by id, of each part: what it and the image chose in each other


def align(
    collection: Store,
    query: EncodedQuery,
    ids: Int64[np.ndarray, " images"],
    explained: int = 0,
    token_dim: int = 0,
    clock: Clock | None = None,
) -> Aligned:
    """Scores of all these images, and of the best `explained` at least what was chosen in them.

    `token_dim` is how many numbers of a token are its own (see `Alignment.of`).
    """
    scores, chosen = list[Float64[np.ndarray, "parts images"]](), dict[int, tuple[Alignment, ...]]()
    for block in _blocks(collection, query, ids, clock or Clock()):
        scores.append(block.by_part)
        if explained:  # the best of all are among the best of each block
            for position in ranked(_combined(query, block.by_part), block.ids)[:explained].tolist():
                chosen[int(block.ids[position])] = block.chosen(query, position, token_dim)
    by_part = np.concatenate(scores, axis=1)
    return Aligned(by_part, _combined(query, by_part), chosen)


def ranked(scores: Float64[np.ndarray, " images"], ids: Int64[np.ndarray, " images"]) -> Int64[np.ndarray, " images"]:
    """Where the images stand, the one with the highest score first; of equal ones the one with the lower id."""
    return np.lexsort((ids, -scores))


@dataclass(frozen=True)
class _Block:
    """Some images with their regions, which are let go before those of the next are read."""

    ids: Int64[np.ndarray, " images"]
    regions: Float32[np.ndarray, "images regions dim"]
    mask: Bool[np.ndarray, "images regions"]
    similarity: tuple[Float32[np.ndarray, "images regions _"], ...]  # with the tokens of each part of the query
    by_part: Float64[np.ndarray, "parts images"]

    def chosen(self, query: EncodedQuery, position: int, token_dim: int) -> tuple[Alignment, ...]:
        real = self.mask[position]
        return tuple(
            Alignment.of(similarity[position][real], self.regions[position][real], part.tokens, token_dim, part.pooling)
            for part, similarity in zip(query.parts, self.similarity, strict=True)
        )


def _blocks(collection: Store, query: EncodedQuery, ids: Int64[np.ndarray, " images"], clock: Clock) -> Iterator[_Block]:
    for start in range(0, len(ids), BLOCK_TOKEN_SETS):
        some = ids[start : start + BLOCK_TOKEN_SETS]
        regions, mask = stored_regions(collection, some.tolist(), query.encoder)
        clock.lap("gather")
        similarity = tuple(token_similarity(regions, part.tokens) for part in query.parts)
        scores = [alignment_scores(cells, mask, p.pooling) for cells, p in zip(similarity, query.parts, strict=True)]
        yield _Block(some, regions, mask, similarity, np.array(scores, dtype=np.float64))
        clock.lap("align")


def _combined(query: EncodedQuery, by_part: Float64[np.ndarray, "parts images"]) -> Float64[np.ndarray, " images"]:
    weights = np.array([part.weight for part in query.parts])
    # Not a matrix product: there, what an image scores in the last digit depends on where it stands.
    scores: Float64[np.ndarray, " images"] = (weights[:, None] * by_part).sum(axis=0)
    return scores
