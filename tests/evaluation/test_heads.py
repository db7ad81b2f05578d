import dataclasses
import weakref
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from aladin.encoder.config import HeadsConfig, Pooling
from aladin.encoder.hub_terms import as_queries
from aladin.evaluation import scoring
from aladin.evaluation.encoding import EncodedData, EncodedSet
from aladin.evaluation.heads import agreements, evaluate_heads
from aladin.evaluation.ranking import CrossEncoderStage, reranked
from aladin.evaluation.scoring import alignment_matrix
from aladin.measures.graded import Ndcg, RPrecision
from aladin.measures.judgements import Judgements, agreement
from aladin.measures.protocols import Fold
from aladin.measures.recalls import DIRECTIONS, Direction, Ranks, right_answer_ranks
from aladin.measures.relevance import Judge
from aladin.measures.relevance.matrices import RelevanceMatrix
from aladin.network.hubs import HubCorrection, filled
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens
from aladin.progress import Progress, Silent, TimedSteps
from tests import reference
from tests.strategies import DIM, TokenBatch, padded, token_batches, unit_rows
from tests.tiny_learning import TINY

POOLINGS = get_args(Pooling)
MEMORIES = st.sampled_from([1, 1500, 6000, 2**26])  # bytes: from one pair at a time to all at once

every_pooling = pytest.mark.parametrize("pooling", POOLINGS)
both_directions = pytest.mark.parametrize("direction", DIRECTIONS)


@pytest.mark.slow
@every_pooling
@given(batch=token_batches(), memory=MEMORIES)
def test_the_matrix_holds_what_the_definition_says(pooling: Pooling, batch: TokenBatch, memory: int) -> None:
    expected = reference.alignment_matrix(batch.images, batch.captions, pooling)
    actual = alignment_matrix(batch.regions, batch.words, pooling, memory)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)


@pytest.mark.slow
@every_pooling
@given(batch=token_batches(), memory=MEMORIES, extra=st.integers(0, 4))
def test_neither_padding_nor_memory_changes_a_score(pooling: Pooling, batch: TokenBatch, memory: int, extra: int) -> None:
    longer = alignment_matrix(padded(batch.images, extra), padded(batch.captions, extra), pooling, memory)
    assert_close(longer, alignment_scores(batch.regions, batch.words, pooling), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["MrSw", "MrAVGw"])
def test_captions_without_words_score_zero_and_images_without_regions_never_win(pooling: Pooling) -> None:
    nothing = np.empty((0, DIM), dtype=np.float32)
    some = unit_rows(np.random.default_rng(0), 3)
    scores = alignment_matrix(padded([nothing, some]), padded([nothing, some, nothing]), pooling)
    assert scores[:, [0, 2]].eq(0.0).all()
    assert scores[0, 1] == -torch.inf
    assert scores[1, 1] > 0
    assert alignment_matrix(padded([some]), padded([nothing, nothing]), pooling).tolist() == [[0.0, 0.0]]


@pytest.mark.slow
@every_pooling
@pytest.mark.parametrize("memory", [2**20, 2**22])
def test_blocks_stay_within_the_memory_asked_for(pooling: Pooling, memory: int) -> None:
    random = torch.Generator().manual_seed(0)
    regions = Tokens(torch.randn(60, 20, 32, generator=random), torch.ones(60, 20, dtype=torch.bool))
    words = Tokens(torch.randn(300, 12, 32, generator=random), torch.ones(300, 12, dtype=torch.bool))
    with LiveBytes(regions.states, regions.mask, words.states, words.mask) as live:
        result = alignment_matrix(regions, words, pooling, memory)
    assert memory / 16 < live.peak - result.nbytes < memory


@pytest.mark.slow
@both_directions
@given(data=st.deferred(lambda: encoded_data()), rerank=st.integers(1, 12), memory=MEMORIES)
def test_two_stages_rank_as_sorting_every_query_by_hand_does(
    direction: Direction, data: EncodedData, rerank: int, memory: int
) -> None:
    matching = matching_of(data)
    expected = slow_two_stage_ranks(matching, alignment_of(data), data.owners, direction, rerank)
    assert two_stage_ranks(data, direction, rerank, memory).tolist() == expected


