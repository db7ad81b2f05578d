import io
import json

import numpy as np
import pytest
from rich.console import Console

from aladin.measures.judgements import Agreement
from aladin.measures.recalls import DIRECTIONS, RECALLS, mean_estimate
from aladin.measures.report import (
    QueryValues,
    Report,
    Subject,
    full_report,
    head_figures,
    notes,
    query_values,
    to_json,
    to_markdown,
    to_tables,
)

RANKS = {"image_to_text": np.array([1, 2, 40]), "text_to_image": np.array([1, 1, 6, 7, 3, 1])}


@pytest.fixture
def report() -> Report:
    subject = Subject("lite", "photos.zip", "val", 3, 6, 100, "fp32")
    return Report(subject, {"matching": head_figures(RANKS), "alignment": head_figures(RANKS)}, {"images": 1.25})


def test_the_figures_are_those_of_the_ranks() -> None:
    figures = head_figures(RANKS)
    assert {d: f.queries for d, f in figures.directions.items()} == {"image_to_text": 3, "text_to_image": 6}
    assert {d: f.median_rank for d, f in figures.directions.items()} == {"image_to_text": 2.0, "text_to_image": 2.0}
    for direction, of_direction in figures.directions.items():
        values = [of_direction.recalls[str(recall)].value for recall in RECALLS]
        assert values == [recall(RANKS[direction]) for recall in RECALLS]
    assert figures.rsum.value == pytest.approx(sum(recall(RANKS[d]) for d in DIRECTIONS for recall in RECALLS))
    assert figures.rsum.low < figures.rsum.value < figures.rsum.high


def test_the_same_ranks_always_print_the_same_intervals() -> None:
    assert head_figures(RANKS) == head_figures(RANKS)


def test_json_holds_every_figure_by_name(report: Report) -> None:
    table = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert table["subject"] == {
        "model": "lite",
        "data": "photos.zip",
        "split": "val",
        "images": 3,
        "captions": 6,
        "rerank": 100,
        "precision": "fp32",
        "protocol": "full",
        "digest": "",
        "cross_encoder": 0,
        "cross_encoder_model": "",
        "aladin": "",
        "fingerprint": "",
        "cross_encoder_fingerprint": "",
    }
    recall = table["heads"]["alignment"]["directions"]["text_to_image"]["recalls"]["Recall@1"]
    assert recall == {"value": 50.0, "low": pytest.approx(recall["low"]), "high": pytest.approx(recall["high"])}
    assert set(table["heads"]["matching"]["rsum"]) == {"value", "low", "high"}
    assert table["seconds"] == {"images": 1.25}


def test_markdown_is_a_table_of_heads_and_directions(report: Report) -> None:
    lines = to_markdown(report).splitlines()
    assert lines[0] == "model lite (fp32) on photos.zip, split val: 3 images, 6 captions, k = 100"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["head", "direction", "queries", "Recall@1", "Recall@5", "Recall@10", "median rank", "rsum"]
    assert [row[:3] for row in rows[2:4]] == [["matching", "image_to_text", "3"], ["matching", "text_to_image", "6"]]
    assert len({len(row) for row in rows}) == 1
    assert rows[2][3].startswith("33.3 (")
    assert "A tie counts against the right answer." in to_markdown(report)


def test_the_table_is_plain_text_where_there_is_no_terminal(report: Report) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(*to_tables(report))
    heading, *rows = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert heading.split()[:2] == ["head", "direction"]
    assert [row.split()[:3] for row in rows[:2]] == [["matching", "image_to_text", "3"], ["matching", "text_to_image", "6"]]
    assert "Seconds: images 1.2" in notes(report)


@pytest.fixture
def full() -> Report:
    judged = {"alignment": {"text_to_image": {"NDCG@25 (SPICE)": np.array([50.0, np.nan, 33.3333, 0.0, 100.0, np.nan])}}}
    subject = Subject("lite", "photos.zip", "val", 3, 6, 0, "fp32", "flickr8k", "d1")
    queries = QueryValues([2, 2, 2], {"alignment": RANKS}, judged, {"NDCG@25 (SPICE)": "file of SHA-256 ab"})
    return full_report(subject, queries, {"images": 1.25}, {"alignment": Agreement("expert", 10, 30, 0.25, 0.1234)})


def test_judged_measures_have_their_own_queries_and_intervals(full: Report) -> None:
    values = np.array([50.0, 33.3333, 0.0, 100.0])
    assert [(figure.head, figure.direction, figure.queries, figure.measure) for figure in full.judged] == [
        ("alignment", "text_to_image", 4, "NDCG@25 (SPICE)")
    ]
    assert full.judged[0].value == mean_estimate(values, owners=[np.array([0, 1, 1, 2])])
    text = to_markdown(full)
    assert f"| alignment | text_to_image | 4 | NDCG@25 (SPICE) | {full.judged[0].value} |" in text
    assert "| alignment | expert | 10 | 30 | 0.250 | 0.123 |" in text
    assert "protocol flickr8k, 3 images" in text
    assert len(to_tables(full)) == 3


def test_what_was_found_for_each_query_is_read_back_as_it_was_written(full: Report) -> None:
    table = json.loads(json.dumps(to_json(full), allow_nan=False))
    assert table["queries"]["ranks"]["alignment"]["image_to_text"] == "1 2 40"
    assert table["agreements"]["alignment"]["tau_b"] == 0.25
    assert full.queries is not None
    found = query_values(table["queries"])
    for direction in DIRECTIONS:
        assert found.ranks["alignment"][direction].tolist() == full.queries.ranks["alignment"][direction].tolist()
    assert found.judged["alignment"]["image_to_text"] == {}
    assert found.judged["alignment"]["text_to_image"]["NDCG@25 (SPICE)"].tolist() == pytest.approx(
        [50.0, np.nan, 33.3333, 0.0, 100.0, np.nan], nan_ok=True
    )
    assert found.captions_of_each == [2, 2, 2]
    assert found.origins == full.queries.origins
