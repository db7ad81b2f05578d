"""What retrieval is judged by: ranks of right answers and measures of them, with bootstrap intervals.

Score matrices have images in rows and captions in columns; `owners` gives the image row of each caption. A tie counts against
us: a wrong candidate with the right one's score stands before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Direction = Literal["image_to_text", "text_to_image"]
DIRECTIONS: tuple[Direction, ...] = ("image_to_text", "text_to_image")
Ranks = Int[np.ndarray, " queries"]


@dataclass(frozen=True)
class Recall:
    """Share of queries with a right answer among the first k, in percent."""

    k: int

    def __str__(self) -> str:
        return f"Recall@{self.k}"

    def __call__(self, ranks: Ranks) -> float:
        """The recall of queries whose best right answer has these ranks (from 1)."""
        return float(100.0 * np.mean(ranks <= self.k))


@dataclass(frozen=True)
class MedianRank:
    """The middle rank of the best right answer; of two middle ones, the mean."""

    def __str__(self) -> str:
        return "median rank"

    def __call__(self, ranks: Ranks) -> float:
        """The median of ranks that count from 1."""
        return float(np.median(ranks))


RECALLS = (Recall(1), Recall(5), Recall(10))


def right_answer_ranks(
    scores: Float[np.ndarray, "images captions"], owners: Int[np.ndarray, " captions"], direction: Direction
) -> Ranks:
    """The rank, from 1, of the best right answer to each query: an image's best own caption, or a caption's own image.

    Not-a-number ranks last, so a broken score can never look good.
    """
    safe = np.nan_to_num(scores, nan=-np.inf)
    if direction == "text_to_image":
        right = safe[owners, np.arange(len(owners))]
        # >= counts the right answer itself, which is its rank's 1.
        return (safe >= right[None]).sum(axis=0)
    ranks = np.empty(len(safe), dtype=np.int64)
    for image, row in enumerate(safe):
        own = owners == image
        ranks[image] = 1 + (row[~own] >= row[own].max(initial=-np.inf)).sum()
    return ranks


def rsum(scores: Float[np.ndarray, "images captions"], owners: Int[np.ndarray, " captions"]) -> float:
    """The sum of Recall@1, @5 and @10 over both directions, at most 600."""
    return sum(recall(right_answer_ranks(scores, owners, d)) for d in DIRECTIONS for recall in RECALLS)


def bootstrap_interval(
    measure: Callable[[Ranks], float], ranks: Ranks, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of `measure` when queries are drawn again with replacement."""
    random = np.random.default_rng(seed)
    values = [measure(ranks[random.integers(len(ranks), size=len(ranks))]) for _ in range(resamples)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