@pytest.mark.slow
@both_directions
@given(data=st.deferred(lambda: encoded_data()), more=st.integers(0, 3))
def test_re_ranking_everything_is_exhaustive_alignment(direction: Direction, data: EncodedData, more: int) -> None:
    exhaustive = right_answer_ranks(alignment_of(data), data.owners, direction)
    everything = max(len(data.owners), len(data.images.tokens)) + more
    assert two_stage_ranks(data, direction, everything).tolist() == exhaustive.tolist()


@both_directions
def test_re_ranking_aligns_no_pair_but_the_candidates(direction: Direction, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_data(images=12, captions_of_each=2)
    aligned = []
    score = scoring.LaidWords.scores

    def counted(words: scoring.LaidWords, regions: Tokens) -> torch.Tensor:
        aligned.append(len(regions) * len(words.counts))
        return score(words, regions)

    monkeypatch.setattr(scoring.LaidWords, "scores", counted)
    queries = sum(len(block.scores) for block in reranked(data, matching_of(data), direction, rerank=3))
    assert sum(aligned) == 3 * queries


@both_directions
def test_right_answers_beyond_the_candidates_keep_their_matching_rank(direction: Direction) -> None:
    data = random_data(images=20, captions_of_each=1)
    matching = matching_of(data)
    first = right_answer_ranks(matching, data.owners, direction)
    both = two_stage_ranks(data, direction, rerank=8)
    assert 0 < (first > 8).sum() < 20
    assert (both[first > 8] == first[first > 8]).all()
    assert (both[first <= 8] <= 8).all()


@both_directions
def test_a_broken_model_has_every_right_answer_last(direction: Direction) -> None:
    data = random_data(images=6, captions_of_each=1)
    broken = EncodedSet(torch.full_like(data.images.vectors, torch.nan), data.images.tokens)
    assert two_stage_ranks(dataclasses.replace(data, images=broken), direction, rerank=2).tolist() == [6] * 6


@pytest.mark.parametrize("pooling", ["MrSw", "symm"])
def test_an_evaluation_ranks_by_each_head_and_by_both(pooling: Pooling) -> None:
    data = random_data(images=8, captions_of_each=2, pooling=pooling)
    seen: list[tuple[int, int]] = []

    class Watching(Silent):
        def __call__(self, done: int, total: int, /) -> None:
            seen.append((done, total))

    found = evaluate_heads(data, rerank=3, memory=2**20, steps=TimedSteps(Watching()))
    assert list(found.ranks) == ["matching", "alignment", "two-stage k=3"]
    assert set(found.seconds) == {"matching", "alignment", "two-stage"}
    assert all(0 < done <= total for done, total in seen)
    scores = {"matching": matching_of(data), "alignment": alignment_of(data)}
    for direction in DIRECTIONS:
        for head, matrix in scores.items():
            assert found.ranks[head][direction].tolist() == right_answer_ranks(matrix, data.owners, direction).tolist()
        expected = slow_two_stage_ranks(*scores.values(), data.owners, direction, rerank=3)
        assert found.ranks["two-stage k=3"][direction].tolist() == expected


def test_where_hubs_are_corrected_images_are_searched_by_queries_and_captions_by_captions() -> None:
    heads = dataclasses.replace(TINY.heads, hub_centres=6, hub_weight=0.3)
    plain = random_data(images=12, captions_of_each=3)
    correction = filled(HubCorrection(heads, DIM), plain.images.vectors, plain.captions.vectors)
    with torch.no_grad():
        images = EncodedSet(*correction(plain.images.vectors, plain.images.tokens, "images"))
        captions = EncodedSet(*correction(plain.captions.vectors, plain.captions.tokens, "captions"))
    data = EncodedData(images, captions, plain.owners, heads)
    pieces = captions.tokens.mask.sum(dim=1).numpy()
    asked = torch.from_numpy(as_queries(captions.tokens.states.numpy(), pieces, heads))
    queries = EncodedSet(
        torch.from_numpy(as_queries(captions.vectors.numpy(), pieces, heads)), Tokens(asked, captions.tokens.mask)
    )
    found = evaluate_heads(data, rerank=4, memory=2**20, steps=TimedSteps())
    for direction, texts in (("image_to_text", captions), ("text_to_image", queries)):
        by_hand = EncodedData(images, texts, plain.owners, heads)
        scores = {"matching": matching_of(by_hand), "alignment": alignment_of(by_hand)}
        for head, matrix in scores.items():
            assert found.ranks[head][direction].tolist() == right_answer_ranks(matrix, data.owners, direction).tolist()
        expected = slow_two_stage_ranks(*scores.values(), data.owners, direction, rerank=4)
        assert found.ranks["two-stage k=4"][direction].tolist() == expected
    other = right_answer_ranks(matching_of(data), data.owners, "text_to_image")
    assert found.ranks["matching"]["text_to_image"].tolist() != other.tolist()


def test_no_re_ranking_leaves_the_two_stages_out() -> None:
    found = evaluate_heads(random_data(images=3, captions_of_each=1), rerank=0, memory=2**20, steps=TimedSteps())
    assert list(found.ranks) == ["matching", "alignment"]


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1, 2**20])
@pytest.mark.parametrize("rerank", [0, 3, 99])
def test_in_folds_a_query_meets_the_candidates_of_its_fold(rerank: int, memory: int) -> None:
    data = random_data(images=10, captions_of_each=2)
    found = evaluate_heads(data, rerank, memory, TimedSteps(), FOLDS, judges(10, 20))
    for number, fold in enumerate(FOLDS):
        alone = evaluate_heads(data.part(fold), rerank, memory, TimedSteps(), (), judges(10, 20, fold))
        for head in found.heads:
            for direction in DIRECTIONS:
                queries = fold.images if direction == "image_to_text" else fold.captions
                assert found.ranks[head][direction][queries].tolist() == alone.ranks[head][direction].tolist(), number
                for name, values in found.judged[head][direction].items():
                    assert values[queries].tolist() == alone.judged[head][direction][name].tolist()


