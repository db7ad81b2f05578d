"""What follows a run beside its log: each row once, whatever was interrupted. W&B and MLflow run where they are installed."""

import contextlib
import dataclasses
import importlib.util
import json
import re
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from aladin.errors import ConfigError
from aladin.measures.run_logs import Record
from aladin.training import trackers
from aladin.training.recipe import LossConfig, Recipe
from aladin.training.trackers import TensorBoard, TrackedRun, check_trackers, followed, grouped_name
from aladin.training.train import train
from aladin.training.trainer import Trainer
from tests.tiny_learning import FAST, Recorder, few_examples, trainer

RECIPE = Recipe(train=("backbone",), epochs=3, batch_images=4, views=1, precision="fp32", loss=LossConfig(), optimizer=FAST)


def tracker_of_others(test: Callable[..., None]) -> Callable[..., None]:
    """Of a test that runs one: it takes seconds, and its warnings are its own."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore")(test))


class Kept:
    """A tracker that keeps what it is given, from `rows` on."""

    def __init__(self, rows: int = 0) -> None:
        self.rows = rows
        self.given: list[tuple[int, Record]] = []

    def write(self, row: int, record: Record) -> None:
        self.given.append((row, record))

    def end(self, finished: bool) -> None: ...


class Stopped(Recorder):
    """Stops a run before a step, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step_to_stop = step

    def progress(self, what: str, done: int, total: int) -> None:
        if what == "training steps" and done == self.step_to_stop:
            raise KeyboardInterrupt


def records(count: int, first: int = 0) -> list[Record]:
    return [{"step": step, "epoch": 0, "loss": 1.0 / (1 + step)} for step in range(first, first + count)]


def of_folder(folder: Path, next_step: int = 0) -> TrackedRun:
    return TrackedRun(folder, {"seed": 1}, next_step, lambda sentence: None)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@given(had=some.integers(0, 12), logged=some.integers(0, 6), following=some.integers(0, 6))
@few_examples
def test_a_tracker_gets_every_row_that_it_lacks_and_none_twice(had: int, logged: int, following: int) -> None:
    tracker = Kept(had)
    write = followed([tracker], records(logged))
    for record in records(following, logged):
        write(record)
    everything = records(logged + following)
    assert tracker.given == [(row, everything[row]) for row in range(had, logged + following)]


def test_trackers_that_have_unlike_many_rows_are_each_given_their_own() -> None:
    late, early = Kept(0), Kept(5)
    write = followed([late, early], records(3))
    for record in records(3, 3):
        write(record)
    assert [row for row, _ in late.given] == [0, 1, 2, 3, 4, 5]
    assert [row for row, _ in early.given] == [5]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_with_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=f"the package {name} is not installed; run pip install {name}, or leave {name} out"):
        check_trackers([name])


def test_a_mere_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        check_trackers(["wandb"])


def test_an_unknown_tracker_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trackers has 'comet'; expected 'wandb' or 'mlflow'"):
        train("no recipe", "no data", "none", tmp_path / "run", trackers=["comet"])


@pytest.mark.parametrize(
    ("name", "grouped"),
    [
        ("step", "step"),
        ("loss", "training/loss"),
        ("loss ensemble_matching", "training/loss_ensemble_matching"),
        ("matching rsum", "validation/matching_rsum"),
        ("alignment image_to_text Recall@1", "validation/alignment_image_to_text_Recall_at_1"),
    ],
)
def test_names_are_grouped_into_training_and_validation(name: str, grouped: str) -> None:
    assert grouped_name(name) == grouped


def test_tensorboard_takes_back_what_is_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, following in ((0, 6), (4, 4)):  # stopped after 6 rows, 4 of which stand in a checkpoint
        board = TensorBoard(of_folder(tmp_path, first), first)
        write = followed([board], records(first))
        for record in records(following, first):
            write(record)
        board.end(True)
    board_seen = EventAccumulator(str(tmp_path))
    board_seen.Reload()
    assert [event.step for event in board_seen.Scalars("loss")] == list(range(8))


