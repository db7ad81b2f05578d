"""The plots of a report as SVG text: no library, no script, colours by the page's style (classes h0 to h3 for the heads)."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TypeVar

import numpy as np

from aladin.measures.recalls import Estimate, Ranks

WIDTH = 440.0  # of a plot, in its own units
LEFT, RIGHT, TOP, BOTTOM = 72.0, 14.0, 8.0, 34.0  # around the plotting area: names, half a number, air, numbers and title
ROW, GAP = 17, 9  # height of a head's row, air between groups
CURVE_HEIGHT = 190.0
CURVE_POINTS = 240
T = TypeVar("T")
BINS = ((1, 1), (2, 5), (6, 10), (11, 50), (51, 100), (101, 500), (501, None))  # of ranks


def mark(head: int, x: float, y: float) -> str:
    """The sign of a head, which differs in shape as well as in colour."""
    match head % 4:
        case 0:
            return f'<circle class="h{head % 4}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        case 1:
            return f'<rect class="h{head % 4}" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>'
        case 2:
            return f'<path class="h{head % 4}" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>'
        case _:
            return (
                f'<polygon class="h{head % 4}" points="{x:.1f},{y - 5:.1f} {x + 5:.1f},{y + 4:.1f} {x - 5:.1f},{y + 4:.1f}"/>'
            )


def interval_plot(groups: Mapping[str, Sequence[Estimate]], title: str) -> str:
    """For each group a row for each head: the value, and its interval as a line; from 0 to 100 percent."""

    def row(head: int, estimate: Estimate, y: float) -> str:
        low, high, value = (_across(share, 100.0) for share in (estimate.low, estimate.high, estimate.value))
        beside = f'x="{high + 7:.1f}"' if high < WIDTH - 60 else f'x="{low - 7:.1f}" text-anchor="end"'
        line = f'<line class="whisker h{head % 4}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        return f'{line}{mark(head, value, y)}<text {beside} y="{y + 4:.1f}">{estimate.value:.1f}</text>'

    return _rows_plot(groups, row, 100.0, "percent of queries", title)


def rank_histogram(ranks: Sequence[Ranks], title: str) -> str:
    """For each bin of ranks a bar for each head: the percentage of queries whose right answer stands there."""
    last = max(int(some.max()) for some in ranks)
    groups = {}
    for low, high in BINS:
        if low <= last:
            name = f"{low}" if low == high else f"{low}-{high}" if high else f"{low} on"
            groups[name] = [100 * float(np.mean((some >= low) & (some <= (high or last)))) for some in ranks]
    top = max(max(shares) for shares in groups.values())
    end = max(10.0, 10.0 * math.ceil(top * 1.15 / 10))

    def row(head: int, share: float, y: float) -> str:
        width = _across(share, end) - LEFT
        bar = f'<rect class="bar h{head % 4}" x="{LEFT:.0f}" y="{y - 6:.1f}" width="{width:.1f}" height="12"/>'
        return f'{bar}<text x="{LEFT + width + 5:.1f}" y="{y + 4:.1f}">{share:.1f}</text>'

    return _rows_plot(groups, row, end, "percent of queries, by rank of the right answer", title)


def rank_curves(ranks: Sequence[Ranks], candidates: int, title: str) -> str:
    """The percentage of queries whose right answer is among the first so many, for each head; ranks on a logarithmic scale."""
    height = TOP + CURVE_HEIGHT + BOTTOM
    steps = np.unique(np.round(np.geomspace(1, max(candidates, 2), CURVE_POINTS)).astype(np.int64))

    def x(rank: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(rank) / math.log(max(candidates, 2))

    def y(share: float) -> float:
        return TOP + CURVE_HEIGHT * (1 - share / 100)

    parts = [
        _line(LEFT, WIDTH - RIGHT, y(s), y(s)) + _text(LEFT - 8, y(s) + 4, f"{s:.0f} %", "end")
        for s in (0.0, 25.0, 50.0, 75.0, 100.0)
    ]
    powers = [10.0**power for power in range(int(math.log10(max(candidates, 2))) + 1)]
    parts += [_line(x(r), x(r), TOP, TOP + CURVE_HEIGHT) + _text(x(r), height - 18, f"{r:,.0f}", "middle") for r in powers]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 2, "first so many answers", "middle"))
    for head, some in enumerate(ranks):
        shares = np.searchsorted(np.sort(some), steps, side="right") * 100 / len(some)
        points = " ".join(
            f"{x(step):.1f},{y(share):.1f}" for step, share in zip(steps.astype(float).tolist(), shares.tolist(), strict=True)
        )
        parts.append(f'<polyline class="curve h{head % 4}" points="{points}"/>')
    return _svg(parts, height, title)


def _rows_plot(
    groups: Mapping[str, Sequence[T]], row: Callable[[int, T, float], str], end: float, axis: str, title: str
) -> str:
    """Groups from top to bottom, in each a row for each head, over a scale from 0 to `end`."""
    parts, y = [], TOP
    for name, values in groups.items():
        parts.append(_text(LEFT - 10, y + ROW * len(values) / 2 + 4, name, "end"))
        parts += [row(head, value, y + ROW * (head + 0.5)) for head, value in enumerate(values)]
        y += ROW * len(values) + GAP
    bottom = y - GAP / 2
    ticks = [end * quarter / 4 for quarter in range(5)]
    grid = [
        _line(_across(t, end), _across(t, end), TOP, bottom) + _text(_across(t, end), bottom + 15, f"{t:g}", "middle")
        for t in ticks
    ]
    height = bottom + BOTTOM
    return _svg([*grid, *parts, _text((LEFT + WIDTH - RIGHT) / 2, height - 2, axis, "middle")], height, title)


def _across(value: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / end


def _line(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="soft" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    name = escape(title, quote=True)
    return f'<svg class="plot" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