@pytest.mark.slow
@both_directions
@given(data=st.deferred(lambda: encoded_data()), rerank=st.integers(1, 12), memory=MEMORIES, seed=st.integers(0, 99))
@settings(max_examples=40)
def test_judged_measures_are_those_of_candidates_sorted_by_hand(
    direction: Direction, data: EncodedData, rerank: int, memory: int, seed: int
) -> None:
    images, captions = len(data.images.tokens), len(data.owners)
    judge = judges(images, captions, seed=seed)[0]
    found = evaluate_heads(data, rerank, memory, TimedSteps(), (), [judge])
    matching, alignment = matching_of(data), alignment_of(data)
    queries = np.arange(images if direction == "image_to_text" else captions)
    relevance = judge.relevances.rows(direction, queries, slice(0, captions if direction == "image_to_text" else images))
    for query in queries:
        first, second, right = scores_of(query, matching, alignment, data.owners, direction)
        order = sorted(range(len(first)), key=lambda k: (-first[k], right[k]))
        lifted = [(second[k] + 500 if k in order[:rerank] else first[k]) for k in range(len(first))]
        for head, scores in {"matching": first, "alignment": second, f"two-stage k={rerank}": lifted}.items():
            ranked = np.array(reference.relevance_by_score(scores, relevance[query]))
            for name, measure in judge.measures.items():
                expected = measure.of_query(ranked, relevance[query])
                assert found.judged[head][direction][name][query] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@given(
    data=st.deferred(lambda: encoded_data()),
    rerank=st.integers(1, 12),
    depth=st.integers(1, 12),
    memory=MEMORIES,
    seed=st.integers(0, 99),
)
def test_three_stages_rank_as_sorting_every_query_three_times_does(
    data: EncodedData, rerank: int, depth: int, memory: int, seed: int
) -> None:
    """Pair scores are small whole numbers, so that many are equal."""
    third = np.random.default_rng(seed).integers(0, 4, (len(data.images.tokens), len(data.owners))).astype(np.float32)
    depth = min(depth, rerank)
    found = evaluate_heads(data, rerank, memory, TimedSteps(), cross_encoder=CrossEncoderStage(depth, looked_up(third)))
    matrices = matching_of(data), alignment_of(data), third
    for direction in DIRECTIONS:
        expected = slow_staged_ranks(matrices, (rerank, depth), data.owners, direction)
        assert found.ranks[f"cross-encoder k={rerank} n={depth}"][direction].tolist() == expected


