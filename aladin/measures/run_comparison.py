"""Training runs side by side: which settings differ, what each came to, and by what losses.

>>> import aladin
>>> comparison = aladin.compare_runs(runs)
>>> [run.name for run in comparison.runs]
['align', 'both']
>>> comparison.differing["loss.distillation"]
(0.0, 1.0)
>>> comparison.runs[1].best.head
'matching'
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

from aladin.errors import DataError
from aladin.files import path_of
from aladin.measures.report import Sheet
from aladin.measures.run_logs import Record, RunLog, find_runs, flat_settings, read_run

LAST_STEPS = 100  # whose mean is a final loss: that of one step says little
JOINT = " and "  # in the name of heads that are judged by the sum of their rsums
NAMED = (("fingerprint", "name"), ("digest", "name"))  # settings that say no more where what they belong to has another name


@dataclass(frozen=True)
class Best:
    """The validation that a run's best model comes from."""

    step: int
    epoch: int
    head: str | None  # that decided; None: its run does not say, and the last validation stands here
    rsums: Mapping[str, float]  # of each head that was measured
    measures: Record  # all of that line of the log


@dataclass(frozen=True)
class ComparedRun:
    """What a run came to, so far."""

    name: str
    log: RunLog

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All settings, the code's commit, and what the run is made of, by names such as "loss.alignment"."""
        return flat_settings({key: value for key, value in self.log.settings.items() if key != "plan"})

    @property
    def total_steps(self) -> int | None:
        """How many steps the run is to have; None where its settings do not say."""
        steps = self._plan.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def finished(self) -> bool:
        return self.total_steps is not None and self.log.steps >= self.total_steps

    @cached_property
    def best(self) -> Best | None:
        """The validation with the highest rsum of the judged head, the first of equals; None before the first."""
        if not self.log.validations:
            return None
        judged = self._plan.get("judged_head")
        found = [line for line in self.log.validations if f"{judged} rsum" in line]
        line = max(found, key=lambda line: line[f"{judged} rsum"]) if found else self.log.validations[-1]
        rsums = {name.removesuffix(" rsum"): float(value) for name, value in line.items() if name.endswith(" rsum")}
        return Best(int(line["step"]), int(line.get("epoch", 0)), judged if found else None, rsums, line)

    @property
    def _plan(self) -> Mapping[str, Any]:
        plan = self.log.settings.get("plan")
        return plan if isinstance(plan, Mapping) else {}

    @cached_property
    def final_losses(self) -> dict[str, float]:
        """The mean of each loss over the last steps, by its name in the log: "loss" is what is minimised."""
        last = self.log.losses[-LAST_STEPS:]
        names = dict.fromkeys(name for line in last for name in line if "loss" in name)
        return {name: fmean(line[name] for line in last if name in line) for name in names}

    @cached_property
    def epoch_seconds(self) -> float | None:
        """Of a middling epoch, validation apart."""
        found = [line["epoch_seconds"] for line in self.log.validations if "epoch_seconds" in line]
        return float(median(found)) if found else None

    @cached_property
    def peak_memory_gib(self) -> float | None:
        return max((float(line["peak_memory_gib"]) for line in self.log.validations if "peak_memory_gib" in line), default=None)


@dataclass(frozen=True)
class Comparison:
    """Runs in the order in which they were given."""

    runs: tuple[ComparedRun, ...]

    @cached_property
    def differing(self) -> dict[str, tuple[Any, ...]]:
        """The settings in which the runs differ, by name: the value of each run, None where it has no such setting."""
        names = dict.fromkeys(name for run in self.runs for name in run.settings)
        values = {name: tuple(run.settings.get(name) for run in self.runs) for name in names}
        unlike = {name: each for name, each in values.items() if any(value != each[0] for value in each)}
        said = {f"{name.rpartition('.')[0]}.{less}" for name in unlike for less, more in NAMED if name.endswith(f".{more}")}
        return {name: each for name, each in unlike.items() if name not in said}

    @property
    def heads(self) -> list[str]:
        """The heads that were measured, sums of two left out."""
        found = dict.fromkeys(head for run in self.runs if run.best for head in run.best.rsums)
        return [head for head in found if JOINT not in head]

    @property
    def losses(self) -> list[str]:
        """The losses that were logged, those that can be compared: the sum, and each before its weight."""
        found = dict.fromkeys(name for run in self.runs for name in run.final_losses)
        return sorted((name for name in found if not name.startswith("loss ")), key=lambda name: name != "loss")


