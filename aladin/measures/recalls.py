"""What retrieval is judged by: ranks of right answers and measures of them, with bootstrap intervals.

Score matrices have images in rows and captions in columns; `owners` gives the image row of each caption. A tie counts against
us: a wrong candidate with the right one's score stands before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Direction = Literal["image_to_text", "text_to_image"]
DIRECTIONS: tuple[Direction, ...] = ("image_to_text", "text_to_image")
Ranks = Int[np.ndarray, " queries"]
RESAMPLES = 1000
FEW_VALUES = 64  # of a sample: up to here, how often each is drawn is cheaper to draw than the queries
DRAWS = 2**22  # queries drawn at a time, 32 MB


@dataclass(frozen=True)
class Recall:
    """Share of queries with a right answer among the first k, in percent."""

    k: int

    def __str__(self) -> str:
        return f"Recall@{self.k}"

    def __call__(self, ranks: Ranks) -> float:
        """The recall of queries whose best right answer has these ranks (from 1)."""
        return float(np.mean(self.of_each(ranks)))

    def of_each(self, ranks: Ranks) -> Float[np.ndarray, " queries"]:
        """What each query adds to the mean: 100 or 0."""
        return np.where(ranks <= self.k, 100.0, 0.0)

    def depth(self, relevance: Float[np.ndarray, " candidates"]) -> int:
        return self.k

    def of_query(self, ranked: Float[np.ndarray, " ranks"], relevance: Float[np.ndarray, " candidates"]) -> float:
        """100 if a relevant candidate is among the first k, else 0."""
        return 100.0 if (ranked[: self.k] > 0).any() else 0.0


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

    Not-a-number counts against us on either side: a right answer without a score ranks last, a wrong one stands before.
    """
    images, captions = scores.shape
    positives = scores[owners, np.arange(captions)]
    # Those that are worse are counted, not those that are as good, because a comparison with not-a-number is False.
    if direction == "text_to_image":
        worse = np.count_nonzero(scores < np.fmax(positives, -np.inf), axis=0)
        return np.asarray(images - worse)
    best = np.full(images, -np.inf, dtype=scores.dtype)
    np.fmax.at(best, owners, positives)
    positives_not_worse = np.bincount(owners[~(positives < best[owners])], minlength=images)
    worse = np.count_nonzero(scores < best[:, None], axis=1)
    return np.asarray(1 + captions - worse - positives_not_worse)


def rsum_of_each(ranks: Ranks) -> Float[np.ndarray, " queries"]:
    """What each query adds to its direction's share of rsum: its Recall@1, @5 and @10."""
    return np.asarray(sum(recall.of_each(ranks) for recall in RECALLS))


def rsum(scores: Float[np.ndarray, "images captions"], owners: Int[np.ndarray, " captions"]) -> float:
    """The sum of Recall@1, @5 and @10 over both directions, at most 600."""
    return sum(float(np.mean(rsum_of_each(right_answer_ranks(scores, owners, direction)))) for direction in DIRECTIONS)


@dataclass(frozen=True)
class Estimate:
    """A measure's value on the queries at hand, and its 95 % bootstrap percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.low:.1f}-{self.high:.1f})"


def mean_estimate(*samples: Float[np.ndarray, " _"], owners: Sequence[Int[np.ndarray, " _"]] = (), seed: int = 0) -> Estimate:
    """The mean of a measure that is known for each query; of several samples, the sum of their means.

    For the interval the queries of each sample are drawn again with replacement, independently of the other samples. With
    `owners`, the image row of each query of each sample, images are drawn instead, each with all its queries in all samples:
    captions of one image win or lose together, and drawn one by one they would feign more certainty than there is.
    """
    random = np.random.default_rng(seed)
    if owners:
        means = _means_of_drawn_images(samples, owners, random)
    else:
        means = np.sum([resampled_means(sample, RESAMPLES, random) for sample in samples], axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(sum(float(np.mean(sample)) for sample in samples), float(low), float(high))


def _means_of_drawn_images(
    samples: Sequence[Float[np.ndarray, " _"]], owners: Sequence[Int[np.ndarray, " _"]], random: np.random.Generator
) -> Float[np.ndarray, " resamples"]:
    """The sum of the samples' means over drawn images; a mean is over as many queries as these images have."""
    images = 1 + max(int(of.max()) for of in owners)
    # For each image and sample the sum of its queries' values and how many there are.
    table = np.stack(
        [
            np.bincount(of, values, images)
            for sample, of in zip(samples, owners, strict=True)
            for values in (sample, np.ones(len(sample)))
        ],
        axis=1,
    )
    # Images alike are drawn by their number, which is multinomial; those that no query belongs to are not drawn.
    kinds, counts = np.unique(table[table[:, 1::2].any(axis=1)], axis=0, return_counts=True)
    drawn = random.multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES) @ kinds
    means: Float[np.ndarray, " resamples"] = (drawn[:, ::2] / drawn[:, 1::2]).sum(axis=1)
    return means


def resampled_means(
    sample: Float[np.ndarray, " queries"], resamples: int, random: np.random.Generator
) -> Float[np.ndarray, " resamples"]:
    """The mean of as many queries drawn with replacement, so many times."""
    values, counts = np.unique(sample, return_counts=True)
    if len(values) <= FEW_VALUES:  # as a recall has: how often each value is drawn is multinomial
        drawn = random.multinomial(len(sample), counts / len(sample), size=resamples)
        means: Float[np.ndarray, " resamples"] = drawn @ values / len(sample)
        return means
    rows = max(1, DRAWS // len(sample))
    blocks = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([sample[random.integers(len(sample), size=(block, len(sample)))].mean(axis=1) for block in blocks])
