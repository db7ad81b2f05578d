"""The folder of a run: its settings, its log, its checkpoint and the best model so far."""

import contextlib
import functools
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from aladin.config import read_toml, to_table
from aladin.datasets import DataOrigin
from aladin.errors import ConfigError, ModelError
from aladin.files import write_whole
from aladin.measures.run_logs import Record, record_of
from aladin.network.checkpoints import save_model
from aladin.network.model import Aladin
from aladin.network.weights import save_weights
from aladin.old_names import present_origins
from aladin.training.recipe import Recipe, recipe_of
from aladin.training.trackers import TrackedRun, tracked


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes; `origins` is what it is made of (`origins_of`)."""

    path: Path
    recipe: Recipe
    origins: Mapping[str, Any]
    trackers: tuple[str, ...] = ()  # that follow the run beside TensorBoard: names of aladin.training.trackers

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The model folder of the epoch that was best so far."""
        return self.path / "best"

    def begin(self, model: Aladin, plan: Mapping[str, int | str]) -> None:
        """Make the folder, and write what the run is: settings.toml. `plan` is what follows from recipe and data."""
        import tomli_w

        self.path.mkdir(parents=True, exist_ok=True)
        settings = {"commit": commit()} | to_table(self.recipe) | {"model": to_table(model.config)}
        settings |= {"plan": dict(plan), "training": dict(self.origins)}
        write_whole(self.path / "settings.toml", tomli_w.dumps(settings))

    @contextlib.contextmanager
    def log(self, next_step: int, note: Callable[[str], None]) -> Iterator[Callable[[Record], None]]:
        """Writes one record a line to log.jsonl, and its numbers to TensorBoard and other trackers, from a step on.

        What a killed run logged after its last checkpoint is forgotten, since it is done again.
        """
        path = self.path / "log.jsonl"
        logged = _forget_steps(path, next_step)
        # Trackers may be anybody's: they get the names of teachers' folders, not their paths.
        settings = read_toml(self.path / "settings.toml")
        settings |= {"teacher": to_table(self.recipe.without_paths())["teacher"]}
        run = TrackedRun(self.path, settings, next_step, note)
        with path.open("a", encoding="utf-8") as file, tracked(run, self.trackers, logged) as track:

            def write(record: Record) -> None:
                file.write(json.dumps(record) + "\n")
                file.flush()
                track(record)

            yield write

    def save_best(self, model: Aladin, tokenizer: Path, epoch: int) -> None:
        """Put this epoch's model in the place of the best one before."""
        recipe = to_table(self.recipe.without_paths())
        details = {"epoch": epoch, "commit": commit(), "recipe": recipe} | dict(self.origins)
        save_model(model, tokenizer, self.best, {"training": details})

    def save_checkpoint(self, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """The state of the run, whole or not at all."""
        own = {"recipe": json.dumps(to_table(self.recipe)), "origins": json.dumps(self.origins)}
        contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
        save_weights(contiguous, self.checkpoint, own | dict(metadata))

    def read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """State and metadata of the last checkpoint, None before the first. ConfigError if it belongs to another run."""
        if not self.checkpoint.exists():
            return None
        check_same_run(self.path, self.recipe, self.origins)
        return load_file(self.checkpoint), _metadata(self.checkpoint)

    def of_another(self, what: str) -> ConfigError:
        """The error of a checkpoint that belongs to another run."""
        return ConfigError(f"{self.checkpoint} belongs to {what}; {_anew(self.path)}")


def origins_of(start: Mapping[str, Any], train: DataOrigin | None, val: DataOrigin | None) -> dict[str, Any]:
    """What a run is made of, as tables and as far as it is known: "start", "teachers" and "data"."""
    return {**start, "data": {name: data.table() for name, data in (("train", train), ("val", val)) if data is not None}}


def check_same_run(out: Path, recipe: Recipe, origins: Mapping[str, Any]) -> None:
    """ConfigError if the folder `out` holds a run by another recipe, from another start or on other images.

    It can be asked before features are computed, which may take hours.
    """
    path = out / "checkpoint.safetensors"
    if not path.exists():
        return
    metadata = _metadata(path)
    # Compared as recipes, so that a setting which a later version adds does not end a run that stands at its default.
    if recipe_of(json.loads(metadata["recipe"]), str(path)) != recipe:
        raise ConfigError(f"{path} belongs to another recipe; {_anew(out)}")
    # Checkpoints of version 0.1's first days do not say.
    if other := _difference(present_origins(json.loads(metadata.get("origins", "{}"))), origins):
        raise ConfigError(f"{path} belongs to a run {other}; {_anew(out)}")


@functools.cache
def commit() -> str:
    """The commit of the code that runs, with "+" if files were changed since; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.returncode else "")


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}; delete it to start the run anew") from None
    return metadata


def _anew(out: Path) -> str:
    return f"give another --out, or delete {out} to start anew"


def _forget_steps(log: Path, start: int) -> list[Record]:
    """Leaves out of the log what follows step `start`; what stays."""
    if not log.exists():
        return []
    lines = log.read_bytes().splitlines(keepends=True)
    found = [(line, record_of(line)) for line in lines if line.endswith(b"\n")]
    kept = [(line, record) for line, record in found if record is not None and record["step"] < start]
    write_whole(log, b"".join(line for line, _ in kept).decode())
    return [record for _, record in kept]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of a run's origins is not what it was, as far as both say; "" if nothing."""
    for what, was, found in _models_of_both(before, now):
        if [model["fingerprint"] for model in was] != [model["fingerprint"] for model in found]:
            return f"with another {what}, {_named_with_weights(was)}, not {_named_with_weights(found)}"
    for what, images in (("train", "training images"), ("val", "validation images")):
        if what in before.get("data", {}) and what in now["data"]:
            was, found = before["data"][what], now["data"][what]
            if was["digest"] != found["digest"]:
                before_and_now = f"{was['images']:,} of {was['name']}, not these {found['images']:,} of {found['name']}"
                return f"on other {images}, {before_and_now}"
    return ""


def _models_of_both(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """The start and each teacher that both name: what it is called, its models then, its models now."""
    if "start" in before and "start" in now:
        yield "start", [before["start"]], [now["start"]]
    was, found = before.get("teachers", {}), now.get("teachers", {})
    for kind in was:
        if kind in found:
            yield f"teacher of kind {kind}", was[kind]["models"], found[kind]["models"]


def _named_with_weights(models: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(f"{model['name']} (weights {model['fingerprint'][:12]})" for model in models)
