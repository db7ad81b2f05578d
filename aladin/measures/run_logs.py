"""A training run as its folder tells it: settings.toml and log.jsonl, read without PyTorch and also while the run goes on."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aladin.config import read_toml
from aladin.errors import DataError

Record = Mapping[str, int | float]  # one line of the log
LOG, SETTINGS = "log.jsonl", "settings.toml"


@dataclass(frozen=True)
class RunLog:
    """What stands in the folder of a run."""

    path: Path
    settings: Mapping[str, Any]  # the tables of settings.toml; none where that is missing
    losses: Sequence[Record]  # the lines of steps, in their order
    validations: Sequence[Record]  # the lines of validations, in their order; a step may have one of each
    damaged: int = 0  # lines that are none; a half last line is the sign of a kill, and not counted
    written: float | None = None  # when the log was written last, in seconds since 1970; None: not yet

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return max((int(some[-1]["step"]) + 1 for some in (self.losses, self.validations) if some), default=0)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The folders of runs: each path that is one, and those inside each that is not, by name; each once.

    DataError for a path that is no folder, or that neither is a run nor holds one.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(f"there is no folder {path}; give what was --out of `aladin train`, or a folder of such")
        runs = _runs_inside(path)
        if not runs:
            raise DataError(
                f"{path} holds no run, neither {SETTINGS} nor {LOG}; give what was --out of `aladin train`, or a folder of such"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_run(path: Path) -> RunLog:
    """The run in a folder. DataError for a file that cannot be read, ConfigError for settings that are no TOML."""
    settings = read_toml(path / SETTINGS) if (path / SETTINGS).exists() else {}
    log = path / LOG
    try:
        content, written = log.read_bytes(), log.stat().st_mtime
    except FileNotFoundError:
        return RunLog(path, settings, (), ())
    except OSError as error:
        raise DataError(f"{log} cannot be read: {error.strerror}") from None
    lines = content.split(b"\n")
    records = [record_of(line) for line in lines[:-1]]
    last = record_of(lines[-1])  # a whole one whose line end is missing, a half one, or nothing
    whole = [record for record in (*records, last) if record is not None]
    losses = [record for record in whole if "loss" in record]
    validations = [record for record in whole if "loss" not in record]
    return RunLog(path, settings, losses, validations, records.count(None), written)


def record_of(line: bytes) -> Record | None:
    """The record of a line of the log; None for a line that is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    numbers = isinstance(record, dict) and all(type(n) in (int, float) and math.isfinite(n) for n in record.values())
    return record if numbers and type(record.get("step")) is int and record["step"] >= 0 else None


def flat_settings(table: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The settings of nested tables by names such as "loss.alignment"; tables of a list by their kind or name, else number."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value):
                flat |= flat_settings(item, f"{name}.{item.get('kind', item.get('name', number))}.")
        else:
            flat[name] = value
    return flat


def _runs_inside(path: Path) -> list[Path]:
    runs = []
    for folder, inner, files in os.walk(path):
        if {LOG, SETTINGS} & set(files):
            runs.append(Path(folder))
            inner.clear()
        inner[:] = sorted(name for name in inner if not name.startswith("."))
    return runs
