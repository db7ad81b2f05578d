import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aladin.errors import DataError, Regression
from aladin.measures.gate import Comparison, check_same_queries, compared, differences, pass_gate, read_baseline, worse
from aladin.measures.recalls import DIRECTIONS
from aladin.measures.report import QueryValues, Subject, full_report, to_json

SUBJECT = Subject("old", "photos.zip", "val", 300, 600, 100, "fp32", "full", "d1" * 32)


def values(ranks: np.ndarray, ndcg: np.ndarray, origin: str = "ROUGE-L") -> QueryValues:
    """The same ranks and judged values of both directions, of one head."""
    judged = {"alignment": {direction: {"NDCG@25": ndcg} for direction in DIRECTIONS}}
    return QueryValues([1] * len(ranks), {"alignment": dict.fromkeys(DIRECTIONS, ranks)}, judged, {"NDCG@25": origin})


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def before(random: np.random.Generator) -> QueryValues:
    return values(random.integers(1, 30, 300), np.round(random.random(300) * 100, 4))


@pytest.fixture
def baseline(tmp_path: Path) -> Callable[[QueryValues], Any]:
    def baseline(found: QueryValues) -> Any:
        path = tmp_path / "baseline.json"
        path.write_text(json.dumps(to_json(full_report(SUBJECT, found, {}, {})), allow_nan=False))
        return read_baseline(path)

    return baseline


def test_a_report_compared_with_itself_passes_to_the_last_digit(baseline: Any, before: QueryValues) -> None:
    found = compared(baseline(before), before)
    assert len(found) == 2 * (3 + 1)
    assert all(one.p == 1.0 and one.before == one.now for one in found)
    assert pass_gate(found).startswith("gate passed: none of 8 measures is significantly worse (one-sided paired bootstrap,")


def test_a_way_of_scoring_under_its_old_name_is_compared_with_the_present_one(baseline: Any, before: QueryValues) -> None:
    def called(name: str) -> QueryValues:
        return replace(before, ranks={name: before.ranks["alignment"]}, judged={name: before.judged["alignment"]})

    found = compared(baseline(called("three-stage k=100 n=20")), called("cross-encoder k=100 n=20"))
    assert {one.head for one in found} == {"cross-encoder k=100 n=20"}


def test_the_cross_encoder_of_a_report_under_old_keys_is_known(tmp_path: Path, before: QueryValues) -> None:
    table = to_json(full_report(replace(SUBJECT, cross_encoder_fingerprint="a1" * 32), before, {}, {}))
    table["subject"]["pair_fingerprint"] = table["subject"].pop("cross_encoder_fingerprint")
    (tmp_path / "old.json").write_text(json.dumps(table))
    old = read_baseline(tmp_path / "old.json")
    assert old.cross_encoder_fingerprint == "a1" * 32
    assert any(
        "cross-encoder of other weights" in one for one in differences(old, replace(SUBJECT, cross_encoder_fingerprint="a2"))
    )


def test_fewer_right_answers_are_a_regression_and_more_are_not(baseline: Any, before: QueryValues) -> None:
    ranks = before.ranks["alignment"]["image_to_text"].copy()
    lost = np.flatnonzero(ranks == 1)[:9]
    ranks[lost] = 2
    ndcg = before.judged["alignment"]["image_to_text"]["NDCG@25"]
    with pytest.raises(Regression) as raised:
        pass_gate(compared(baseline(before), values(ranks, ndcg)))
    sentence = str(raised.value)
    assert sentence.startswith(
        "2 of 8 measures are significantly worse (one-sided paired bootstrap, 10,000 draws of images, level"
    )
    assert "alignment, text_to_image, Recall@1: " in sentence
    assert "(-3.00, p = 0.0001)" in sentence
    assert raised.value.exit_code == 1
    assert "gate passed" in pass_gate(compared(baseline(values(ranks, ndcg)), before))


def test_a_small_but_even_loss_of_a_judged_measure_is_found(baseline: Any, before: QueryValues) -> None:
    ranks, ndcg = (before.ranks["alignment"]["image_to_text"], before.judged["alignment"]["image_to_text"]["NDCG@25"])
    with pytest.raises(Regression, match=r"alignment, image_to_text, NDCG@25: [0-9.]+ -> [0-9.]+ \(-0.30, p = 0.0001\)"):
        pass_gate(compared(baseline(before), values(ranks, ndcg - 0.3)))


def test_what_chance_explains_passes(baseline: Any, before: QueryValues, random: np.random.Generator) -> None:
    """As many queries gain as lose, and one more."""
    ranks, ndcg = (before.ranks["alignment"]["image_to_text"], before.judged["alignment"]["image_to_text"]["NDCG@25"])
    noisy = ranks.copy()
    noisy[np.flatnonzero(ranks == 1)[:6]] = 2
    noisy[np.flatnonzero(ranks == 2)[:5]] = 1
    assert "gate passed" in pass_gate(compared(baseline(before), values(noisy, ndcg + random.normal(size=300))))


def test_a_p_value_is_that_of_queries_drawn_again(baseline: Any, before: QueryValues, random: np.random.Generator) -> None:
    ranks, ndcg = (before.ranks["alignment"]["image_to_text"], before.judged["alignment"]["image_to_text"]["NDCG@25"])
    now = ndcg + random.normal(-0.1, 1.5, 300)
    one = next(c for c in compared(baseline(before), values(ranks, now)) if c.measure == "NDCG@25")
    drawn = [(now - ndcg)[random.integers(300, size=300)].mean() >= 0 for _ in range(4000)]
    assert one.p == pytest.approx(np.mean(drawn), abs=0.03)
    assert 0.02 < one.p < 0.5


