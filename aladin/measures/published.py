"""The paper's figures, as public sources have them, beside those of a report.

They stand in paper.toml, each with its source, in the rows of the paper's table. A row names the recipes of recipes/paper/ that
train what it measures.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aladin.config import from_table, read_toml
from aladin.errors import ConfigError
from aladin.measures.recalls import Direction, Estimate
from aladin.measures.report import PublishedComparison, Report, recall_sum

RSUM, RECALL_SUM = "rsum", "sum of recalls"  # of both directions, and of one; the others are names of recalls


@dataclass(frozen=True)
class PublishedFigure:
    """A figure of the paper, in percent."""

    row: str  # of the paper's table
    head: str
    trainings: tuple[str, ...]  # recipes whose model it is of
    protocol: str
    direction: Literal[Direction, "both"]
    measure: str
    value: float
    source: str  # where it was read


@functools.cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """All that are known, in the order of the file."""
    table = read_toml(Path(__file__).with_name("paper.toml"))
    return tuple(
        from_table(
            PublishedFigure,
            figure
            | {"row": row["name"], "head": row["head"], "trainings": row["trainings"]}
            | {"source": table["sources"][figure["source"]]},
        )
        for row in table["row"]
        for figure in row["figures"]
    )


def figures_of(training: str, protocol: str) -> list[PublishedFigure]:
    """Those of one of the paper's trainings by one protocol; ConfigError where there are none."""
    of_training = [figure for figure in published_figures() if training in figure.trainings]
    if not of_training:
        known = dict.fromkeys(name for figure in published_figures() for name in figure.trainings)
        raise ConfigError(f"no figure of the paper is known for {training!r}; choose {', '.join(known)}")
    found = [figure for figure in of_training if figure.protocol == protocol]
    if not found:
        known = dict.fromkeys(figure.protocol for figure in of_training)
        raise ConfigError(
            f"no figure of the paper is known for {training} by the protocol {protocol}; choose --protocol {' or '.join(known)}"
        )
    return found


def beside_the_paper(report: Report, training: str) -> Report:
    """The report with the paper's figures of a training, by the report's protocol, each beside its own.

    ConfigError where the paper has none (`figures_of`).
    """
    return replace(report, published=[*_comparisons(report, training)])


def _comparisons(report: Report, training: str) -> Iterator[PublishedComparison]:
    for figure in figures_of(training, report.subject.protocol):
        here = _estimate(report, figure)
        yield PublishedComparison(
            figure.row,
            figure.head,
            figure.direction,
            figure.measure,
            figure.value,
            here,
            here.value - figure.value,
            "equal" if here.low <= figure.value <= here.high else "better" if here.value > figure.value else "worse",
            figure.source,
        )


def _estimate(report: Report, figure: PublishedFigure) -> Estimate:
    head = report.heads[figure.head]
    if figure.direction == "both":
        return head.rsum
    if figure.measure == RECALL_SUM:
        assert report.queries is not None, "a report of an evaluation has them"
        return recall_sum(report.queries, figure.head, figure.direction)
    return head.directions[figure.direction].recalls[figure.measure]
