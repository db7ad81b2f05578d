import math
from collections.abc import Iterable

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, Rprec, Success, nDCG

from aladin.measures.graded import AveragePrecisionAtR, GradedRPrecision, Ndcg, RankedMeasure, RPrecision, ranked_relevance
from aladin.measures.recalls import RECALLS, Recall
from tests import reference

MEASURES: tuple[RankedMeasure, ...] = (*RECALLS, Ndcg(3), Ndcg(25), RPrecision(), AveragePrecisionAtR(), GradedRPrecision(3))

few_examples = settings(max_examples=30)
every_measure = pytest.mark.parametrize("measure", MEASURES, ids=repr)


@st.composite
def queries(draw: st.DrawFn, unjudged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores and relevances of 1 to 40 candidates, of few values, so that many are equal."""
    size = draw(st.integers(1, 40))
    scores = draw(st.lists(st.sampled_from([-np.inf, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=size, max_size=size))
    values = [0.0, 0.0, 1.0, 2.0, 3.0, *([np.nan] if unjudged else [])]
    relevance = draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))
    return np.array(scores, dtype=np.float32), np.array(relevance, dtype=np.float32)


def measured(measure: RankedMeasure, scores: Iterable[float], relevance: Iterable[float]) -> float:
    scores, relevance = np.array(list(scores), dtype=np.float64), np.array(list(relevance), dtype=np.float64)
    return measure.of_query(ranked_relevance(scores, relevance, measure.depth(relevance)), relevance)


@given(query=queries(unjudged=True), depth=st.integers(0, 50))
def test_candidates_are_ranked_as_sorting_them_all_does(query: tuple[np.ndarray, np.ndarray], depth: int) -> None:
    assert ranked_relevance(*query, depth).tolist() == reference.relevance_by_score(*query)[:depth]


# Scores 9 to 1 put the candidates in the order in which they stand here.
ORDER = [9, 8, 7, 6, 5]


@pytest.mark.parametrize(
    ("measure", "relevance", "value"),
    [
        (Recall(1), [0, 1, 0, 0, 0], 0),
        (Recall(2), [0, 1, 0, 0, 1], 100),
        # Two are right, one of them among the first two.
        (RPrecision(), [1, 0, 1, 0, 0], 50),
        # Three are right, at 1, 3 and 5: the precisions 1/1 and 2/3 count, that at 5 is beyond R = 3.
        (AveragePrecisionAtR(), [1, 0, 1, 0, 1], 100 * (1 + 2 / 3) / 3),
        (AveragePrecisionAtR(), [1, 1, 0, 0, 0], 100),
        (AveragePrecisionAtR(), [0, 0, 1, 1, 0], 0),
        # Gains 1, 0, 2^0.5 - 1 at discounts 1, log2 3, 2; at best 1, 2^0.5 - 1, 0.
        (Ndcg(3), [1, 0, 0.5, 0, 0], 100 * (1 + (2**0.5 - 1) / 2) / (1 + (2**0.5 - 1) / math.log2(3))),
        # The relevant one at rank 4 is beyond k = 3, but the best order would have it first.
        (Ndcg(3), [0, 0, 0, 1, 0], 0),
        (Ndcg(25), [0, 0, 0, 1, 0], 100 / math.log2(5)),
        (Ndcg(25), [0.2, 0.2, 0.2, 0.2, 0.2], 100),
        # Grades 3 and up: 1 of 1; 2 and up: 1 of the first 2; 1 and up: 2 of the first 3.
        (GradedRPrecision(3), [3, 0, 1, 2, 0], 100 * (1 + 1 / 2 + 2 / 3) / 3),
        # No candidate was labelled alike: that grade gives nothing.
        (GradedRPrecision(3), [2, 1, 0, 0, 0], 100 * (0 + 1 + 1) / 3),
    ],
)
def test_values_of_cases_worked_out_by_hand(measure: RankedMeasure, relevance: list[float], value: float) -> None:
    assert measured(measure, ORDER, relevance) == pytest.approx(value)


@every_measure
def test_a_model_that_scores_all_candidates_alike_has_the_relevant_ones_last(measure: RankedMeasure) -> None:
    relevance = [3, 0, 0, 0, 2, *[0] * 20]
    worst_first = sorted(relevance)
    assert measured(measure, [0.5] * 25, relevance) == measured(measure, range(25, 0, -1), worst_first)


@pytest.mark.slow
@every_measure
@few_examples
@given(query=queries(), cell=st.integers(0, 99))
def test_a_broken_score_loses_the_query(measure: RankedMeasure, query: tuple[np.ndarray, np.ndarray], cell: int) -> None:
    scores, relevance = query
    scores[cell % len(scores)] = np.nan
    assert measured(measure, scores, relevance) == 0.0


@pytest.mark.slow
@every_measure
@few_examples
@given(query=queries())
def test_values_are_percent_and_the_best_order_has_the_most(
    measure: RankedMeasure, query: tuple[np.ndarray, np.ndarray]
) -> None:
    scores, relevance = query
    best = measured(measure, relevance, relevance)
    assert 0 <= measured(measure, scores, relevance) <= best + 1e-9 <= 100 + 1e-6
    if isinstance(measure, Ndcg | RPrecision | AveragePrecisionAtR) and relevance.any():
        assert best == pytest.approx(100)


@every_measure
@few_examples
@given(query=queries(), seed=st.integers(0, 99))
def test_neither_order_nor_unjudged_candidates_change_a_value(
    measure: RankedMeasure, query: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    scores, relevance = query
    order = np.random.default_rng(seed).permutation(len(scores) + 2)
    more = (np.append(scores, [9.0, 0.0])[order], np.append(relevance, [np.nan, np.nan])[order])
    assert measured(measure, *more) == pytest.approx(measured(measure, scores, relevance))


def test_values_are_those_of_ir_measures() -> None:
    """Of 40 random queries without ties; its gains are whole numbers, so ours become millionths."""
    random = np.random.default_rng(0)
    scores = np.array([random.permutation(60) for _ in range(40)]) / 60
    graded = np.where(random.random((40, 60)) < 0.3, random.random((40, 60)), 0.0)
    graded[:, 0] = 1.0
    binary = (graded > 0).astype(int)

    def theirs(measure: ir_measures.Measure, relevance: np.ndarray) -> list[float]:
        qrels = {str(q): {str(c): int(value) for c, value in enumerate(row)} for q, row in enumerate(relevance)}
        run = {str(q): {str(c): float(value) for c, value in enumerate(row)} for q, row in enumerate(scores)}
        found = {value.query_id: 100 * value.value for value in ir_measures.iter_calc([measure], qrels, run)}
        return [found[str(query)] for query in range(40)]

    def ours(measure: RankedMeasure, relevance: np.ndarray) -> list[float]:
        return [measured(measure, *query) for query in zip(scores, relevance, strict=True)]

    assert ours(Ndcg(25), graded) == pytest.approx(theirs(nDCG @ 25, np.round((2**graded - 1) * 1e6)), abs=1e-3)
    assert ours(RPrecision(), binary) == pytest.approx(theirs(Rprec, binary))
    for k in (1, 5, 10):
        assert ours(Recall(k), binary) == pytest.approx(theirs(Success @ k, binary))
    # mAP@R is its AP, cut at each query's own R.
    of_cut = {cut: theirs(AP @ cut, binary) for cut in set(binary.sum(axis=1).tolist())}
    expected = [of_cut[cut][query] for query, cut in enumerate(binary.sum(axis=1).tolist())]
    assert ours(AveragePrecisionAtR(), binary) == pytest.approx(expected)


def test_measures_print_their_definition() -> None:
    assert [str(measure) for measure in MEASURES[3:]] == ["NDCG@3", "NDCG@25", "R-Precision", "mAP@R", "PMRP"]