@pytest.mark.slow
@both_directions
@given(data=st.deferred(lambda: encoded_data()), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_reading_every_pair_at_the_end_is_exhaustive_pair_scoring(
    direction: Direction, data: EncodedData, more: int, seed: int
) -> None:
    third = np.random.default_rng(seed).integers(0, 9, (len(data.images.tokens), len(data.owners))).astype(np.float32)
    everything = max(third.shape) + more
    found = evaluate_heads(data, everything, 2**20, TimedSteps(), cross_encoder=CrossEncoderStage(everything, looked_up(third)))
    ranks = found.ranks[f"cross-encoder k={everything} n={everything}"][direction]
    assert ranks.tolist() == right_answer_ranks(third, data.owners, direction).tolist()


def test_the_cross_encoder_reads_each_querys_best_pairs_once_and_by_their_rows_before_folding() -> None:
    data = random_data(images=10, captions_of_each=2)
    third = np.random.default_rng(0).random((10, 20), dtype=np.float32)
    asked: list[tuple[int, int]] = []

    def noted(images: np.ndarray, captions: np.ndarray, progress: Progress) -> np.ndarray:
        asked.extend(zip(images.tolist(), captions.tolist(), strict=True))
        return third[images, captions]

    found = evaluate_heads(data, 4, 2**20, TimedSteps(), FOLDS, judges(10, 20), CrossEncoderStage(3, noted))
    assert len(asked) == 3 * 10 + 3 * 20
    assert all((image < 5) == (caption < 10) for image, caption in asked)
    for fold in FOLDS:
        alone = CrossEncoderStage(3, looked_up(third[fold.images, fold.captions]))
        part = evaluate_heads(data.part(fold), 4, 2**20, TimedSteps(), (), judges(10, 20, fold), alone)
        for direction in DIRECTIONS:
            queries = fold.images if direction == "image_to_text" else fold.captions
            one, other = (some.heads["cross-encoder k=4 n=3"] for some in (found, part))
            assert one.ranks[direction][queries].tolist() == other.ranks[direction].tolist()
            for name, values in one.judged[direction].items():
                assert values[queries].tolist() == other.judged[direction][name].tolist()


def test_judged_measures_after_three_stages_are_those_of_candidates_sorted_by_hand() -> None:
    data = random_data(images=8, captions_of_each=2)
    third = np.random.default_rng(1).random((8, 16), dtype=np.float32)
    judge = judges(8, 16)[0]
    head = evaluate_heads(data, 5, 2**20, TimedSteps(), (), [judge], CrossEncoderStage(3, looked_up(third))).heads[
        "cross-encoder k=5 n=3"
    ]
    relevance = judge.relevances.rows("text_to_image", np.arange(16), slice(0, 8))
    for caption in range(16):
        first, second, last = matching_of(data)[:, caption], alignment_of(data)[:, caption], third[:, caption]
        order = sorted(range(8), key=lambda k: -first[k])
        order = sorted(order[:5], key=lambda k: -second[k]) + order[5:]
        order = sorted(order[:3], key=lambda k: -last[k]) + order[3:]
        for name, measure in judge.measures.items():
            expected = measure.of_query(relevance[caption, order], relevance[caption])
            assert head.judged["text_to_image"][name][caption] == pytest.approx(expected, abs=1e-4)


def test_agreement_is_that_of_the_scores_of_the_judged_pairs() -> None:
    data = random_data(images=5, captions_of_each=2)
    images, captions = np.array([0, 4, 2, 4, 1]), np.array([1, 0, 9, 8, 3])
    judgements = Judgements("crowd", images, captions, np.array([0.0, 1.0, 0.5, 0.5, 0.2]), 0, {})
    found = agreements(data, judgements, memory=1)
    assert found["matching"] == agreement(matching_of(data)[images, captions], judgements)
    assert found["alignment"] == agreement(alignment_of(data)[images, captions], judgements)


def two_stage_ranks(data: EncodedData, direction: Direction, rerank: int, memory: int = 2**20) -> Ranks:
    return evaluate_heads(data, rerank, memory, TimedSteps()).ranks[f"two-stage k={rerank}"][direction]


FOLDS = [Fold(slice(0, 5), slice(0, 10)), Fold(slice(5, 10), slice(10, 20))]


def judges(images: int, captions: int, fold: Fold | None = None, seed: int = 0) -> list[Judge]:
    """Random relevances, some of them 0, of all data or of a fold."""
    random = np.random.default_rng(seed)
    matrix = (random.random((captions, images)) * (random.random((captions, images)) < 0.6)).astype(np.float32)
    if fold:
        matrix = matrix[fold.captions, fold.images]
    return [Judge("random", RelevanceMatrix(matrix), {"NDCG@3": Ndcg(3), "R-Precision": RPrecision()})]


@st.composite
def encoded_data(draw: st.DrawFn) -> EncodedData:
    """Vectors and tokens of small whole numbers, so that scores are exact and many are equal."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    owners = draw(st.permutations([image for image, count in enumerate(counts) for _ in range(count)]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def encoded(rows: int) -> EncodedSet:
        tokens = [random.integers(-1, 2, (random.integers(1, 4), DIM)).astype(np.float32) for _ in range(rows)]
        return EncodedSet(torch.from_numpy(random.integers(-1, 2, (rows, 2)).astype(np.float32)), padded(tokens))

    return EncodedData(encoded(len(counts)), encoded(len(owners)), np.array(owners), HeadsConfig(pooling="MrSw"))


def random_data(images: int, captions_of_each: int, pooling: Pooling = "MrSw") -> EncodedData:
    random = np.random.default_rng(images)

    def encoded(rows: int) -> EncodedSet:
        tokens = [unit_rows(random, random.integers(1, 6)) for _ in range(rows)]
        return EncodedSet(torch.from_numpy(unit_rows(random, rows)), padded(tokens))

    owners = np.repeat(np.arange(images), captions_of_each)
    return EncodedData(encoded(images), encoded(len(owners)), owners, HeadsConfig(pooling=pooling))


def matching_of(data: EncodedData) -> np.ndarray:
    return (data.images.vectors @ data.captions.vectors.T).numpy()


def alignment_of(data: EncodedData) -> np.ndarray:
    return alignment_scores(data.images.tokens, data.captions.tokens, data.pooling).numpy()


def looked_up(scores: np.ndarray) -> Any:
    """A third stage's scores that stand in a matrix."""
    return lambda images, captions, progress: scores[images, captions]


def slow_two_stage_ranks(
    matching: np.ndarray, alignment: np.ndarray, owners: np.ndarray, direction: Direction, rerank: int
) -> list[int]:
    return slow_staged_ranks((matching, alignment), (rerank,), owners, direction)


def slow_staged_ranks(
    matrices: tuple[np.ndarray, ...], depths: tuple[int, ...], owners: np.ndarray, direction: Direction
) -> list[int]:
    """Each query's candidates sorted, at equal scores the wrong ones first, the first of them again; where a right one is.

    Of wrong ones with equal scores the first of the data comes first, in every stage.
    """
    ranks = []
    for query in range(len(matrices[0]) if direction == "image_to_text" else len(owners)):
        order, depth = list(range(matrices[0].shape[1] if direction == "image_to_text" else len(matrices[0]))), None
        for matrix, next_depth in zip(matrices, (*depths, None), strict=True):
            scores, _, right = scores_of(query, matrix, matrix, owners, direction)
            best = sorted(order[:depth], key=lambda k: (-scores[k], right[k], k))
            order, depth = best + order[len(best) :], next_depth
        ranks.append(1 + min(place for place, k in enumerate(order) if right[k]))
    return ranks


def scores_of(
    query: int, matching: np.ndarray, alignment: np.ndarray, owners: np.ndarray, direction: Direction
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A query's candidates: their matching scores, their alignment scores, and which of them are right."""
    if direction == "image_to_text":
        return matching[query], alignment[query], owners == query
    return matching[:, query], alignment[:, query], np.arange(len(matching)) == owners[query]


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made under it held at one time; the given ones, and views of them, are not counted."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self._tensors_at: Counter[int] = Counter()  # how many share each storage

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operation(*arguments, **(options or {}))
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() not in self._given:
                self._made(storage.data_ptr(), storage.nbytes())
                weakref.finalize(result, self._gone, storage.data_ptr(), storage.nbytes())
        return result

    def _made(self, place: int, size: int) -> None:
        self._tensors_at[place] += 1
        if self._tensors_at[place] == 1:
            self._live += size
            self.peak = max(self.peak, self._live)

    def _gone(self, place: int, size: int) -> None:
        self._tensors_at[place] -= 1
        if self._tensors_at[place] == 0:
            self._live -= size