def in_two_parts(folder: Path, asked: tuple[str, ...]) -> Trainer:
    """A run that is stopped in its second epoch and then goes on to its end, followed by trackers."""
    recipe = dataclasses.replace(RECIPE, epochs=4)
    for watcher in (Stopped(3), Recorder()):
        run = trainer(recipe, folder, trackers=asked)
        try:
            run.run(watcher)
        except KeyboardInterrupt:
            assert run.next_step == 3
    return run


@tracker_of_others
def test_mlflow_has_every_row_of_an_interrupted_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = in_two_parts(tmp_path, ("mlflow",))
    client = mlflow.MlflowClient()
    found = client.search_runs([client.get_experiment_by_name("aladin").experiment_id])
    assert [each.info.status for each in found] == ["FINISHED"]
    assert found[0].data.params["batch_images"] == "4"
    for name, column in (("training/loss", "loss"), ("validation/alignment_rsum", "alignment rsum")):
        history = client.get_metric_history(found[0].info.run_id, name)
        expected = [(line["step"], line[column]) for line in lines(run.folder.path) if column in line]
        assert sorted((metric.step, metric.value) for metric in history) == expected


@tracker_of_others
def test_mlflow_asked_for_after_the_run_gets_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    trainer(RECIPE, tmp_path).run(Recorder())
    run = trainer(RECIPE, tmp_path, trackers=("mlflow",))
    run.run(Recorder())
    own = json.loads((run.folder.path / "trackers.json").read_text())["mlflow"]
    history = mlflow.MlflowClient().get_metric_history(own, "training/loss")
    assert sorted(metric.step for metric in history) == list(range(run.total_steps))


@tracker_of_others
def test_mlflow_that_does_not_know_the_run_any_more_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    trainer(RECIPE, tmp_path, trackers=("mlflow",)).run(Recorder())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(
        ConfigError, match=r"MLflow at sqlite.* does not begin: .*; set MLFLOW_TRACKING_URI to where the run is"
    ):
        trainer(RECIPE, tmp_path, trackers=("mlflow",)).run(Recorder())


@tracker_of_others
def test_mlflow_that_is_away_ends_no_run_and_gets_later_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(trackers, "MLFLOW_SECONDS", 0.0)

    class Away(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            if what == "training steps" and done == 2:
                rename_metrics("metrics", "away")

    def rename_metrics(before: str, now: str) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
            database.execute(f"ALTER TABLE {before} RENAME TO {now}")

    watcher = Away()
    trainer(RECIPE, tmp_path, trackers=("mlflow",)).run(watcher)
    assert re.match("MLflow does not take what is logged: .*; it is kept and sent later", watcher.notes[0])
    assert re.search(r"MLflow lacks the last 7 lines of log.jsonl", watcher.notes[-1])
    rename_metrics("away", "metrics")
    run = trainer(RECIPE, tmp_path, trackers=("mlflow",))
    run.run(Recorder())
    own = json.loads((run.folder.path / "trackers.json").read_text())["mlflow"]
    history = mlflow.MlflowClient().get_metric_history(own, "training/loss")
    assert sorted(metric.step for metric in history) == list(range(run.total_steps))


@tracker_of_others
def test_wandb_offline_has_the_whole_run_in_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = in_two_parts(tmp_path, ("wandb",))
    own = json.loads((run.folder.path / "trackers.json").read_text())["wandb"]
    parts = sorted((run.folder.path / "wandb").glob(f"offline-run-*/run-{own}.wandb"))
    assert len(parts) == 2
    assert wandb_rows(parts[-1]) == list(range(len(lines(run.folder.path))))


def wandb_rows(file: Path) -> list[int]:
    """The steps of the history in a file of W&B, whose records stand in blocks as in LevelDB's log."""
    from wandb.proto import wandb_internal_pb2 as protocol

    content = file.read_bytes()
    rows, position, record = [], 7, b""  # after the file's own mark
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:  # too little for a header: the block ends
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            read = protocol.Record.FromString(record)
            if read.WhichOneof("record_type") == "history":
                rows.append(read.history.step.num)
            record = b""
    return rows
