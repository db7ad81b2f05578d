"""What an evaluation found, as a value and as JSON, Markdown or a table."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from aladin.measures import DIRECTIONS, RECALLS, Direction, Estimate, MedianRank, Ranks, mean_estimate, rsum_of_each

HEADINGS = ("head", "direction", "queries", *map(str, RECALLS), str(MedianRank()), "rsum")
NOTES = (
    "Recalls in percent, 95 % bootstrap intervals in brackets (queries drawn again). A tie counts against the right answer.",
    "Two-stage: the k best by matching, re-ranked by alignment.",
)


@dataclass(frozen=True)
class DirectionFigures:
    """The figures of one head in one direction."""

    queries: int
    recalls: Mapping[str, Estimate]  # Recall@1 and so on
    median_rank: float


@dataclass(frozen=True)
class HeadFigures:
    """The figures of one way of scoring; for the interval of rsum the directions are drawn again independently."""

    directions: Mapping[Direction, DirectionFigures]
    rsum: Estimate


@dataclass(frozen=True)
class Subject:
    """What was measured."""

    model: str
    data: str
    split: str | None  # None: all
    images: int
    captions: int
    rerank: int  # the k of two-stage; 0: not measured
    precision: str

    def __str__(self) -> str:
        data = f"{self.data}, split {self.split}" if self.split else self.data
        counts = f"{self.images:,} images, {self.captions:,} captions"
        return f"model {self.model} ({self.precision}) on {data}: {counts}, k = {self.rerank}"


@dataclass(frozen=True)
class Report:
    """All figures of a model on a data set."""

    subject: Subject
    heads: Mapping[str, HeadFigures]
    seconds: Mapping[str, float]  # of each stage


def head_figures(ranks: Mapping[Direction, Ranks]) -> HeadFigures:
    """The figures that follow from the ranks of right answers in both directions."""
    directions = {
        direction: DirectionFigures(
            len(ranks[direction]),
            {str(recall): mean_estimate(recall.of_each(ranks[direction])) for recall in RECALLS},
            MedianRank()(ranks[direction]),
        )
        for direction in DIRECTIONS
    }
    return HeadFigures(directions, mean_estimate(*(rsum_of_each(ranks[direction]) for direction in DIRECTIONS)))


def to_json(report: Report) -> dict[str, Any]:
    """Plain values only, every figure unrounded."""
    return dataclasses.asdict(report)


def to_markdown(report: Report) -> str:
    """The table with its notes, to paste into a document."""
    ruler = ["---" if number < 2 else "---:" for number in range(len(HEADINGS))]
    rows = [HEADINGS, ruler, *_rows(report)]
    lines = [str(report.subject), "", *(f"| {' | '.join(row)} |" for row in rows), "", *NOTES, "", _seconds(report)]
    return "\n".join(lines)


def to_table(report: Report) -> Table:
    """For a terminal, or as plain text elsewhere."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number < 2 else "right")
    for row in _rows(report):
        table.add_row(*row)
    return table


def notes(report: Report) -> str:
    """How to read the table, and how long it took."""
    return "\n".join((*NOTES, _seconds(report)))


def _rows(report: Report) -> list[tuple[str, ...]]:
    return [
        (
            name,
            direction,
            f"{figures.queries:,}",
            *map(str, figures.recalls.values()),
            f"{figures.median_rank:g}",
            # It belongs to both directions, so it is said once.
            str(head.rsum) if direction == DIRECTIONS[0] else "",
        )
        for name, head in report.heads.items()
        for direction, figures in head.directions.items()
    ]


def _seconds(report: Report) -> str:
    return "Seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items())
