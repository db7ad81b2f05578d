"""Runs side by side: what differs, what each came to, how far each is."""

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as some

import aladin
from aladin.errors import DataError
from aladin.measures import run_comparison
from aladin.measures.run_comparison import compare_runs, sheets, state, to_json, turned
from aladin.measures.run_curves import COLOURS, curves_svg, nice_ticks
from tests.measures.runs import write_run

HASH = "0123456789abcdef" * 4


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs in a folder: one judged by alignment and finished, one by matching that is half way."""
    model = {"training": {"start": {"name": "a", "fingerprint": HASH}}}
    other = {"training": {"start": {"name": "b", "fingerprint": HASH[::-1]}}}
    align = {"seed": 1, "train": ["backbone"], "loss": {"distillation": 0.0}} | model
    both = {"seed": 1, "train": ["backbone", "matching_head"], "loss": {"distillation": 1.0}, "extra": True} | other
    write_run(tmp_path / "runs" / "align", {"matching": [90.0, 80.0], "alignment": [100.0, 300.0]}, align, "alignment")
    write_run(tmp_path / "runs" / "both", {"matching": [310.0, 200.0], "alignment": [250.0, 290.0]}, both, more=2)
    return tmp_path / "runs"


def test_the_example_is_true(runs: Path) -> None:
    found = doctest.testmod(run_comparison, extraglobs={"runs": runs})
    assert (found.attempted, found.failed) == (5, 0)


def test_the_best_validation_is_that_of_the_head_that_decides(runs: Path) -> None:
    align, both = compare_runs(runs).runs
    assert align.best is not None
    assert both.best is not None
    assert (align.best.epoch, align.best.step, align.best.head) == (1, 9, "alignment")
    assert align.best.rsums == {"matching": 80.0, "alignment": 300.0}
    assert (both.best.epoch, both.best.step, both.best.head) == (0, 4, "matching")


def test_only_settings_that_differ_are_listed_and_hashes_of_what_has_another_name_are_not(runs: Path) -> None:
    differing = compare_runs(runs).differing
    assert differing == {
        "epochs": (2, 4),
        "train": (["backbone"], ["backbone", "matching_head"]),
        "loss.distillation": (0.0, 1.0),
        "extra": (None, True),
        "training.start.name": ("a", "b"),
    }


def test_hashes_are_listed_where_names_agree(tmp_path: Path) -> None:
    for name, digest in (("one", HASH), ("two", HASH[::-1])):
        write_run(tmp_path / name, {"matching": [1.0]}, {"training": {"data": {"train": {"name": "t", "digest": digest}}}})
    comparison = compare_runs(tmp_path)
    assert list(comparison.differing) == ["training.data.train.digest"]
    assert sheets(comparison)["Settings that differ"].rows == [("one", HASH[:10]), ("two", HASH[::-1][:10])]


def test_final_losses_are_means_of_the_last_steps(tmp_path: Path) -> None:
    (run,) = compare_runs(write_run(tmp_path / "run", {"matching": [1.0] * 30})).runs
    last = [10 - step / 10 for step in range(50, 150)]
    assert run.final_losses["loss"] == pytest.approx(sum(last) / 100)
    assert run.final_losses["unweighed loss matching"] == pytest.approx(sum(last) / 200)
    assert (run.epoch_seconds, run.peak_memory_gib) == (24.5, 2.0)


def test_a_run_is_finished_when_its_last_step_is_done(runs: Path) -> None:
    align, both = compare_runs(runs).runs
    assert (align.finished, both.finished) == (True, False)
    os.utime(runs / "both" / "log.jsonl", (1_000, 1_000))
    (both,) = compare_runs(runs / "both").runs
    assert [state(both, 1_000.0 + later) for later in (30, 600, 7200, 10**6)] == [
        f"silent {ago}" for ago in ("30 s", "10 min", "2 h", "12 days")
    ]


def test_the_settings_table_is_turned_where_runs_outnumber_settings(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"seed-{seed}", {"matching": [1.0]}, {"seed": seed})
    sheet = sheets(compare_runs(tmp_path))["Settings that differ"]
    assert (sheet.headings, sheet.rows) == (("run", "seed"), [("seed-0", "0"), ("seed-1", "1"), ("seed-2", "2")])


def test_a_table_turned_twice_is_itself(runs: Path) -> None:
    for sheet in sheets(compare_runs(runs)).values():
        again = turned(turned(sheet))
        assert (tuple(again.headings), [tuple(row) for row in again.rows]) == (tuple(sheet.headings), list(sheet.rows))


def test_runs_that_do_not_differ_have_no_table_of_settings(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {"matching": [1.0]})
    assert [title.split(" ")[0] for title in sheets(compare_runs(tmp_path / "run"))] == ["Validation", "Training:"]


def test_a_run_that_does_not_say_who_judges_shows_its_last_validation(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"matching": [300.0, 200.0]})
    (folder / "settings.toml").unlink()
    (run,) = compare_runs(folder).runs
    assert run.best is not None
    assert (run.best.step, run.best.head, run.total_steps, run.finished) == (9, None, None, False)


def test_a_run_before_its_first_step_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"matching": []}, more=3)
    (folder / "log.jsonl").unlink()
    comparison = compare_runs(folder)
    found = sheets(comparison)
    assert next(iter(found.values())).rows == [("run", "-", "-", "-")]
    assert [row[:3] for row in list(found.values())[1].rows] == [("run", "0 of 15", "no step yet")]
    ElementTree.fromstring(curves_svg(comparison))


def test_all_is_in_the_json(runs: Path) -> None:
    table = json.loads(json.dumps(to_json(compare_runs(runs)), allow_nan=False))
    assert [run["name"] for run in table["runs"]] == ["align", "both"]
    assert table["runs"][0]["best"]["rsum"] == {"matching": 80.0, "alignment": 300.0}
    assert [line["matching rsum"] for line in table["runs"][1]["validations"]] == [310.0, 200.0]
    assert table["differing"]["loss.distillation"] == [0.0, 1.0]


def test_names_are_what_tells_the_paths_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, {"matching": [1.0]}) for name in ("x/run", "y/deep/run")]
    assert [run.name for run in compare_runs(*folders).runs] == ["x/run", "y/deep/run"]
    assert [run.name for run in compare_runs(folders[0]).runs] == ["run"]


def test_no_folder_is_refused() -> None:
    with pytest.raises(DataError, match="there is no folder to compare runs of"):
        compare_runs()


def test_runs_are_compared_without_pytorch(runs: Path) -> None:
    code = "import sys, aladin; aladin.compare_runs(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, runs], check=True)
    assert aladin.compare_runs is compare_runs


def test_each_panel_has_a_curve_of_each_run_that_logged_it(runs: Path) -> None:
    picture = ElementTree.fromstring(curves_svg(compare_runs(runs)))
    name = "{http://www.w3.org/2000/svg}"
    panels = {panel.findtext(f"{name}text"): panel for panel in picture.findall(f"{name}g")}
    assert list(panels) == [
        "validation rsum, matching head",
        "validation rsum, alignment head",
        "loss, as it is minimised",
        "matching loss, before its weight",
    ]
    assert [len(panel.findall(f"{name}polyline")) for panel in panels.values()] == [2, 2, 2, 2]
    assert [len(panel.findall(f"{name}circle")) for panel in panels.values()] == [2, 2, 0, 0]


def test_a_higher_rsum_stands_higher_and_a_later_step_further_right(runs: Path) -> None:
    picture = ElementTree.fromstring(curves_svg(compare_runs(runs)))
    panel = picture.findall("{http://www.w3.org/2000/svg}g")[1]
    line = panel.findall("{http://www.w3.org/2000/svg}polyline")[0].attrib["points"]  # alignment of "align": 100, 300
    (x1, y1), (x2, y2) = ([float(number) for number in point.split(",")] for point in line.split(" "))
    assert x1 < x2
    assert y1 > y2


def test_no_two_of_many_runs_look_alike(tmp_path: Path) -> None:
    for number in range(3 * len(COLOURS)):
        write_run(tmp_path / f"{number:02}", {"matching": [1.0, 2.0]})
    picture = ElementTree.fromstring(curves_svg(compare_runs(tmp_path)))
    legend = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert len({(line.attrib["class"], line.attrib.get("stroke-dasharray")) for line in legend}) == 3 * len(COLOURS)


def test_a_name_cannot_break_the_picture(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a<b>&\x1b\udcff", {"matching": [1.0]})
    picture = ElementTree.fromstring(curves_svg(compare_runs(tmp_path / "runs")))
    assert "a<b>&??" in {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}


@given(some.floats(-1e6, 1e6), some.floats(-1e6, 1e6))
def test_ticks_are_few_and_hold_all_values(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
