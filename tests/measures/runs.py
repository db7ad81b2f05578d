"""Folders of runs with logs whose figures can be seen by eye."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

STEPS_PER_EPOCH = 5


def write_run(
    folder: Path,
    rsums: Mapping[str, list[float]],
    settings: Mapping[str, Any] | None = None,
    judged: str = "matching",
    more: int = 0,
) -> Path:
    """A run of an epoch for each value of `rsums`, which has those of each head, and of `more` epochs that are still to come.

    The loss of step n is 10 - n / 10, and twice its matching loss.
    """
    folder.mkdir(parents=True)
    epochs = len(next(iter(rsums.values()), []))
    plan = {"steps": (epochs + more) * STEPS_PER_EPOCH, "judged_head": judged}
    (folder / "settings.toml").write_text(tomli_w.dumps({"epochs": epochs + more, **(settings or {}), "plan": plan}))
    lines = []
    for epoch in range(epochs):
        for step in range(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH):
            loss = 10 - step / 10
            lines.append(
                {"step": step, "epoch": epoch, "loss": loss, "loss matching": loss, "unweighed loss matching": loss / 2}
            )
        found = {f"{head} rsum": values[epoch] for head, values in rsums.items()}
        lines.append(
            {"step": step, "epoch": epoch, **found, "epoch_seconds": 10.0 + epoch, "peak_memory_gib": 2.0 - epoch / 10}
        )
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
