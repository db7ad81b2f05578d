"""The folder of a run, read while it goes on, after a kill, and where it is damaged."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aladin.errors import ConfigError, DataError
from aladin.measures.run_logs import find_runs, flat_settings, read_run, record_of
from tests.measures.runs import write_run


def test_lines_are_parted_into_losses_and_validations(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", {"matching": [100.0, 200.0]}))
    assert [line["step"] for line in run.losses] == list(range(10))
    assert [(line["step"], line["matching rsum"]) for line in run.validations] == [(4, 100.0), (9, 200.0)]
    assert (run.steps, run.damaged) == (10, 0)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_half_last_line_is_no_damage(tmp_path: Path, cut: int) -> None:
    folder = write_run(tmp_path / "run", {"matching": [100.0]})
    log = folder / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-cut])
    run = read_run(folder)
    assert (len(run.losses), run.damaged) == (5, 0)
    assert len(run.validations) == (1 if cut == 1 else 0)


@pytest.mark.parametrize(
    "line", [b"\x00\x00\x00", b"{", b"[1]", b"{}", b'{"step": "1"}', b'{"step": -1}', b'{"step": 1, "loss": NaN}', b"\xff", b""]
)
def test_a_line_that_is_no_record_is_left_out_and_counted(tmp_path: Path, line: bytes) -> None:
    folder = write_run(tmp_path / "run", {"matching": [100.0]})
    log = folder / "log.jsonl"
    log.write_bytes(line + b"\n" + log.read_bytes())
    run = read_run(folder)
    assert (len(run.losses), len(run.validations), run.damaged) == (5, 1, 1)


@given(some.binary(max_size=60))
def test_no_line_ends_the_reading(line: bytes) -> None:
    found = record_of(line)
    assert found is None or found["step"] >= 0


def test_a_run_without_a_step_is_one_of_no_steps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"matching": [1.0]})
    (folder / "log.jsonl").unlink()
    run = read_run(folder)
    assert (run.steps, run.written, run.settings["epochs"]) == (0, None, 1)


def test_settings_that_are_no_toml_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"matching": [1.0]})
    (folder / "settings.toml").write_text("epochs = = 2")
    with pytest.raises(ConfigError, match=r"settings\.toml"):
        read_run(folder)


def test_runs_are_found_at_any_depth_by_name_and_once(tmp_path: Path) -> None:
    for name in ("b", "a", "paper/align", ".hidden/run"):
        write_run(tmp_path / "runs" / name, {"matching": [1.0]})
    (tmp_path / "runs" / "a" / "best").mkdir()
    found = find_runs([tmp_path / "runs" / "b", tmp_path / "runs"])
    assert [path.relative_to(tmp_path / "runs").as_posix() for path in found] == ["b", "a", "paper/align"]


def test_a_folder_that_is_missing_or_holds_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*/none"):
        find_runs([tmp_path / "none"])
    with pytest.raises(DataError, match=r"holds no run, neither settings\.toml nor log\.jsonl; give what was --out"):
        find_runs([tmp_path])


def test_settings_have_one_name_each() -> None:
    table = {"seed": 1, "loss": {"margin": 0.2}, "train": ["backbone"], "teacher": [{"kind": "ensemble", "alignment": 1.0}]}
    assert flat_settings(table) == {
        "seed": 1,
        "loss.margin": 0.2,
        "train": ["backbone"],
        "teacher.ensemble.kind": "ensemble",
        "teacher.ensemble.alignment": 1.0,
    }