def test_captions_of_one_image_are_drawn_together(baseline: Any) -> None:
    """Twelve images lose or win all of their captions at once: 8 lose, 4 win, which is far from sure for twelve draws."""
    per_image = np.repeat([2, 1], [8, 4])

    def found(ranks: np.ndarray, captions_of_each: list[int]) -> QueryValues:
        directions = {"image_to_text": ranks[np.cumsum(captions_of_each) - 1], "text_to_image": ranks}
        return QueryValues(captions_of_each, {"alignment": directions}, {}, {})

    def chance(captions: int) -> float:
        now = np.repeat(per_image, captions)
        comparisons = compared(baseline(found(3 - now, [captions] * 12)), found(now, [captions] * 12))
        return next(c.p for c in comparisons if (c.direction, c.measure) == ("text_to_image", "Recall@1"))

    drawn = [np.random.default_rng(n).choice([-1] * 8 + [1] * 4, 12).sum() >= 0 for n in range(4000)]
    assert chance(1) == chance(5) == pytest.approx(np.mean(drawn), abs=0.03)


def test_queries_that_are_not_judged_are_left_out(baseline: Any, before: QueryValues) -> None:
    ranks, ndcg = (before.ranks["alignment"]["image_to_text"], before.judged["alignment"]["image_to_text"]["NDCG@25"].copy())
    ndcg[100:] = np.nan
    found = compared(baseline(values(ranks, ndcg)), values(ranks, ndcg - 1))
    assert [c.before for c in found if c.measure == "NDCG@25"] == pytest.approx([np.nanmean(ndcg)] * 2)
    assert [c.now - c.before for c in found if c.measure == "NDCG@25"] == pytest.approx([-1.0, -1.0])


def test_many_comparisons_ask_for_more_certainty() -> None:
    """Holm: of four at level 5 % the surest must be below 1.25 %, the next below 1.67 %, then 2.5 %, then 5 %."""

    def comparisons(*chances: float) -> list[Comparison]:
        return [Comparison("alignment", "text_to_image", f"measure {p}", 50.0, 49.0, p) for p in chances]

    def found(*chances: float) -> list[float]:
        return [one.p for one in worse(comparisons(*chances))]

    assert found(0.04, 0.5, 0.013, 0.9) == []
    assert found(0.04, 0.5, 0.012, 0.9) == [0.012]
    assert found(0.04, 0.012, 0.016, 0.9) == [0.012, 0.016]
    assert found(0.04, 0.012, 0.016, 0.024) == [0.012, 0.016, 0.024, 0.04]
    assert found(0.04) == [0.04]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"protocol": "flickr8k"}, "by the protocol full, this is flickr8k; pass --protocol full"),
        ({"digest": "e2" * 32}, "on other images or captions .digest d1d1d1d1d1d1, these have e2e2e2e2e2e2."),
    ],
)
def test_other_queries_are_refused(baseline: Any, before: QueryValues, changes: dict[str, str], sentence: str) -> None:
    check_same_queries(baseline(before), replace(SUBJECT, model="new"))
    with pytest.raises(DataError, match=sentence):
        check_same_queries(baseline(before), replace(SUBJECT, **changes))


def test_other_weights_and_data_of_another_name_are_told(baseline: Any, before: QueryValues) -> None:
    old = replace(baseline(before), fingerprint="f1" * 32, cross_encoder_fingerprint="a1" * 32)
    same = replace(SUBJECT, fingerprint="f1" * 32, cross_encoder_fingerprint="a1" * 32)
    assert differences(old, same) == []
    (weights,) = differences(old, replace(same, model="new", fingerprint="f2" * 32))
    assert weights.endswith("is of other weights: old, f1f1f1f1f1f1; now new, f2f2f2f2f2f2")
    (pairs,) = differences(old, replace(same, cross_encoder_fingerprint="a2" * 32))
    assert pairs.endswith("is of a cross-encoder of other weights")
    (data,) = differences(old, replace(same, data="copies.zip"))
    assert "is of photos.zip, now it is copies.zip" in data
    (unknown,) = differences(replace(old, fingerprint=""), same)
    assert "does not say of which weights" in unknown


def test_a_measure_that_is_gone_or_found_otherwise_is_refused(baseline: Any, before: QueryValues) -> None:
    old = baseline(before)
    ranks, ndcg = (before.ranks["alignment"]["image_to_text"], before.judged["alignment"]["image_to_text"]["NDCG@25"])
    with pytest.raises(DataError, match="has 300 queries of alignment, image_to_text, NDCG@25, now there are 0"):
        compared(old, QueryValues(before.captions_of_each, before.ranks, {}, {}))
    with pytest.raises(DataError, match="has 300 queries of alignment, image_to_text, NDCG@25, now there are 299"):
        compared(old, values(ranks, ndcg[1:]))
    with pytest.raises(DataError, match="has NDCG@25 by the relevances 'ROUGE-L', now it is by 'SPICE'"):
        compared(old, values(ranks, ndcg, "SPICE"))
    more = replace(before, ranks=before.ranks | {"two-stage": before.ranks["alignment"]})
    assert len(compared(old, more)) == 8


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"subject": {}}', '{"queries": 3, "subject": {"protocol": "", "digest": ""}}']
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(DataError, match="cannot be read"):
        read_baseline(path)
    path.write_text(text)
    with pytest.raises(DataError, match="is no report with the ranks of every query; write one anew"):
        read_baseline(path)
    path.write_text(
        json.dumps({"subject": {"protocol": "", "digest": ""}, "queries": {"ranks": {"a": {"image_to_text": "1 x"}}}})
    )
    with pytest.raises(DataError, match="is no report"):
        read_baseline(path)
