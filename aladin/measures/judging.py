"""Judged measures of every query, from rows of scores that come block by block."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Float64

from aladin.measures.graded import RankedMeasure, ranked_relevance
from aladin.measures.protocols import Fold
from aladin.measures.recalls import Direction
from aladin.measures.relevance import Judge

# By the measure's name; not-a-number for queries that are not judged.
Values = dict[str, Float64[np.ndarray, " queries"]]


def judged_values(
    judges: Sequence[Judge],
    direction: Direction,
    fold: Fold,
    blocks: Iterable[tuple[slice, Float[np.ndarray, "queries candidates"]]],
) -> Values:
    """The measures of all judges for the queries of a fold, which come in blocks: rows of the fold, and their scores."""
    asked, candidates = (fold.images, fold.captions) if direction == "image_to_text" else (fold.captions, fold.images)
    judged = [judge.relevances.queries(direction) for judge in judges]
    values = {name: np.full(asked.stop - asked.start, np.nan) for judge in judges for name in judge.measures}
    for rows, scores in blocks:
        first, last = asked.start + rows.start, asked.start + rows.stop
        for judge, every in zip(judges, judged, strict=True):
            queries = every[(every >= first) & (every < last)]
            if not len(queries):
                continue
            relevance = judge.relevances.rows(direction, queries, candidates)
            for row, query in zip(relevance, (queries - first).tolist(), strict=True):
                for name, value in zip(judge.measures, _measured(scores[query], row, judge.measures.values()), strict=True):
                    # Four decimals, so that a report that is written and read again has the very same values.
                    values[name][rows.start + query] = round(value, 4)
    return values


def _measured(
    scores: Float[np.ndarray, " candidates"], relevance: Float32[np.ndarray, " candidates"], measures: Iterable[RankedMeasure]
) -> list[float]:
    """One query's values; its candidates are put in order once, as deep as the deepest measure looks."""
    measures = list(measures)
    ranked = ranked_relevance(scores, relevance, max(measure.depth(relevance) for measure in measures))
    return [measure.of_query(ranked, relevance) for measure in measures]
