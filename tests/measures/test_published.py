import json
from pathlib import Path

import numpy as np
import pytest

from aladin.errors import ConfigError
from aladin.measures.published import beside_the_paper, figures_of, published_figures
from aladin.measures.recalls import Ranks, mean_estimate, rsum_of_each
from aladin.measures.report import QueryValues, Report, Subject, full_report, sheets, to_json, to_markdown

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
IMAGES = 5000
JOINT = "alignment-and-matching-distill"


def ranks(queries: int, *shares: float) -> Ranks:
    """Of so many queries the ranks 1, 2 and 6 by these shares in percent, in a fixed random order; of the others rank 50."""
    counts = [round(queries * share / 100) for share in shares]
    found = np.repeat([1, 2, 6, 50], [*counts, queries - sum(counts)])
    return np.random.default_rng(0).permutation(found)


def report(shares: dict[str, tuple[tuple[float, ...], tuple[float, ...]]], protocol: str = "coco-5k") -> Report:
    """A report of 5,000 images whose heads have these shares of ranks, for image_to_text and text_to_image."""
    found = {
        head: {"image_to_text": ranks(IMAGES, *of_images), "text_to_image": ranks(5 * IMAGES, *of_captions)}
        for head, (of_images, of_captions) in shares.items()
    }
    subject = Subject("runs/joint/best", "coco", "test", IMAGES, 5 * IMAGES, 0, "fp32", protocol)
    return full_report(subject, QueryValues([5] * IMAGES, found, {}, {}), {"images": 1.0}, {})


PAPERS = ((64.9, 23.7, 5.9), (51.3, 27.9, 8.3))  # of the matching head that learned with the alignment head


def test_a_run_that_finds_what_the_paper_found_is_equal_in_every_figure() -> None:
    found = beside_the_paper(report({"matching": PAPERS}), JOINT).published
    assert [(f.row, f.head, f.direction, f.measure, f.published) for f in found] == [
        ("D/e2e", "matching", "image_to_text", "Recall@1", 64.9),
        ("D/e2e", "matching", "image_to_text", "Recall@5", 88.6),
        ("D/e2e", "matching", "image_to_text", "Recall@10", 94.5),
        ("D/e2e", "matching", "text_to_image", "Recall@1", 51.3),
        ("D/e2e", "matching", "text_to_image", "Recall@5", 79.2),
        ("D/e2e", "matching", "text_to_image", "Recall@10", 87.5),
        ("D/e2e", "matching", "both", "rsum", 466.0),
    ]
    assert [f.verdict for f in found] == ["equal"] * 7
    assert [f.here.value for f in found] == pytest.approx([f.published for f in found])


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-3.0, "worse"), (-0.3, "equal"), (0.0, "equal"), (0.3, "equal"), (3.0, "better")]
)
def test_a_planted_difference_gets_its_verdict_and_its_size(shift: float, verdict: str) -> None:
    (one, *others), of_captions = PAPERS
    first, *rest = beside_the_paper(report({"matching": ((one + shift, *others), of_captions)}), JOINT).published
    assert (first.verdict, first.difference) == (verdict, pytest.approx(shift))
    assert (first.here.low <= first.published <= first.here.high) == (verdict == "equal")
    assert [f.verdict for f in rest if f.direction == "text_to_image"] == ["equal"] * 3


def test_a_frozen_training_is_compared_in_both_heads_and_in_the_sum_of_one_direction() -> None:
    heads = {"matching": PAPERS, "alignment": ((70.0, 0.0, 0.0), (54.7, 20.0, 20.0))}
    found = beside_the_paper(report(heads), "matching-distill-finetune").published
    table = {(f.head, f.direction, f.measure): (f.row, f.published, f.verdict) for f in found}
    assert table == {
        ("alignment", "image_to_text", "Recall@1"): ("A/ft.", 70.0, "equal"),
        ("alignment", "text_to_image", "Recall@1"): ("A/ft.", 54.7, "equal"),
        ("alignment", "text_to_image", "sum of recalls"): ("A/ft.", 224.0, "equal"),  # 54.7 + 74.7 + 94.7 = 224.1
        ("matching", "text_to_image", "sum of recalls"): ("A/ft. + D/ft.", 215.0, "better"),  # 218.0
    }
    here = next(f.here for f in found if f.head == "matching")
    owners = np.repeat(np.arange(IMAGES), 5)
    assert here == mean_estimate(rsum_of_each(ranks(5 * IMAGES, *PAPERS[1])), owners=[owners])


def test_tables_and_json_hold_the_papers_figure_beside_the_one_here() -> None:
    plain = report({"matching": PAPERS})
    assert len(sheets(plain)) == 1
    assert to_json(plain)["published"] == []
    against = beside_the_paper(plain, JOINT)
    text = to_markdown(against)
    first = against.published[0]
    row = f"| D/e2e | matching | image_to_text | Recall@1 | 64.9 | {first.here} | +0.0 | equal | Papers with Code |"
    assert row in text.splitlines()
    assert "Verdict: equal where the paper's figure is within the interval of the one here." in text
    found = json.loads(json.dumps(to_json(against)))["published"][0]
    assert (found["published"], found["here"]["value"], found["verdict"]) == (64.9, pytest.approx(64.9), "equal")


def test_a_row_is_named_by_its_recipe_and_a_sum_agrees_with_its_parts() -> None:
    figures = published_figures()
    for figure in figures:
        assert f"(paper: {figure.row}" in (RECIPES / f"{figure.trainings[0]}.toml").read_text()
    joint = [figure for figure in figures if figure.row == "D/e2e"]
    parts = [figure.value for figure in joint if figure.direction != "both"]
    assert [figure.value for figure in joint if figure.direction == "both"] == [pytest.approx(sum(parts))]


@pytest.mark.parametrize("protocol", ["full", "coco-1k-5fold", "flickr30k", "flickr8k"])
def test_a_protocol_that_the_paper_has_no_figure_for_is_one_sentence(protocol: str) -> None:
    sentence = f"no figure of the paper is known for alignment-triplet by the protocol {protocol}; choose --protocol coco-5k or"
    with pytest.raises(ConfigError, match=sentence):
        figures_of("alignment-triplet", protocol)


def test_a_training_that_the_paper_has_no_figure_for_is_one_sentence() -> None:
    known = "alignment-triplet, matching-distill-finetune, alignment-and-matching-distill"
    with pytest.raises(ConfigError, match=f"no figure of the paper is known for 'matching-triplet-e2e'; choose {known}"):
        figures_of("matching-triplet-e2e", "coco-5k")
