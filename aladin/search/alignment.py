"""How well images show a query, token by token, as `aladin.network.scores` has it for learning, but in numpy; and which region
each word takes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from aladin.encoder.pooling import PoolingMode

SMALL_PRODUCT = 200_000  # multiplications


def token_similarity(
    regions: Float32[np.ndarray, "images regions dim"], words: Float32[np.ndarray, "words dim"]
) -> Float32[np.ndarray, "images regions words"]:
    """The cosine of each region of each image with each word of one query."""
    # Products this small stay in the calling thread. For larger ones OpenBLAS wakes its threads, for each image anew, and on a
    # busy machine waiting for them takes a hundred times as long as the product.
    step = max(1, SMALL_PRODUCT // max(regions.shape[1] * regions.shape[2], 1))
    cosines = [regions @ words[start : start + step].T for start in range(0, len(words), step)]
    return np.concatenate(cosines, axis=2) if cosines else np.empty((*regions.shape[:2], 0), dtype=np.float32)


def alignment_scores(
    similarity: Float32[np.ndarray, "images regions words"],
    region_mask: Bool[np.ndarray, "images regions"],
    pooling: PoolingMode,
) -> Float32[np.ndarray, " images"]:
    """How well each image shows one query, all of whose words are real: as `aladin.network.scores`, without PyTorch.

    `pooling` is one of the formula in `aladin.encoder.pooling` whose words count. Padding never changes a score. A query
    without words scores 0, an image without regions -inf.
    """
    # Not 0: a padded region would then beat a real one that disagrees with the word.
    masked = np.where(region_mask[:, :, None], similarity, np.float32(-np.inf))
    total: Float32[np.ndarray, " images"] = masked.max(axis=1, initial=-np.inf).sum(axis=1)
    scores = _averaged(total, similarity.shape[2], pooling) * np.float32(pooling.words)
    if pooling.regions_choose:
        best_words = np.where(region_mask, similarity.max(axis=2, initial=-np.inf), np.float32(0)).sum(axis=1)
        scores += _averaged(best_words, region_mask.sum(axis=1), pooling) * np.float32(pooling.regions)
    return scores


def _averaged(
    sums: Float32[np.ndarray, " images"], counts: Int64[np.ndarray, " images"] | int, pooling: PoolingMode
) -> Float32[np.ndarray, " images"]:
    averages: Float32[np.ndarray, " images"] = sums / np.maximum(counts, 1).astype(np.float32) if pooling.mean else sums
    return averages


def best_regions(
    similarity: Float32[np.ndarray, "regions words"],
) -> tuple[Int64[np.ndarray, " words"], Float32[np.ndarray, " words"]]:
    """The region of one image that each word chooses, of equal ones the first, and their similarity."""
    chosen = similarity.argmax(axis=0)
    return chosen, similarity[chosen, np.arange(similarity.shape[1])]


@dataclass(frozen=True)
class Choices:
    """For each of some tokens the one that it takes among others, of equal ones the first, and how far the two agree.

    The last numbers of a token are the same in all tokens of an image or a text: `unshared` is what the others agree.
    """

    taken: Int64[np.ndarray, " tokens"]
    similarity: Float32[np.ndarray, " tokens"]  # as the score has it
    unshared: Float32[np.ndarray, " tokens"]  # part of it
    cosine: Float32[np.ndarray, " tokens"]  # of the unshared numbers


@dataclass(frozen=True)
class Alignment:
    """What one part of a query and one image chose in each other."""

    of_words: Choices  # regions, by the words or by the regions of a query image
    of_regions: Choices | None  # those, by the image's regions; None where the pooling lets words alone choose

    @classmethod
    def of(
        cls,
        similarity: Float32[np.ndarray, "regions words"],
        regions: Float32[np.ndarray, "regions dim"],
        words: Float32[np.ndarray, "words dim"],
        token_dim: int,
        pooling: PoolingMode,
    ) -> "Alignment":
        """`similarity` is that of these regions and words, of whose numbers the first `token_dim` are unshared."""
        regions, words = regions[:, :token_dim], words[:, :token_dim]
        unshared = token_similarity(regions[None], words)[0]
        cosine = unshared / _lengths(regions)[:, None] / _lengths(words)
        cells = (similarity, unshared, cosine)
        return cls(_choices(*cells), _choices(*(each.T for each in cells)) if pooling.regions_choose else None)


def _choices(
    similarity: Float32[np.ndarray, "others tokens"],
    unshared: Float32[np.ndarray, "others tokens"],
    cosine: Float32[np.ndarray, "others tokens"],
) -> Choices:
    taken, best = best_regions(np.ascontiguousarray(similarity))
    tokens = np.arange(similarity.shape[1])
    return Choices(taken, best, unshared[taken, tokens], cosine[taken, tokens])


def _lengths(tokens: Float32[np.ndarray, "tokens dim"]) -> Float32[np.ndarray, " tokens"]:
    lengths: Float32[np.ndarray, " tokens"] = np.linalg.norm(tokens, axis=1).clip(min=np.finfo(np.float32).tiny)
    return lengths
