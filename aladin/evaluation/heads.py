"""Where every way of scoring puts right answers, and what judged measures say of it, fold by fold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from aladin.evaluation.encoding import EncodedData, Scores
from aladin.evaluation.ranking import (
    CrossEncoderStage,
    Reranked,
    by_query,
    ranks_after,
    reranked,
    reranked_again,
    staged_orders,
)
from aladin.evaluation.scoring import blocks
from aladin.measures.judgements import Agreement, Judgements, agreement
from aladin.measures.judging import Orders, Values, judged_values
from aladin.measures.protocols import Fold
from aladin.measures.recalls import Direction, Ranks, right_answer_ranks
from aladin.measures.relevance import Judge
from aladin.progress import TimedSteps


@dataclass(frozen=True)
class HeadEvaluation:
    """Where one way of scoring puts right answers, and what its judged measures are, for each query in the data's order."""

    ranks: dict[Direction, Ranks]
    judged: dict[Direction, Values]


@dataclass(frozen=True)
class Evaluation:
    """What was found by each way of scoring, and how long that took."""

    heads: dict[str, HeadEvaluation]  # "matching", "alignment", "two-stage k=100", "cross-encoder k=100 n=20" or other numbers
    seconds: dict[str, float]  # of each step

    @property
    def ranks(self) -> dict[str, dict[Direction, Ranks]]:
        return {name: head.ranks for name, head in self.heads.items()}

    @property
    def judged(self) -> dict[str, dict[Direction, Values]]:
        return {name: head.judged for name, head in self.heads.items()}


def evaluate_heads(
    data: EncodedData,
    rerank: int,
    memory: int,
    steps: TimedSteps,
    folds: Sequence[Fold] = (),
    judges: Sequence[Judge] = (),
    cross_encoder: CrossEncoderStage | None = None,
) -> Evaluation:
    """Ranks by the matching head, by the alignment head, and by both: the `rerank` best of the one re-ranked by the other.

    `rerank` 0 leaves the last one out; with it, `cross_encoder` re-ranks the best of these. A query's candidates are those of
    its fold; without folds, all. Beside the score matrix of one head and the input, of which the captions stand twice where
    hubs are corrected, about `memory` bytes are in use, with judges or a cross-encoder 12 bytes for each pair that the second
    stage has re-ranked, and what the cross-encoder's scores need.
    """
    every = [Fold(slice(0, len(data.images.tokens)), slice(0, len(data.owners)))]
    works = [_FoldWork(judges, fold, memory, steps) for fold in folds or every]
    found = [_evaluate_fold(data.part(work.fold), work, rerank, cross_encoder) for work in works]
    return Evaluation({name: _joined([heads[name] for heads in found]) for name in found[0]}, steps.seconds)


def agreements(data: EncodedData, judgements: Judgements, memory: int) -> dict[str, Agreement]:
    """How well the scores of each head order pairs that people judged."""
    images, captions = judgements.images, judgements.captions
    scores = {
        "matching": data.matching_of_pairs(images, captions),
        "alignment": data.alignment_of_pairs(images, captions, memory),
    }
    return {head: agreement(some, judgements) for head, some in scores.items()}


def _evaluate_fold(
    data: EncodedData, work: "_FoldWork", rerank: int, cross_encoder: CrossEncoderStage | None
) -> dict[str, HeadEvaluation]:
    """`data` are those of the fold; judges and cross-encoder know queries and candidates by their rows before it was taken."""
    found = [_evaluate_directions(data.asked(alike[0]), alike, work, rerank, cross_encoder) for alike in data.alike]
    return {name: _both_directions([heads[name] for heads in found]) for name in found[0]}


def _both_directions(found: Sequence[HeadEvaluation]) -> HeadEvaluation:
    ranks = {direction: ranks for head in found for direction, ranks in head.ranks.items()}
    return HeadEvaluation(ranks, {direction: values for head in found for direction, values in head.judged.items()})


