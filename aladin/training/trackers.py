"""Where the numbers of a run go beside log.jsonl: TensorBoard always, Weights & Biases and MLflow where asked for.

log.jsonl is the truth, and a tracker a copy of it that is told apart by rows: row 0 is the log's first line. A tracker says
how many rows it has, gets those that it lacks, and none twice. So a run goes on where it was after a kill, a tracker that is
asked for later gets what came before, and so does one whose server was away.
"""

import importlib.util
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aladin.errors import ConfigError
from aladin.files import write_whole
from aladin.measures.run_logs import Record, flat_settings

ASKED_FOR = ("wandb", "mlflow")  # by the names of their packages, which are imported only then
PROJECT = "aladin"  # W&B's project and MLflow's experiment, where their own variables name no other
MLFLOW_SECONDS = 5.0  # between two requests; each costs a step some of its time
MLFLOW_PATIENCE = 300.0  # before the next request after one that failed, which itself may have waited for minutes
MLFLOW_METRICS = 900  # of one request; more than 1,000 are refused
MLFLOW_PARAMS = 100  # likewise
SENTENCE = 200  # characters of theirs that ours repeats


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before its numbers."""

    folder: Path
    settings: Mapping[str, Any]  # the tables of settings.toml, without this machine's paths
    next_step: int  # 0: it begins
    note: Callable[[str], None]  # for a sentence to whoever watches the run

    @property
    def name(self) -> str:
        return self.folder.resolve().name


@runtime_checkable
class Tracker(Protocol):
    """Follows one run."""

    @property
    def rows(self) -> int:
        """How many rows of the log it has from before."""

    def write(self, row: int, record: Record) -> None:
        """The next row; a step's losses and its validation are two rows of one step."""

    def end(self, finished: bool) -> None:
        """The run is over, or was stopped by an error."""


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, run: TrackedRun, logged: int) -> None:
        """`logged` rows were written there before; what was written after them is taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self.rows = logged
        self._writer = SummaryWriter(str(run.folder), purge_step=run.next_step)

    def write(self, row: int, record: Record) -> None:
        for name in record.keys() - {"step", "epoch"}:
            self._writer.add_scalar(name.replace(" ", "_"), record[name], int(record["step"]))

    def end(self, finished: bool) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, its files in the folder's wandb/; where it is offline, a continuation has the whole run."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        kept = _kept_id(run, "wandb")
        try:
            self._run = wandb.init(
                id=kept or uuid.uuid4().hex[:12],
                resume="allow",
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=run.name,
                dir=str(run.folder),
                config=flat_settings(run.settings),
                settings=wandb.Settings(console="off"),  # what the terminal shows is progress alone
            )
        except (wandb.Error, OSError) as error:
            raise ConfigError(
                f"Weights & Biases does not begin: {_first_line(error)}; "
                "check `wandb login` and the network, or set WANDB_MODE=offline"
            ) from None
        _keep_id(run, "wandb", self._run.id)
        # Its own steps only rise, and two rows may be of one step: they count rows, and the run's step is the axis.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self.rows: int = self._run.step

    def write(self, row: int, record: Record) -> None:
        self._run.log({grouped_name(name): value for name, value in record.items()}, step=row)

    def end(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """A run of MLflow, at its tracking URI. Rows are gathered for some seconds; a server that is away ends no training."""

    def __init__(self, run: TrackedRun) -> None:
        import mlflow
        from mlflow.exceptions import MlflowException

        self._client, self._note = mlflow.MlflowClient(), run.note
        kept = _kept_id(run, "mlflow")
        self._waiting: list[tuple[int, Record]] = []
        self._send_at = 0.0
        try:
            self._id = kept or self._new_run(run)
            self._client.update_run(self._id, status="RUNNING")
            self.rows = int(self._client.get_run(self._id).data.tags.get("aladin.rows", 0))
        except MlflowException as error:
            mend = "set MLFLOW_TRACKING_URI to where the run is" if kept else "check MLFLOW_TRACKING_URI"
            raise ConfigError(f"MLflow at {mlflow.get_tracking_uri()} does not begin: {_first_line(error)}; {mend}") from None
        _keep_id(run, "mlflow", self._id)

    def write(self, row: int, record: Record) -> None:
        self._waiting.append((row, record))
        if time.monotonic() >= self._send_at:
            self._send()

    def end(self, finished: bool) -> None:
        from mlflow.exceptions import MlflowException

        self._send()
        try:
            self._client.set_terminated(self._id, "FINISHED" if finished else "FAILED")
        except MlflowException as error:
            self._note(f"MLflow does not answer: {_first_line(error)}")
        if self._waiting:
            self._note(f"MLflow lacks the last {len(self._waiting):,} lines of log.jsonl; the same command again sends them")

    def _new_run(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        new: str = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(key, str(value)) for key, value in flat_settings(run.settings).items()]
        for first in range(0, len(params), MLFLOW_PARAMS):
            self._client.log_batch(new, params=params[first : first + MLFLOW_PARAMS])
        return new

    def _send(self) -> None:
        """What waits, as far as it is taken."""
        from mlflow.entities import RunTag
        from mlflow.exceptions import MlflowException

        now = round(time.time() * 1000)
        wait = MLFLOW_SECONDS
        try:
            while self._waiting:
                metrics, count = _as_metrics(self._waiting, now)
                # The tag goes with them, so that a run that goes on knows what is there.
                self._client.log_batch(self._id, metrics, tags=[RunTag("aladin.rows", str(self._waiting[count - 1][0] + 1))])
                del self._waiting[:count]
        except MlflowException as error:
            wait = MLFLOW_PATIENCE
            self._note(f"MLflow does not take what is logged: {_first_line(error)}; it is kept and sent later")
        self._send_at = time.monotonic() + wait


def check_trackers(names: Sequence[str]) -> None:
    """ConfigError for a tracker that nobody knows or whose package is not installed; asked before hours of work."""
    for name in names:
        if name not in ASKED_FOR:
            raise ConfigError(f"trackers has {name!r}; expected {' or '.join(map(repr, ASKED_FOR))}")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a mere folder of that name, such as W&B makes, is no package
            raise ConfigError(f"the package {name} is not installed; run pip install {name}, or leave {name} out")


@contextmanager
def tracked(run: TrackedRun, names: Sequence[str], logged: Sequence[Record]) -> Iterator[Callable[[Record], None]]:
    """Writes each next record to TensorBoard and to the trackers of these names; `logged` are those before, in the log."""
    made: list[Tracker] = []
    finished = False
    try:
        made.append(TensorBoard(run, len(logged)))
        made += (WeightsAndBiases(run) if name == "wandb" else MLflow(run) for name in dict.fromkeys(names))
        yield followed(made, logged)
        finished = True
    finally:
        for tracker in made:
            tracker.end(finished)


def followed(trackers: Sequence[Tracker], logged: Sequence[Record]) -> Callable[[Record], None]:
    """Gives each tracker the rows that it lacks, and then writes each next record to those that lack it."""
    for tracker in trackers:
        for row in range(tracker.rows, len(logged)):
            tracker.write(row, logged[row])
    had = [(tracker, tracker.rows) for tracker in trackers]
    row = len(logged)

    def write(record: Record) -> None:
        nonlocal row
        for tracker, rows in had:
            if row >= rows:
                tracker.write(row, record)
        row += 1

    return write


def grouped_name(name: str) -> str:
    """A name of the log as W&B and MLflow group and allow it: "matching rsum" is "validation/matching_rsum"."""
    if name in ("step", "epoch"):
        return name
    group = "validation" if name.endswith(" rsum") or "Recall@" in name else "training"
    return f"{group}/{name.replace(' ', '_').replace('@', '_at_')}"


def _as_metrics(waiting: Sequence[tuple[int, Record]], now: int) -> tuple[list[Any], int]:
    """The first rows as MLflow's metrics, as many as one request may have, and how many rows these are."""
    from mlflow.entities import Metric

    metrics: list[Any] = []
    for count, (_, record) in enumerate(waiting):
        found = [Metric(grouped_name(name), float(record[name]), now, int(record["step"])) for name in record if name != "step"]
        if metrics and len(metrics) + len(found) > MLFLOW_METRICS:
            return metrics, count
        metrics += found
    return metrics, len(waiting)


def _ids(run: TrackedRun) -> dict[str, str]:
    path = run.folder / "trackers.json"
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(own) for name, own in ids.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError):
        raise ConfigError(f"{path} cannot be read; delete it to begin new runs in the trackers") from None


def _kept_id(run: TrackedRun, tracker: str) -> str | None:
    """The tracker's own id of a run that goes on; one that begins may be by another recipe than what was there before."""
    return _ids(run).get(tracker) if run.next_step > 0 else None


def _keep_id(run: TrackedRun, tracker: str, own: str) -> None:
    write_whole(run.folder / "trackers.json", json.dumps(_ids(run) | {tracker: own}) + "\n")


def _first_line(error: Exception) -> str:
    line = str(error).strip().split("\n")[0].rstrip(".")
    return line if len(line) <= SENTENCE else f"{line[:SENTENCE]}..."
