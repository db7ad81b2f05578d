"""Judged measures of every query, from orders of its candidates that come block by block."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int8

from aladin.measures.graded import RankedMeasure, staged_relevance
from aladin.measures.protocols import Fold
from aladin.measures.recalls import Direction
from aladin.measures.relevance import Judge

# By the measure's name; not-a-number for queries that are not judged.
Values = dict[str, Float64[np.ndarray, " queries"]]


@dataclass(frozen=True)
class Orders:
    """The orders of all candidates of consecutive queries: those of a higher stage first, within a stage by score."""

    queries: slice  # rows of the fold
    scores: Float[np.ndarray, "queries candidates"]  # by the stage that put a candidate in order last
    stages: Int8[np.ndarray, "queries candidates"]  # which one that was, from 0

    @classmethod
    def by(cls, scores: Float[np.ndarray, "queries candidates"], queries: slice) -> "Orders":
        """By one score."""
        return cls(queries, scores, np.zeros(scores.shape, dtype=np.int8))


def judged_values(judges: Sequence[Judge], direction: Direction, fold: Fold, blocks: Iterable[Orders]) -> Values:
    """The measures of all judges for the queries of a fold, which come in blocks."""
    asked, candidates = (fold.images, fold.captions) if direction == "image_to_text" else (fold.captions, fold.images)
    judged = [judge.relevances.queries(direction) for judge in judges]
    values = {name: np.full(asked.stop - asked.start, np.nan) for judge in judges for name in judge.measures}
    for orders in blocks:
        rows = orders.queries
        first, last = asked.start + rows.start, asked.start + rows.stop
        for judge, every in zip(judges, judged, strict=True):
            queries = every[(every >= first) & (every < last)]
            if not len(queries):
                continue
            relevance = judge.relevances.rows(direction, queries, candidates)
            for row, query in zip(relevance, (queries - first).tolist(), strict=True):
                measured = _measured(orders.scores[query], orders.stages[query], row, judge.measures.values())
                for name, value in zip(judge.measures, measured, strict=True):
                    # Four decimals, so that a report that is written and read again has the very same values.
                    values[name][rows.start + query] = round(value, 4)
    return values


def _measured(
    scores: Float[np.ndarray, " candidates"],
    stages: Int8[np.ndarray, " candidates"],
    relevance: Float32[np.ndarray, " candidates"],
    measures: Iterable[RankedMeasure],
) -> list[float]:
    """One query's values; its candidates are put in order once, as deep as the deepest measure looks."""
    measures = list(measures)
    ranked = staged_relevance(scores, stages, relevance, max(measure.depth(relevance) for measure in measures))
    return [measure.of_query(ranked, relevance) for measure in measures]
