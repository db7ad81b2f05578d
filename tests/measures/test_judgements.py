from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aladin.datasets import Dataset, Example, FileOnDisk
from aladin.errors import DataError
from aladin.measures.judgements import Judgements, agreement, read_judgements

CAPTIONS = {"images/1_a.jpg": ("a dog", "two dogs"), "2_b.jpg": ("a cat", "the same words"), "3_c.jpg": ("the same words",)}
DATA = Dataset(tuple(Example(name, texts, "test", FileOnDisk(Path(name))) for name, texts in CAPTIONS.items()))
EXPERT = """1_a.jpg\t2_b.jpg#0\t1\t1\t2
1_a.jpg\t1_a.jpg#1\t4\t4\t4
2_b.jpg\t3_c.jpg#0\t3\t4\t4

3_c.jpg\t1_a.jpg#0\t1\t2\t1
"""
CROWD = """1_a.jpg\t1_a.jpg#1\t1\t3\t0
2_b.jpg\t1_a.jpg#0\t0.333333333333\t1\t2
3_c.jpg\t2_b.jpg#0\t0\t0\t3
"""


def judged(scores: list[float], ratings: list[float]) -> Judgements:
    rows = np.arange(len(scores))
    return Judgements("expert", rows, rows, np.array(ratings, dtype=float), 0, {})


def slow_tau(scores: list[float], ratings: list[float]) -> tuple[float, float]:
    """Kendall's tau-b and tau-c from every two pairs (Kendall 1945; Stuart 1953)."""
    agree = disagree = tied_scores = tied_ratings = 0
    for a, b in combinations(range(len(scores)), 2):
        product = (scores[a] - scores[b]) * (ratings[a] - ratings[b])
        agree += product > 0
        disagree += product < 0
        tied_scores += scores[a] == scores[b]
        tied_ratings += ratings[a] == ratings[b]
    n, every = len(scores), len(scores) * (len(scores) - 1) / 2
    fewest = min(len(set(scores)), len(set(ratings)))
    tau_b = (agree - disagree) / np.sqrt((every - tied_scores) * (every - tied_ratings))
    return float(tau_b), 2 * (agree - disagree) / (n**2 * (fewest - 1) / fewest)


def test_correlation_of_a_case_worked_out_by_hand() -> None:
    """Of six pairs four agree, one disagrees and one is tied in rating: (4 - 1) / sqrt(6 x 5), and 2 x 3 / (16 x 2 / 3)."""
    found = agreement(np.array([0.1, 0.3, 0.2, 0.9]), judged([0] * 4, [1, 2, 3, 3]))
    assert (found.tau_b, found.tau_c) == pytest.approx((3 / 30**0.5, 6 / (16 * 2 / 3)))
    assert str(found) == "tau-b 0.548, tau-c 0.562"


@settings(max_examples=30)
@given(pairs=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.6]), st.sampled_from([1.0, 2.0, 4.0])), min_size=2, max_size=12))
def test_correlation_counts_all_pairs_and_ties(pairs: list[tuple[float, float]]) -> None:
    scores, ratings = (list(some) for some in zip(*pairs, strict=True))
    if len(set(scores)) > 1 and len(set(ratings)) > 1:
        found = agreement(np.array(scores), judged(scores, ratings))
        assert (found.tau_b, found.tau_c) == pytest.approx(slow_tau(scores, ratings))
    else:
        with pytest.raises(DataError, match="all alike, so that there is no order to compare"):
            agreement(np.array(scores), judged(scores, ratings))


def test_an_expert_rating_stands_for_itself_and_own_captions_are_left_out(tmp_path: Path) -> None:
    """Caption 3_c.jpg#0 has the words of one of image 2_b.jpg's own, so that pair is left out too."""
    path = tmp_path / "ExpertAnnotations.txt"
    path.write_text(EXPERT)
    found = read_judgements(path, DATA)
    assert (found.kind, found.positives, found.pairs) == ("expert", 2, 2)
    assert found.images.tolist() == [0, 0, 0, 2, 2, 2]
    assert found.captions.tolist() == [2, 2, 2, 0, 0, 0]
    assert found.ratings.tolist() == [1, 1, 2, 1, 2, 1]


