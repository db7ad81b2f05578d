"""`aladin runs`: tables and JSON on stdout, curves in a file, damage in the exit code."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aladin.cli import main
from tests.measures.runs import write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / "one", {"matching": [250.5, 240.0]}, {"seed": 1})
    write_run(tmp_path / "runs" / "two", {"matching": [260.5, 280.0]}, {"seed": 2}, more=1)
    return tmp_path / "runs"


def exit_code(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["runs", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_tables_show_what_differs_and_what_runs_came_to(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(runs) == 0
    printed, said = capsys.readouterr()
    rows = [line.split() for line in printed.splitlines()]
    assert ["seed", "1", "2"] in rows
    assert ["one", "0", "4", "matching", "250.5"] in rows
    assert ["two", "1", "9", "matching", "280.0"] in rows
    assert ["one", "10", "of", "10", "finished", "9.55", "4.775", "10.5", "2.00"] in rows
    assert said == ""


def test_json_is_one_object(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(runs / "two", runs / "one", "--json") == 0
    assert [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["two", "one"]


def test_curves_are_a_picture(runs: Path, tmp_path: Path) -> None:
    assert exit_code(runs, "--curves", tmp_path / "runs.svg") == 0
    assert ElementTree.parse(tmp_path / "runs.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("runs.png", "a file that ends in .svg"),
        ("none/runs.svg", "there is no folder"),
        ("folder.svg", "cannot be written"),
    ],
)
def test_a_file_that_curves_cannot_go_to_is_named(
    runs: Path, tmp_path: Path, file: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.svg").mkdir()
    assert exit_code(runs, "--curves", tmp_path / file) == 1
    assert sentence in capsys.readouterr().err


def test_damaged_lines_are_counted_and_the_rest_is_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = runs / "one" / "log.jsonl"
    log.write_text("{broken\n" + log.read_text() + '{"step": 9, "lo')
    assert exit_code(runs) == 1
    printed, said = capsys.readouterr()
    assert "250.5" in printed
    assert said == f"{log} has 1 damaged line, left out here\n"


def test_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(tmp_path) == 1
    assert f"aladin: {tmp_path} holds no run" in capsys.readouterr().err


def test_no_folder_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code() == 2
    assert "Missing argument 'DIR...'" in capsys.readouterr().err
