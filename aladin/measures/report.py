"""What an evaluation found, as a value and as JSON, Markdown or a table."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int
from rich.table import Table

from aladin.measures.judgements import Agreement
from aladin.measures.recalls import DIRECTIONS, RECALLS, Direction, Estimate, MedianRank, Ranks, mean_estimate, rsum_of_each
from aladin.old_names import renamed_head

JUDGED_HEADINGS = ("head", "direction", "queries", "measure", "value")
PUBLISHED_HEADINGS = ("row", "head", "direction", "measure", "paper", "here", "difference", "verdict", "read in")
AGREEMENT_HEADINGS = ("head", "judges", "pairs", "ratings", "tau-b", "tau-c")
HEADINGS = ("head", "direction", "queries", *map(str, RECALLS), str(MedianRank()), "rsum")
NOTES = (
    "Recalls in percent, 95 % bootstrap intervals in brackets (images drawn again, with all their captions). "
    "A tie counts against the right answer.",
    "Two-stage: the k best by matching, re-ranked by alignment.",
)
CROSS_ENCODER_NOTE = "Cross-encoder: the n best of two stages, each read together with the query."
PUBLISHED_NOTE = "Verdict: equal where the paper's figure is within the interval of the one here."


@dataclass(frozen=True)
class DirectionFigures:
    """The figures of one head in one direction."""

    queries: int
    recalls: Mapping[str, Estimate]  # Recall@1 and so on
    median_rank: float


@dataclass(frozen=True)
class HeadFigures:
    """The figures of one way of scoring."""

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
    protocol: str = "full"
    digest: str = ""  # of images and captions, as protocols.digest gives it
    cross_encoder: int = 0  # the n of its stage; 0: not measured
    cross_encoder_model: str = ""  # whose cross-encoder read them
    aladin: str = ""  # the version that measured
    fingerprint: str = ""  # of the model's weights, as network.checkpoints.fingerprint gives it
    cross_encoder_fingerprint: str = ""  # of the weights of the cross-encoder's model

    def __str__(self) -> str:
        data = f"{self.data}, split {self.split}" if self.split else self.data
        counts = f"{self.images:,} images, {self.captions:,} captions"
        protocol = "" if self.protocol == "full" else f"protocol {self.protocol}, "
        last = f", n = {self.cross_encoder} by {self.cross_encoder_model}" if self.cross_encoder else ""
        return f"model {self.model} ({self.precision}) on {data}: {protocol}{counts}, k = {self.rerank}{last}"


@dataclass(frozen=True)
class JudgedFigure:
    """A measure of one head in one direction by judgements of relevance, on the queries that are judged."""

    head: str
    direction: Direction
    queries: int
    measure: str
    value: Estimate


@dataclass(frozen=True)
class PublishedComparison:
    """A figure of a paper, and the same measure here."""

    row: str  # of the paper's table
    head: str
    direction: Literal[Direction, "both"]
    measure: str
    published: float
    here: Estimate
    difference: float  # of here to the published one; more is better
    verdict: Literal["equal", "better", "worse"]  # equal: the published one is within the interval
    source: str  # where the published one was read


@dataclass(frozen=True)
class QueryValues:
    """What was found for each query, in the data's order: what a later evaluation is compared with."""

    captions_of_each: Sequence[int]  # image
    ranks: Mapping[str, Mapping[Direction, Ranks]]  # by head; of the best right answer
    judged: Mapping[str, Mapping[Direction, Mapping[str, Float64[np.ndarray, " _"]]]]  # by head, then by measure
    origins: Mapping[str, str]  # of the relevances by which each judged measure was found


