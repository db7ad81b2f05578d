"""How well images show a query, token by token, as `aladin.network.scores` has it for learning, but in numpy."""

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
