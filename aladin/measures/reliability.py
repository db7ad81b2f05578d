"""Whether probabilities are right as often as they say: the reliability of judged hits."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

BINS = 10  # of equal width, from 0 to 1


@dataclass(frozen=True)
class Tenth:
    """The hits whose probability is in one tenth of the range."""

    hits: int
    probability: float  # their mean
    right: float  # the share of them that is


@dataclass(frozen=True)
class Reliability:
    """Bins that have hits, by rising probability; and what they come to."""

    bins: tuple[Tenth, ...]
    error: float  # expected calibration error: the mean difference between probability and share, over hits
    brier: float  # mean squared error of the probabilities
    base: float  # share of all hits that is right; saying this always would have a brier of base (1 - base)

    def __str__(self) -> str:
        lines = [f"{tenth.hits:6,} hits at {tenth.probability:.2f}: {tenth.right:.2f} right" for tenth in self.bins]
        always = f"{self.base * (1 - self.base):.3f} for saying {self.base:.2f} always"
        return "\n".join([*lines, f"calibration error {self.error:.3f}, Brier score {self.brier:.3f} ({always})"])


def reliability(probabilities: Float64[np.ndarray, " hits"], right: Bool[np.ndarray, " hits"]) -> Reliability:
    """How often hits were right, for each tenth of the probabilities that they were given."""
    of_hit = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    chosen = [of_hit == tenth for tenth in np.unique(of_hit)]
    bins = tuple(Tenth(int(some.sum()), float(probabilities[some].mean()), float(right[some].mean())) for some in chosen)
    error = sum(tenth.hits * abs(tenth.probability - tenth.right) for tenth in bins) / max(len(right), 1)
    return Reliability(bins, error, float(np.mean((probabilities - right) ** 2)), float(right.mean()))
