"""The README.md of an exported model folder: where the model is from, its figures, and how they were measured."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aladin.datasets import Dataset
from aladin.measures.recalls import Estimate
from aladin.measures.report import Report, to_markdown
from aladin.old_names import present_recipe

HASH_DIGITS = 12  # of a fingerprint or commit that are shown
LOSSES = ("alignment", "matching", "distillation", "cross_encoder", "entropy", "hidden_l1")  # weights in a recipe's [loss]
STUDENTS = ("alignment", "matching")  # weights in its [[teacher]] tables
STORED = {
    "int8": "Weights are stored in int8; the transformer's matrices are multiplied in int8, all else is computed in fp32.",
    "fp16": "Weights are stored in fp16; everything is computed in fp32.",
    "fp32": "Weights are stored and everything is computed in fp32.",
}


@dataclass(frozen=True)
class Parity:
    """How far the exported graphs are from PyTorch, on validation data."""

    cosine: float  # least cosine between a vector of the fp32 graphs and PyTorch's
    rsum_loss: Mapping[str, Estimate]  # PyTorch's rsum less the written graphs', for each head; negative where they gained
    remark: str = ""  # what a reader of these figures should know

    @property
    def losses(self) -> str:
        """The losses with their intervals, by head."""
        shown = ((head, f"{loss.value:+.2f} ({loss.low:+.2f} to {loss.high:+.2f})") for head, loss in self.rsum_loss.items())
        return ", ".join(f"{head} {loss}" for head, loss in shown)


def model_card(report: Report, parity: Parity, data: Dataset, origin: Mapping[str, Any], notes: str) -> str:
    """The card as Markdown, with the command that measures the same on `data`."""
    subject = report.subject
    command = shlex.join(("aladin", "evaluate", subject.model, *_arguments(data), "--rerank", str(subject.rerank)))
    return "\n".join(
        (
            f"# {subject.model}: an aladin model",
            "",
            notes.strip(),
            "",
            *_origin(origin),
            "## Figures",
            f"Measured on this folder as it stands by aladin {subject.aladin}, by the command (beside folder and data)",
            f"`{command}`.",
            "",
            to_markdown(report),
            "",
            "## Parity with PyTorch",
            f"Least cosine between vectors of the full-precision graphs and PyTorch's: {parity.cosine:.6f}. "
            f"{STORED[subject.precision]} That costs of rsum, by head, with 95 % bootstrap intervals (images drawn again): "
            f"{parity.losses}.",
            *([f"Mind that {parity.remark}."] if parity.remark else []),
            "",
        )
    )


def _arguments(data: Dataset) -> tuple[str, ...]:
    """Those by which `aladin evaluate` reads the data again."""
    named = ((f"--{option}", value) for option, value in (("split", data.split), ("images", data.images)) if value)
    return (data.name, *(word for pair in named for word in pair), *(["--skip-bad"] if data.skipped else []))


def _origin(tables: Mapping[str, Any]) -> list[str]:
    """A line for each table of the model's provenance, and one for each model of a mean; nothing where there is none."""
    if not tables:
        return []
    lines = []
    for name, table in tables.items():
        models = table.get("models", [])
        rest = {key: value for key, value in table.items() if key != "models"}
        lines += [
            f"- {name.replace('_', ' ')}: {_told(rest) or 'of these models'}",
            *(f"  - {_told(model)}" for model in models),
        ]
    return ["## Where it is from", *lines, "", "More of it stands in model.toml.", ""]


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = ((key, _recipe(inner) if key == "recipe" else inner) for key, inner in value.items())
        return ", ".join(_told(inner) if key == "name" else _named(key, inner) for key, inner in parts)
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    text = str(value)
    return text[:HASH_DIGITS] if len(text) >= 40 and set(text) <= set("0123456789abcdef") else text


def _named(key: str, value: Any) -> str:
    told = f"({_told(value)})" if isinstance(value, Mapping | list) else _told(value)
    return f"{key.replace('_', ' ')} {told}"


def _recipe(table: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe tells most: the parts that learn, by which losses, for how long."""
    present = present_recipe(table)
    weights = present.get("loss", {})
    losses = {name: weights[name] for name in LOSSES if weights.get(name)}
    for teacher in present.get("teacher", []):
        losses |= {f"{teacher['kind']}_{student}": teacher[student] for student in STUDENTS if teacher.get(student)}
    kept = {name: table[name] for name in ("train", "epochs", "seed") if name in table}
    return kept | ({"losses": losses} if losses else {})