def _evaluate_directions(
    data: EncodedData,
    directions: Sequence[Direction],
    work: "_FoldWork",
    rerank: int,
    cross_encoder: CrossEncoderStage | None,
) -> dict[str, HeadEvaluation]:
    """In directions that share their scores."""
    heads: dict[str, HeadEvaluation] = {}

    def all_ranks(scores: Scores) -> dict[Direction, Ranks]:
        return {direction: right_answer_ranks(scores, data.owners, direction) for direction in directions}

    with work.steps.step("matching"):
        matching = data.matching_scores()
        ranks = all_ranks(matching)
    heads["matching"] = HeadEvaluation(ranks, work.by_matrix(matching, directions))
    staged = _evaluate_stages(data, directions, matching, work, rerank, cross_encoder) if rerank else {}
    del matching
    with work.steps.step("alignment") as progress:
        alignment = data.alignment_scores(work.memory, progress)
        ranks = all_ranks(alignment)
    heads["alignment"] = HeadEvaluation(ranks, work.by_matrix(alignment, directions))
    return heads | staged


def _evaluate_stages(
    data: EncodedData,
    directions: Sequence[Direction],
    matching: Scores,
    work: "_FoldWork",
    rerank: int,
    cross_encoder: CrossEncoderStage | None,
) -> dict[str, HeadEvaluation]:
    """Two stages, and a cross-encoder after them if there is one, by their names."""
    two, three = HeadEvaluation({}, {}), HeadEvaluation({}, {})
    for direction in directions:
        with work.steps.step("two-stage") as progress:
            stage: Iterable[Reranked] = reranked(data, matching, direction, rerank, work.memory, progress)
            stage = list(stage) if work.judges or cross_encoder else stage
            first = right_answer_ranks(matching, data.owners, direction)
            two.ranks[direction] = ranks_after(first, data, direction, stage)
        if work.judges:
            two.judged[direction] = work.by_stages(matching, direction, stage)
        if cross_encoder:
            with work.steps.step("cross-encoder") as progress:
                last = reranked_again(data, stage, direction, work.fold, cross_encoder, progress)
                three.ranks[direction] = ranks_after(two.ranks[direction], data, direction, [last])
            if work.judges:
                three.judged[direction] = work.by_stages(matching, direction, stage, last)
    found = {f"two-stage k={rerank}": two}
    return found | {f"cross-encoder k={rerank} n={cross_encoder.depth}": three} if cross_encoder else found


class _FoldWork:
    """What the evaluation of one fold needs beside its data, and its judged measures, in blocks of about `memory` bytes."""

    def __init__(self, judges: Sequence[Judge], fold: Fold, memory: int, steps: TimedSteps) -> None:
        self.judges, self.fold, self.memory, self.steps = judges, fold, memory, steps

    def by_matrix(self, scores: Scores, directions: Sequence[Direction]) -> dict[Direction, Values]:
        """Of one way of scoring."""
        if not self.judges:
            return {}
        found = {}
        for direction in directions:
            asked = by_query(scores, direction)
            with self.steps.step("judged measures"):
                orders = (Orders.by(asked[rows], rows) for rows in blocks(len(asked), self._queries_at_once(asked)))
                found[direction] = judged_values(self.judges, direction, self.fold, orders)
        return found

    def by_stages(
        self, matching: Scores, direction: Direction, stage: Iterable[Reranked], last: Reranked | None = None
    ) -> Values:
        """Of the second stage, and of the cross-encoder after it where there is one."""
        first = by_query(matching, direction)
        parts = (part for block in stage for part in block.parts(self._queries_at_once(first)))
        with self.steps.step("judged measures"):
            orders = (staged_orders(first[part.queries], [part, last.at(part.queries)] if last else [part]) for part in parts)
            return judged_values(self.judges, direction, self.fold, orders)

    def _queries_at_once(self, scores: Float[np.ndarray, "queries candidates"]) -> int:
        candidates: int = scores.shape[1]
        return max(1, self.memory // (32 * candidates))  # scores and relevances, some of them as float64


def _joined(folds: Sequence[HeadEvaluation]) -> HeadEvaluation:
    ranks = {direction: np.concatenate([fold.ranks[direction] for fold in folds]) for direction in folds[0].ranks}
    judged = {
        direction: {name: np.concatenate([fold.judged[direction][name] for fold in folds]) for name in values}
        for direction, values in folds[0].judged.items()
    }
    return HeadEvaluation(ranks, judged)