@dataclass(frozen=True)
class Report:
    """All figures of a model on a data set."""

    subject: Subject
    heads: Mapping[str, HeadFigures]
    seconds: Mapping[str, float]  # of each stage
    judged: Sequence[JudgedFigure] = ()
    agreements: Mapping[str, Agreement] = dataclasses.field(default_factory=dict)  # by head
    queries: QueryValues | None = None
    published: Sequence[PublishedComparison] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """A table of a report as text."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int]  # the columns that hold words; the others hold numbers


def full_report(
    subject: Subject, queries: QueryValues, seconds: Mapping[str, float], agreements: Mapping[str, Agreement]
) -> Report:
    """The report that follows from what was found for each query."""
    heads = {head: head_figures(ranks, queries.captions_of_each) for head, ranks in queries.ranks.items()}
    judged = [
        _judged_figure(head, direction, measure, values, _owners(queries.captions_of_each)[direction])
        for head, directions in queries.judged.items()
        for direction, measures in directions.items()
        for measure, values in measures.items()
    ]
    return Report(subject, heads, seconds, judged, agreements, queries)


def head_figures(ranks: Mapping[Direction, Ranks], captions_of_each: Sequence[int] = ()) -> HeadFigures:
    """The figures that follow from the ranks of right answers in both directions.

    `captions_of_each` image tells which captions are drawn together for intervals; without it every query is drawn by itself.
    """
    owners = _owners(captions_of_each) if captions_of_each else {}

    def estimate(direction: Direction, values: Float64[np.ndarray, " queries"]) -> Estimate:
        return mean_estimate(values, owners=[owners[direction]] if owners else [])

    directions = {
        direction: DirectionFigures(
            len(ranks[direction]),
            {str(recall): estimate(direction, recall.of_each(ranks[direction])) for recall in RECALLS},
            MedianRank()(ranks[direction]),
        )
        for direction in DIRECTIONS
    }
    both = [rsum_of_each(ranks[direction]) for direction in DIRECTIONS]
    return HeadFigures(directions, mean_estimate(*both, owners=[owners[d] for d in DIRECTIONS] if owners else []))


def recall_sum(queries: QueryValues, head: str, direction: Direction) -> Estimate:
    """Recall@1, 5 and 10 of one direction added, at most 300."""
    owners = _owners(queries.captions_of_each)[direction]
    return mean_estimate(rsum_of_each(queries.ranks[head][direction]), owners=[owners])


def rsum_loss(before: Mapping[Direction, Ranks], now: Mapping[Direction, Ranks], captions_of_each: Sequence[int]) -> Estimate:
    """How much lower rsum is now than before, on the same queries; images are drawn with all their captions, for both alike."""
    owners = _owners(captions_of_each)
    losses = [rsum_of_each(before[direction]) - rsum_of_each(now[direction]) for direction in DIRECTIONS]
    return mean_estimate(*losses, owners=[owners[direction] for direction in DIRECTIONS])


def _judged_figure(
    head: str,
    direction: Direction,
    measure: str,
    values: Float64[np.ndarray, " queries"],
    owners: Int[np.ndarray, " queries"],
) -> JudgedFigure:
    judged = ~np.isnan(values)
    estimate = mean_estimate(values[judged], owners=[owners[judged]])
    return JudgedFigure(head, direction, int(np.count_nonzero(judged)), measure, estimate)


def _owners(captions_of_each: Sequence[int]) -> dict[Direction, Int[np.ndarray, " queries"]]:
    """The image row of each query."""
    images = np.arange(len(captions_of_each))
    return {"image_to_text": images, "text_to_image": np.repeat(images, captions_of_each)}


def to_json(report: Report) -> dict[str, Any]:
    """Plain values only, every figure unrounded; what was found for each query is one string of numbers with blanks between."""
    table = dataclasses.asdict(dataclasses.replace(report, queries=None))
    if report.queries:
        table["queries"] = {
            "captions_of_each": " ".join(map(str, report.queries.captions_of_each)),
            "ranks": {
                head: {direction: " ".join(map(str, ranks.tolist())) for direction, ranks in directions.items()}
                for head, directions in report.queries.ranks.items()
            },
            "judged": {
                head: {
                    direction: {measure: " ".join(map(str, values.tolist())) for measure, values in measures.items()}
                    for direction, measures in directions.items()
                }
                for head, directions in report.queries.judged.items()
            },
            "origins": dict(report.queries.origins),
        }
    return table


def query_values(table: Mapping[str, Any]) -> QueryValues:
    """What `to_json` wrote under "queries"; KeyError, TypeError, AttributeError or ValueError when it is something else."""
    ranks = {
        renamed_head(head): {
            direction: np.array([int(rank) for rank in directions[direction].split()]) for direction in DIRECTIONS
        }
        for head, directions in table["ranks"].items()
    }
    judged = {
        renamed_head(head): {
            direction: {
                measure: np.array([float(value) for value in values.split()])
                for measure, values in directions.get(direction, {}).items()
            }
            for direction in DIRECTIONS
        }
        for head, directions in table["judged"].items()
    }
    captions_of_each = [int(count) for count in table["captions_of_each"].split()]
    return QueryValues(captions_of_each, ranks, judged, dict(table["origins"]))


def to_markdown(report: Report) -> str:
    """The tables with their notes, to paste into a document."""
    tables = (f"{_markdown(sheet)}\n" for sheet in sheets(report))
    return "\n".join([str(report.subject), "", *tables, *remarks(report), "", _seconds(report)])


def to_tables(report: Report) -> list[Table]:
    """For a terminal, or as plain text elsewhere."""
    tables = []
    for sheet in sheets(report):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column, heading in enumerate(sheet.headings):
            table.add_column(heading, justify="left" if column in sheet.words else "right")
        for row in sheet.rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def sheets(report: Report) -> list[Sheet]:
    """Each table that the report has something for."""
    judged: list[tuple[str, ...]] = [(f.head, f.direction, f"{f.queries:,}", f.measure, str(f.value)) for f in report.judged]
    agreements: list[tuple[str, ...]] = [
        (head, found.kind, f"{found.pairs:,}", f"{found.ratings:,}", f"{found.tau_b:.3f}", f"{found.tau_c:.3f}")
        for head, found in report.agreements.items()
    ]
    published: list[tuple[str, ...]] = [
        (f.row, f.head, f.direction, f.measure, f"{f.published:.1f}", str(f.here), f"{f.difference:+.1f}", f.verdict, f.source)
        for f in report.published
    ]
    found = (
        Sheet(HEADINGS, _rows(report), frozenset((0, 1))),
        Sheet(JUDGED_HEADINGS, judged, frozenset((0, 1, 3))),
        Sheet(AGREEMENT_HEADINGS, agreements, frozenset((0, 1))),
        Sheet(PUBLISHED_HEADINGS, published, frozenset((0, 1, 2, 3, 7, 8))),
    )
    return [sheet for sheet in found if sheet.rows]


def notes(report: Report) -> str:
    """How to read the tables, and how long it took."""
    return "\n".join((*remarks(report), _seconds(report)))


def remarks(report: Report) -> tuple[str, ...]:
    """How to read the tables."""
    cross_encoder = (CROSS_ENCODER_NOTE,) if report.subject.cross_encoder else ()
    return (*NOTES, *cross_encoder, *((PUBLISHED_NOTE,) if report.published else ()))


def _markdown(sheet: Sheet) -> str:
    ruler = ["---" if column in sheet.words else "---:" for column in range(len(sheet.headings))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (sheet.headings, ruler, *sheet.rows))


def _rows(report: Report) -> list[tuple[str, ...]]:
    return [
        (
            name,
            direction,
            f"{figures.queries:,}",
            *map(str, figures.recalls.values()),
            f"{figures.median_rank:g}",
            # It belongs to both directions, so it stands once.
            str(head.rsum) if direction == DIRECTIONS[0] else "",
        )
        for name, head in report.heads.items()
        for direction, figures in head.directions.items()
    ]


def _seconds(report: Report) -> str:
    return "Seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items())
