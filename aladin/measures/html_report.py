"""A report as one HTML page that needs nothing else: figures, plots drawn as SVG, and the queries that went worst."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from aladin.measures.plots import interval_plot, mark, rank_curves, rank_histogram
from aladin.measures.recalls import DIRECTIONS, RECALLS, Direction, Ranks
from aladin.measures.report import Report, Sheet, remarks, sheets

TITLES: Mapping[Direction, str] = {"image_to_text": "Image to text", "text_to_image": "Text to image"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --line: #e1e5e9; --page: #f6f7f7; --card: #fff;
  --head-0: #0067a8; --head-1: #c2410c; --head-2: #00805a; --head-3: #7c3aad }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3adb7; --line: #343a41; --page: #131619;
  --card: #1c2024; --head-0: #62b5f0; --head-1: #f5a35c; --head-2: #4fd1a5;
  --head-3: #c9a2f2 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 1180px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem }
h3 { font-size: .95rem; margin: 0 0 .5rem } p { margin: .3rem 0 } .soft { color: var(--soft) }
ul { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; margin: 0 0 .8rem; padding: 0; list-style: none }
ul.subject { color: var(--soft) } ul b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere }
ul svg { width: 14px; height: 14px; vertical-align: -2px; margin-right: .35rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); column-gap: 1rem }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem; min-width: 0;
  overflow-x: auto; margin-bottom: 1rem }
svg.plot { display: block; width: 100%; height: auto }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif } svg text.soft { fill: var(--soft) }
.grid { stroke: var(--line) } .whisker, .curve { stroke-width: 2 }
.h0 { stroke: var(--head-0); fill: var(--head-0) } .h1 { stroke: var(--head-1); fill: var(--head-1) }
.h2 { stroke: var(--head-2); fill: var(--head-2) } .h3 { stroke: var(--head-3); fill: var(--head-3) }
.curve { fill: none } .bar { stroke: none }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
tr:last-child td { border-bottom: 0 } th { font-weight: 600 } .words { text-align: left }
.figures td, .figures th { white-space: nowrap } .queries td:not(:first-child) { overflow-wrap: anywhere; min-width: 9rem }
"""


@dataclass(frozen=True)
class HardQuery:
    """A query whose right answer stands far behind, as texts: what was asked, what is right, and what came first instead."""

    rank: int
    asked: str
    right: str
    first: str


def html_page(report: Report, hardest: Mapping[Direction, Sequence[HardQuery]]) -> str:
    """The whole page. It runs no script and loads nothing; what it quotes from the data is escaped."""
    title = escape(f"Retrieval of {report.subject.model}")
    return "\n".join(
        (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>',
            f"<h1>{title}</h1>",
            _subject(report),
            "<h2>Recall with 95 % intervals</h2>",
            _legend(report.heads),
            _pair(_card(TITLES[direction], _recalls(report, direction)) for direction in DIRECTIONS),
            *_ranks(report),
            "<h2>Figures</h2>",
            *(_card(None, _table(sheet)) for sheet in sheets(report)),
            *(f'<p class="soft">{escape(note)}</p>' for note in remarks(report)),
            *_hardest(hardest),
            "</body></html>\n",
        )
    )


def _subject(report: Report) -> str:
    subject = report.subject
    facts = {
        "data": subject.data + (f", split {subject.split}" if subject.split else ""),
        "protocol": subject.protocol,
        "images": f"{subject.images:,}",
        "captions": f"{subject.captions:,}",
        "precision": subject.precision,
        "re-ranked": f"{subject.rerank:,}",
        "seconds": f"{sum(report.seconds.values()):,.0f}",
    }
    return f'<ul class="subject">{"".join(f"<li>{name} <b>{escape(fact)}</b></li>" for name, fact in facts.items())}</ul>'


def _legend(heads: Iterable[str]) -> str:
    signs = ((f'<svg viewBox="0 0 14 14" aria-hidden="true">{mark(n, 7.0, 7.0)}</svg>', head) for n, head in enumerate(heads))
    return f"<ul>{''.join(f'<li>{sign}{escape(head)}</li>' for sign, head in signs)}</ul>"


def _recalls(report: Report, direction: Direction) -> str:
    figures = [head.directions[direction] for head in report.heads.values()]
    groups = {str(recall): [some.recalls[str(recall)] for some in figures] for recall in RECALLS}
    plot = interval_plot(
        groups, f"{TITLES[direction]}: recalls of each head with their intervals; the table below has the numbers"
    )
    return f'{plot}<p class="soft">{figures[0].queries:,} queries</p>'


def _ranks(report: Report) -> Iterable[str]:
    """The two plots of where right answers stand; nothing for a report without the ranks of its queries."""
    if report.queries is None:
        return
    ranks: dict[Direction, list[Ranks]] = {
        direction: [found[direction] for found in report.queries.ranks.values()] for direction in DIRECTIONS
    }
    last = {direction: max(int(some.max()) for some in ranks[direction]) for direction in DIRECTIONS}
    yield "<h2>Where the right answer stands</h2>"
    yield _pair(_card(TITLES[d], rank_curves(ranks[d], last[d], f"{TITLES[d]}: cumulative share by rank")) for d in DIRECTIONS)
    yield _pair(_card(TITLES[d], rank_histogram(ranks[d], f"{TITLES[d]}: share by rank")) for d in DIRECTIONS)


def _hardest(hardest: Mapping[Direction, Sequence[HardQuery]]) -> Iterable[str]:
    headings = ("rank", "asked", "right", "came first")
    for direction, queries in hardest.items():
        rows = [(f"{query.rank:,}", query.asked, query.right, query.first) for query in queries]
        sheet = Sheet(headings, rows, frozenset((1, 2, 3)))
        yield f"<h2>Hardest queries, {TITLES[direction].lower()}, by the alignment head</h2>"
        yield _card(None, _table(sheet, "queries"))


def _pair(cards: Iterable[str]) -> str:
    return f'<div class="pair">{"".join(cards)}</div>'


def _card(title: str | None, content: str) -> str:
    heading = f"<h3>{title}</h3>" if title else ""
    return f'<div class="card">{heading}{content}</div>'


def _table(sheet: Sheet, kind: str = "figures") -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        classes = ('class="words"' if column in sheet.words else "" for column in range(len(row)))
        return "".join(f"<{tag} {of}>{escape(cell)}</{tag}>" for of, cell in zip(classes, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in sheet.rows)
    return f'<table class="{kind}"><thead><tr>{cells("th", sheet.headings)}</tr></thead><tbody>{body}</tbody></table>'
