from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aladin.measures.recalls import (
    DIRECTIONS,
    RECALLS,
    Direction,
    MedianRank,
    Recall,
    mean_estimate,
    resampled_means,
    right_answer_ranks,
    rsum,
)
from tests import reference

both_directions = pytest.mark.parametrize("direction", DIRECTIONS)


@dataclass(frozen=True)
class Scored:
    scores: np.ndarray
    owners: np.ndarray

    def queries(self, direction: Direction) -> list[tuple[list[float], set[int]]]:
        """Each query's scores of all candidates, and which of those are right."""
        if direction == "text_to_image":
            return [(self.scores[:, caption].tolist(), {int(owner)}) for caption, owner in enumerate(self.owners)]
        return [(row.tolist(), set(np.flatnonzero(self.owners == image).tolist())) for image, row in enumerate(self.scores)]


@st.composite
def scored(draw: st.DrawFn, holes: bool = False) -> Scored:
    """1 to 5 images that own 1 to 3 captions each, in any order; scores of few values, so that many are equal."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    owners = draw(st.permutations([image for image, count in enumerate(counts) for _ in range(count)]))
    values = [-np.inf, -1.0, 0.0, 0.5, *([np.nan] if holes else [])]
    cells = draw(st.lists(st.sampled_from(values), min_size=len(counts) * len(owners), max_size=len(counts) * len(owners)))
    return Scored(np.array(cells, dtype=np.float32).reshape(len(counts), len(owners)), np.array(owners))


@both_directions
@given(data=scored())
def test_a_rank_is_one_more_than_the_wrong_candidates_at_least_as_good(direction: Direction, data: Scored) -> None:
    expected = [reference.rank_of_best(scores, right) for scores, right in data.queries(direction)]
    assert right_answer_ranks(data.scores, data.owners, direction).tolist() == expected


@both_directions
@given(data=scored(holes=True))
def test_not_a_number_is_the_worst_for_a_right_answer_and_the_best_for_a_wrong_one(direction: Direction, data: Scored) -> None:
    def against_us(scores: list[float], right: set[int]) -> list[float]:
        return [(-np.inf if k in right else np.inf) if np.isnan(score) else score for k, score in enumerate(scores)]

    expected = [reference.rank_of_best(against_us(*query), query[1]) for query in data.queries(direction)]
    assert right_answer_ranks(data.scores, data.owners, direction).tolist() == expected


@both_directions
@given(data=scored(), cell=st.integers(0, 99))
def test_a_broken_score_never_makes_a_rank_better(direction: Direction, data: Scored, cell: int) -> None:
    broken = data.scores.copy()
    broken.flat[cell % broken.size] = np.nan
    before, after = (right_answer_ranks(scores, data.owners, direction) for scores in (data.scores, broken))
    assert (after >= before).all()


@both_directions
def test_a_model_that_scores_all_pairs_alike_has_every_right_answer_last(direction: Direction) -> None:
    owners = np.array([0, 0, 1, 2, 2, 2])
    expected = {"image_to_text": [5, 6, 4], "text_to_image": [3] * 6}
    for value in (0.3, np.nan, -np.inf):
        assert right_answer_ranks(np.full((3, 6), value), owners, direction).tolist() == expected[direction]


@pytest.mark.slow
@both_directions
@given(data=scored(), seed=st.integers(0, 999))
def test_the_order_of_images_and_captions_does_not_change_a_rank(direction: Direction, data: Scored, seed: int) -> None:
    random = np.random.default_rng(seed)
    images, captions = (random.permutation(count) for count in data.scores.shape)
    owners = np.argsort(images)[data.owners[captions]]
    shuffled = right_answer_ranks(data.scores[images][:, captions], owners, direction)
    queries = images if direction == "image_to_text" else captions
    assert shuffled.tolist() == right_answer_ranks(data.scores, data.owners, direction)[queries].tolist()


@both_directions
@given(data=scored(), k=st.integers(1, 8))
def test_recall_grows_with_k(direction: Direction, data: Scored, k: int) -> None:
    ranks = right_answer_ranks(data.scores, data.owners, direction)
    assert Recall(k)(ranks) <= Recall(k + 1)(ranks) <= Recall(max(data.scores.shape))(ranks) == 100.0


@pytest.mark.slow
@given(data=scored())
def test_rsum_adds_three_recalls_of_both_directions(data: Scored) -> None:
    expected = [recall(right_answer_ranks(data.scores, data.owners, d)) for d in DIRECTIONS for recall in RECALLS]
    assert rsum(data.scores, data.owners) == pytest.approx(sum(expected))


def test_ranks_and_recalls_of_a_case_worked_out_by_hand() -> None:
    owners = np.array([0, 0, 1, 1, 2, 2])
    scores = np.array(
        [
            [0.9, 0.1, 0.3, 0.2, 0.0, 0.0],  # its first caption is the best of all: 1
            [0.5, 0.6, 0.4, 0.1, 0.7, 0.2],  # three of others are better than its best, 0.4: 4
            [0.8, 0.3, 0.3, 0.1, 0.8, 0.1],  # another's caption is as good as its best: 2
        ]
    )
    to_text, to_image = (right_answer_ranks(scores, owners, direction) for direction in DIRECTIONS)
    assert to_text.tolist() == [1, 4, 2]
    # Column by column: 0.9 is best; 0.1 is last; 0.4 is best; 0.1 has 0.2 before and 0.1 as equal; 0.8 is best; 0.1 is second.
    assert to_image.tolist() == [1, 3, 1, 3, 1, 2]
    assert Recall(1)(to_text) == pytest.approx(100 / 3)
    assert Recall(2)(to_image) == pytest.approx(400 / 6)
    assert MedianRank()(to_text) == 2.0
    assert MedianRank()(to_image) == 1.5


def test_a_measure_prints_its_definition() -> None:
    assert [str(measure) for measure in (Recall(5), MedianRank())] == ["Recall@5", "median rank"]


@given(ranks=st.lists(st.integers(1, 20), min_size=1, max_size=60), k=st.integers(1, 20))
def test_an_interval_contains_the_value(ranks: list[int], k: int) -> None:
    estimate = mean_estimate(Recall(k).of_each(np.array(ranks)))
    assert estimate.value == pytest.approx(Recall(k)(np.array(ranks)))
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 100.0


def test_an_interval_is_that_of_queries_drawn_again() -> None:
    random = np.random.default_rng(5)
    first, second = random.choice([0.0, 100.0, 300.0], size=200), random.choice([0.0, 200.0], size=500)
    drawn = [random.choice(first, size=200).mean() + random.choice(second, size=500).mean() for _ in range(4000)]
    estimate = mean_estimate(first, second)
    assert estimate.value == pytest.approx(first.mean() + second.mean())
    assert [estimate.low, estimate.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=3.0)


def test_captions_that_win_together_are_drawn_together() -> None:
    """Five copies of every image's caption say no more than one does."""
    wins = np.random.default_rng(0).choice([0.0, 100.0], size=200)
    images = np.arange(200)
    alone = mean_estimate(wins, owners=[images])
    copies = mean_estimate(wins.repeat(5), owners=[images.repeat(5)])
    assert copies == alone
    singly = mean_estimate(wins.repeat(5))
    assert (alone.high - alone.low) / (singly.high - singly.low) == pytest.approx(5**0.5, rel=0.15)