def test_the_crowd_rates_by_its_share_of_yes(tmp_path: Path) -> None:
    path = tmp_path / "CrowdFlowerAnnotations.txt"
    path.write_text(CROWD)
    found = read_judgements(path, DATA)
    assert (found.kind, found.positives, found.pairs) == ("crowd", 0, 3)
    assert (found.images.tolist(), found.captions.tolist()) == ([0, 1, 2], [1, 0, 2])
    assert found.ratings.tolist() == pytest.approx([1, 1 / 3, 0])


@pytest.mark.parametrize(
    ("text", "row", "reason", "sentence"),
    [
        (
            EXPERT,
            "1_a.jpg\t2_b.jpg#0\t1\t1",
            "wrong number of columns",
            "4 columns where 5 were expected; write image, caption#",
        ),
        (EXPERT, "9.jpg\t2_b.jpg#0\t1\t1\t1", "unknown image", "image '9.jpg' is not among the data's; give the split"),
        (EXPERT, "1_a.jpg\t9.jpg#0\t1\t1\t1", "unknown image", "image '9.jpg' is not among"),
        (EXPERT, "1_a.jpg\t3_c.jpg#1\t1\t1\t1", "unknown caption", "caption '3_c.jpg#1' where '3_c.jpg' has 0 to 0"),
        (EXPERT, "1_a.jpg\t3_c.jpg#-1\t1\t1\t1", "unknown caption", "caption '3_c.jpg#-1'"),
        (EXPERT, "1_a.jpg\t2_b.jpg#0\t1\t5\t1", "wrong rating", "ratings 1, 5, 1 where 1 to 4 were expected"),
        (CROWD, "1_a.jpg\t2_b.jpg#0\t0.5\t1\t2", "wrong rating", "0.5, 1, 2 where the share of yes and the numbers"),
        (CROWD, "1_a.jpg\t2_b.jpg#0\tnan\t0\t0", "wrong rating", "nan, 0, 0 where the share"),
        (CROWD, "1_a.jpg\t2_b.jpg#0\tyes\t1\t2", "wrong rating", "yes, 1, 2 where the share"),
    ],
)
def test_a_bad_row_is_named_by_its_line_or_counted(tmp_path: Path, text: str, row: str, reason: str, sentence: str) -> None:
    path = tmp_path / "judgements.txt"
    path.write_text(f"{text}{row}\n")
    with pytest.raises(DataError) as raised:
        read_judgements(path, DATA)
    assert str(raised.value).startswith(f"{path}, line {len(text.splitlines()) + 1}: {sentence}")
    assert str(raised.value).endswith("or pass --skip-bad")
    path.write_text(text)
    good = read_judgements(path, DATA)
    path.write_text(f"{text}{row}\n")
    found = read_judgements(path, DATA, skip_bad=True)
    assert found.skipped == {reason: 1}
    assert found.ratings.tolist() == good.ratings.tolist()


def test_files_without_judgements_of_these_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "judgements.txt"
    with pytest.raises(DataError, match="cannot be read"):
        read_judgements(path, DATA)
    path.write_text("1_a.jpg\t1_a.jpg#0\t4\t4\t4\n")
    with pytest.raises(DataError, match="judges no pair of these data"):
        read_judgements(path, DATA)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not text"):
        read_judgements(path, DATA)
    twice = Dataset((*DATA.examples, Example("other/1_a.jpg", ("a dog",), "test", FileOnDisk(Path("x")))))
    path.write_text(EXPERT)
    with pytest.raises(DataError, match=r"two images of the data are called '1_a.jpg'"):
        read_judgements(path, twice)
