"""From scores to orders: the best candidates of every query, put in order again by a better judge, stage after stage.

A tie counts against us in every stage: a wrong candidate with the right one's score stands before it, and is read sooner.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from aladin.evaluation.encoding import EncodedData, Scores
from aladin.evaluation.scoring import MEMORY, blocks
from aladin.measures.judging import Orders
from aladin.measures.protocols import Fold
from aladin.measures.recalls import Direction, Ranks
from aladin.progress import SILENT, Progress

# From the image rows and the caption rows of pairs to their scores; cross_encoder.CrossEncoder.scores is one.
PairScores = Callable[[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Progress], Float[np.ndarray, " pairs"]]


@dataclass(frozen=True)
class CrossEncoderStage:
    """The `depth` best of two stages are put in order once more, by a cross-encoder's scores."""

    depth: int
    scores: PairScores


@dataclass(frozen=True)
class Answers:
    """The image row of each query and of each candidate in a direction: those of one image are right for each other."""

    of_query: Int[np.ndarray, " queries"]
    of_candidate: Int[np.ndarray, " candidates"]

    @classmethod
    def of(cls, data: EncodedData, direction: Direction) -> "Answers":
        images = np.arange(len(data.images.tokens))
        return cls(images, data.owners) if direction == "image_to_text" else cls(data.owners, images)

    def right(
        self, queries: slice, candidates: Int[np.ndarray, "queries depth"] | None = None
    ) -> Bool[np.ndarray, "queries depth"]:
        """Which of these candidates, or of all, are right for each of the queries."""
        found = self.of_candidate if candidates is None else self.of_candidate[candidates]
        right: Bool[np.ndarray, "queries depth"] = found == self.of_query[queries, None]
        return right


@dataclass(frozen=True)
class Reranked:
    """The best candidates of consecutive queries by the stage before, in the data's order, and their scores by this one."""

    queries: slice
    candidates: Int[np.ndarray, "queries depth"]
    scores: Float[np.ndarray, "queries depth"]

    def parts(self, size: int) -> Iterator["Reranked"]:
        """The same, up to `size` queries at a time."""
        for rows in blocks(len(self.scores), size):
            yield self.at(slice(self.queries.start + rows.start, self.queries.start + rows.stop))

    def at(self, queries: slice) -> "Reranked":
        """Those of some of the queries."""
        rows = slice(queries.start - self.queries.start, queries.stop - self.queries.start)
        return Reranked(queries, self.candidates[rows], self.scores[rows])


def by_query(scores: Scores, direction: Direction) -> Float[np.ndarray, "queries candidates"]:
    """The same scores with queries in rows."""
    return scores if direction == "image_to_text" else scores.T


def reranked(
    data: EncodedData,
    matching: Scores,
    direction: Direction,
    rerank: int,
    memory: int = MEMORY,
    progress: Progress = SILENT,
) -> Iterator[Reranked]:
    """Every query's `rerank` best candidates by matching score, with their alignment scores; no other pair is aligned."""
    answers, scores = Answers.of(data, direction), by_query(matching, direction)
    depth = min(rerank, scores.shape[1])
    # A pair takes 8 bytes in each of about eight arrays.
    for queries in blocks(len(scores), max(1, memory // (64 * depth))):
        candidates = _best_of_each(scores[queries], answers.right(queries), depth)
        pairs = _pairs(np.arange(queries.start, queries.stop), candidates, direction)
        aligned = data.alignment_of_pairs(*pairs, memory).reshape(candidates.shape)
        yield Reranked(queries, candidates.astype(np.int32), aligned)
        progress(queries.stop, len(scores))


def reranked_again(
    data: EncodedData,
    stage: Iterable[Reranked],
    direction: Direction,
    fold: Fold,
    cross_encoder: CrossEncoderStage,
    progress: Progress,
) -> Reranked:
    """Every query's best candidates after two stages, with the cross-encoder's scores; `fold` is where `data` come from."""
    answers, chosen = Answers.of(data, direction), []
    for block in stage:
        right = answers.right(block.queries, block.candidates)
        best = _best_of_each(block.scores, right, min(cross_encoder.depth, block.candidates.shape[1]))
        chosen.append(np.take_along_axis(block.candidates, best, axis=1))
    candidates = np.concatenate(chosen)
    images, captions = _pairs(np.arange(len(candidates)), candidates, direction)
    scores = cross_encoder.scores(images + fold.images.start, captions + fold.captions.start, progress)
    return Reranked(slice(0, len(candidates)), candidates, scores.reshape(candidates.shape))


def ranks_after(before: Ranks, data: EncodedData, direction: Direction, stage: Iterable[Reranked]) -> Ranks:
    """The ranks of best right answers after a stage; a query whose candidates are all wrong keeps its rank `before` it."""
    answers, ranks = Answers.of(data, direction), before.copy()
    for block in stage:
        right = answers.right(block.queries, block.candidates)
        best = np.fmax.reduce(np.where(right, block.scores, -np.inf), axis=1)
        better = np.count_nonzero(~right & ~(block.scores < best[:, None]), axis=1)
        ranks[block.queries] = np.where(right.any(axis=1), 1 + better, ranks[block.queries])
    return ranks


def staged_orders(first: Float[np.ndarray, "queries candidates"], stages: Sequence[Reranked]) -> Orders:
    """The orders of the queries of `stages` after the last of them, when `first` are the scores before."""
    scores, reached = first.astype(np.float64), np.zeros(first.shape, dtype=np.int8)
    for number, stage in enumerate(stages, 1):
        candidates = stage.candidates.astype(np.int64)
        np.put_along_axis(scores, candidates, stage.scores, axis=1)
        np.put_along_axis(reached, candidates, np.int8(number), axis=1)
    return Orders(stages[0].queries, scores, reached)


def _pairs(
    queries: Int[np.ndarray, " queries"], candidates: Int[np.ndarray, "queries depth"], direction: Direction
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """The image row and the caption row of each query with each of its candidates."""
    asked = np.repeat(queries, candidates.shape[1])
    return (asked, candidates.ravel()) if direction == "image_to_text" else (candidates.ravel(), asked)


def _best_of_each(
    scores: Float[np.ndarray, "queries candidates"], right: Bool[np.ndarray, "queries candidates"], count: int
) -> Int[np.ndarray, "queries best"]:
    return np.stack([_best(*row, count) for row in zip(scores, right, strict=True)])


def _best(
    scores: Float[np.ndarray, " candidates"], right: Bool[np.ndarray, " candidates"], count: int
) -> Int[np.ndarray, " best"]:
    """The positions of a query's `count` best candidates, ascending; of equal ones the first, but a right answer is the last.

    A score that is not a number is among the worst.
    """
    descending = np.where(np.isnan(scores), np.inf, -scores)
    limit = np.partition(descending, count - 1)[count - 1]
    better, equal = np.flatnonzero(descending < limit), np.flatnonzero(descending == limit)
    equal = equal[np.argsort(right[equal], kind="stable")]
    return np.sort(np.concatenate([better, equal[: count - len(better)]]))