def compare_runs(*folders: str | Path) -> Comparison:
    """The runs in these folders, each a run's own or one that holds runs. It needs no PyTorch, and a run may still go on.

    DataError for a folder that is missing or holds no run, or a log that cannot be read. Damaged lines of a log are left out
    and counted.
    """
    if not folders:
        raise DataError("there is no folder to compare runs of; give what was --out of `aladin train`, or a folder of such")
    found = find_runs([path_of("folders", folder) for folder in folders])
    names = _short_names(found)
    return Comparison(tuple(ComparedRun(name, read_run(path)) for name, path in zip(names, found, strict=True)))


def to_json(comparison: Comparison) -> dict[str, Any]:
    """All that is known of the runs, each step's losses apart, which stand in their logs."""
    return {
        "runs": [_run_table(run) for run in comparison.runs],
        "differing": {name: list(values) for name, values in comparison.differing.items()},
    }


def sheets(comparison: Comparison) -> dict[str, Sheet]:
    """Three tables by their titles: settings that differ (if any do), what runs came to, and how they learn."""
    losses = f"Training: the loss, and its parts before their weights, as means over the last {LAST_STEPS} steps"
    found = {"Validation at the best epoch": _validation(comparison), losses: _training(comparison)}
    return ({"Settings that differ": _settings(comparison)} if comparison.differing else {}) | found


def turned(sheet: Sheet) -> Sheet:
    """The same table with its rows as columns."""
    columns = list(zip(sheet.headings, *sheet.rows, strict=True))
    return Sheet(columns[0], columns[1:], sheet.words if len(sheet.words) == len(columns) else frozenset({0}))


def _settings(comparison: Comparison) -> Sheet:
    """A column a run or a column a setting, whichever are fewer."""
    names, values = list(comparison.differing), [map(_shown, each) for each in comparison.differing.values()]
    rows = [(run.name, *row) for run, row in zip(comparison.runs, zip(*values, strict=True), strict=True)]
    sheet = Sheet(("run", *names), rows, frozenset(range(max(len(names), len(rows)) + 1)))
    return sheet if len(names) < len(rows) else turned(sheet)


def _validation(comparison: Comparison) -> Sheet:
    heads = comparison.heads
    rows = []
    for run in comparison.runs:
        best = run.best
        rsums = [best.rsums.get(head) if best else None for head in heads]
        epoch = ("-", "-", "-") if best is None else (f"{best.epoch}", f"{best.step:,}", best.head or "last")
        rows.append((run.name, *epoch, *(_number(rsum, ".1f") for rsum in rsums)))
    return Sheet(("run", "best epoch", "step", "judged by", *(f"{head} rsum" for head in heads)), rows, frozenset({0, 3}))


def _training(comparison: Comparison) -> Sheet:
    rows = []
    for run in comparison.runs:
        steps = f"{run.log.steps:,}" + (f" of {run.total_steps:,}" if run.total_steps is not None else "")
        losses = [_number(run.final_losses.get(name), ".4g") for name in comparison.losses]
        cost = (_number(run.epoch_seconds, ".3g"), _number(run.peak_memory_gib, ".2f"))
        rows.append((run.name, steps, state(run, time.time()), *losses, *cost))
    names = [name.removeprefix("unweighed loss ") for name in comparison.losses]
    return Sheet(("run", "steps", "state", *names, "s/epoch", "GiB"), rows, frozenset({0, 2}))


def state(run: ComparedRun, now: float) -> str:
    """Whether the run is finished; if not, for how long its log has been silent."""
    if run.finished:
        return "finished"
    if run.log.written is None:
        return "no step yet"
    return f"silent {_duration(max(0.0, now - run.log.written))}"


def _run_table(run: ComparedRun) -> dict[str, Any]:
    best, log = run.best, run.log
    return {
        "name": run.name,
        "path": str(log.path),
        "steps": log.steps,
        "total_steps": run.total_steps,
        "finished": run.finished,
        "log_written": log.written,
        "damaged_lines": log.damaged,
        "best": None if best is None else {"step": best.step, "epoch": best.epoch, "head": best.head, "rsum": dict(best.rsums)},
        "final_losses": run.final_losses,
        "epoch_seconds": run.epoch_seconds,
        "peak_memory_gib": run.peak_memory_gib,
        "settings": run.settings,
        "validations": [dict(line) for line in log.validations],
    }


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The paths without what they have in common."""
    whole = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100, links stay as they are named
    common = os.path.commonpath([path.parent for path in whole])
    return [path.relative_to(common).as_posix() for path in whole]


def _shown(value: Any) -> str:
    """A setting as its table shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case list():
            return ", ".join(map(_shown, value)) or "none"
        case str() if re.fullmatch(r"[0-9a-f]{40,64}\+?", value):  # a commit or a digest
            return value[:10] + ("+" if value.endswith("+") else "")
        case _:
            return str(value)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