def test_captions_that_win_independently_scatter_as_if_drawn_one_by_one() -> None:
    wins = np.random.default_rng(0).choice([0.0, 100.0], size=2000)
    together, singly = mean_estimate(wins, owners=[np.arange(400).repeat(5)]), mean_estimate(wins)
    assert together.value == singly.value
    assert together.high - together.low == pytest.approx(singly.high - singly.low, rel=0.15)


@pytest.mark.slow
def test_drawn_images_bring_all_their_queries_of_every_sample() -> None:
    """Images with different numbers of captions, in any order, against drawing them one by one."""
    random = np.random.default_rng(1)
    counts = random.integers(1, 4, size=60)
    owners = random.permutation(np.repeat(np.arange(60), counts))
    asked, said = random.choice([0.0, 300.0], size=60), random.random(len(owners)) * 100
    drawn = []
    for _ in range(4000):
        images = random.integers(60, size=60)
        chosen = np.concatenate([np.flatnonzero(owners == image) for image in images])
        drawn.append(asked[images].mean() + said[chosen].mean())
    estimate = mean_estimate(asked, said, owners=[np.arange(60), owners])
    assert estimate.value == pytest.approx(asked.mean() + said.mean())
    assert [estimate.low, estimate.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=6.0)


def test_images_without_a_judged_query_are_not_drawn() -> None:
    owners = np.array([3, 3, 9])
    estimate = mean_estimate(np.array([50.0, 50.0, 50.0]), owners=[owners])
    assert (estimate.value, estimate.low, estimate.high) == (50.0, 50.0, 50.0)


def test_more_queries_make_an_interval_narrower() -> None:
    few, many = (mean_estimate(np.tile([0.0, 100.0], count)) for count in (10, 1000))
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize("values", [3, 500])
def test_means_of_queries_drawn_again_scatter_as_those_drawn_one_by_one(values: int) -> None:
    """Few values are drawn by their counts, many by their places."""
    random = np.random.default_rng(0)
    sample = random.permutation(np.linspace(0, 100, values).repeat(600 // values))
    means = resampled_means(sample, 3000, np.random.default_rng(1))
    drawn = [random.choice(sample, size=len(sample)).mean() for _ in range(3000)]
    assert len(means) == 3000
    assert np.mean(means) == pytest.approx(np.mean(sample), abs=0.3)
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.5)
