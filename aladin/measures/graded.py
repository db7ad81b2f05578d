"""Measures of a query whose candidates are relevant by degrees, or of which several are right.

Relevance is 0 for a wrong candidate and not-a-number for one that nobody judged, which is left out. Of two candidates with
equal scores the less relevant stands first, so that a tie counts against us.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

Relevance = Float[np.ndarray, " candidates"]
Ranked = Float[np.ndarray, " ranks"]  # the relevance of the first candidates, best score first


@runtime_checkable
class RankedMeasure(Protocol):
    """A measure of one query, in percent, by how relevant its first candidates are."""

    def depth(self, relevance: Relevance) -> int:
        """How many of the first candidates it looks at."""

    def of_query(self, ranked: Ranked, relevance: Relevance) -> float:
        """Its value when the first candidates have the relevances `ranked`, and all of them, in no order, `relevance`."""


@dataclass(frozen=True)
class Ndcg:
    """Normalised discounted cumulative gain of the first k: gains 2^relevance - 1, discounted by log2(rank + 1).

    In percent of what the best order of all candidates would have; 0 where no candidate is relevant. Spec section 4.2.
    """

    k: int = 25

    def __str__(self) -> str:
        return f"NDCG@{self.k}"

    def depth(self, relevance: Relevance) -> int:
        return self.k

    def of_query(self, ranked: Ranked, relevance: Relevance) -> float:
        judged = relevance[~np.isnan(relevance)]
        count = min(self.k, len(judged))
        ideal = _discounted_gain(np.sort(np.partition(judged, len(judged) - count)[len(judged) - count :])[::-1])
        return float(100 * _discounted_gain(ranked[:count]) / ideal) if ideal > 0 else 0.0


@dataclass(frozen=True)
class RPrecision:
    """Share of relevant candidates among the first R, where R is how many there are, in percent."""

    def __str__(self) -> str:
        return "R-Precision"

    def depth(self, relevance: Relevance) -> int:
        return int(np.count_nonzero(relevance > 0))

    def of_query(self, ranked: Ranked, relevance: Relevance) -> float:
        return _r_precision(ranked, relevance, 0.0)


@dataclass(frozen=True)
class AveragePrecisionAtR:
    """The mean over the first R ranks of the precision up to there, counted as 0 where the candidate is not relevant.

    R is how many candidates are relevant. In percent; its mean over queries is mAP@R (Musgrave et al. 2020, equation 2).
    """

    def __str__(self) -> str:
        return "mAP@R"

    def depth(self, relevance: Relevance) -> int:
        return int(np.count_nonzero(relevance > 0))

    def of_query(self, ranked: Ranked, relevance: Relevance) -> float:
        right = ranked[: self.depth(relevance)] > 0
        precisions = np.cumsum(right) / np.arange(1, len(right) + 1)
        return float(100 * np.mean(precisions * right)) if len(right) else 0.0


@dataclass(frozen=True)
class GradedRPrecision:
    """The mean of R-Precision over the grades 1 to `grades`, each time with the candidates of at least that relevance.

    PMRP of PCME (Chun et al. 2021) has three: 3 where the labels are the same, 2 where one differs, 1 where two do.
    """

    grades: int

    def __str__(self) -> str:
        return "PMRP"

    def depth(self, relevance: Relevance) -> int:
        return int(np.count_nonzero(relevance > 0))

    def of_query(self, ranked: Ranked, relevance: Relevance) -> float:
        return float(np.mean([_r_precision(ranked, relevance, float(grade)) for grade in range(self.grades)]))


def ranked_relevance(scores: Float[np.ndarray, " candidates"], relevance: Relevance, depth: int) -> Ranked:
    """How relevant the first `depth` of the judged candidates are, by score.

    A score of not-a-number has no place in any order, so that the query is lost: nothing among its first is relevant.
    """
    judged = ~np.isnan(relevance)
    scores, relevance = scores[judged], relevance[judged]
    depth = min(depth, len(scores))
    if depth == 0 or np.isnan(scores).any():
        return np.zeros(depth)
    # All that tie with the last of the first are looked at, so that a tie there counts against us too.
    first = np.flatnonzero(scores >= np.partition(scores, len(scores) - depth)[len(scores) - depth])
    order = np.lexsort((relevance[first], -scores[first]))
    return np.asarray(relevance[first[order[:depth]]], dtype=np.float64)


def staged_relevance(
    scores: Float[np.ndarray, " candidates"], stages: Int[np.ndarray, " candidates"], relevance: Relevance, depth: int
) -> Ranked:
    """The same where the candidates of a higher stage stand before all others, and scores put those of one stage in order."""
    judged = ~np.isnan(relevance)
    scores, stages, relevance = scores[judged], stages[judged], relevance[judged]
    depth = min(depth, len(scores))
    if depth == 0 or np.isnan(scores).any():
        return np.zeros(depth)
    found: list[Ranked] = []
    for stage in range(int(stages.max()), -1, -1):
        chosen = stages == stage
        found.append(ranked_relevance(scores[chosen], relevance[chosen], depth))
        depth -= len(found[-1])
    return np.concatenate(found)


def _discounted_gain(ranked: Ranked) -> float:
    return float(np.sum((2.0**ranked - 1) / np.log2(np.arange(2, len(ranked) + 2))))


def _r_precision(ranked: Ranked, relevance: Relevance, above: float) -> float:
    count = np.count_nonzero(relevance > above)
    return float(100 * np.mean(ranked[:count] > above)) if count else 0.0
