"""The curves of runs as one SVG file that needs nothing else: validation rsum of each head, and each loss, by steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from aladin.measures.run_comparison import ComparedRun, Comparison

COLOURS = ("#0067a8", "#c2410c", "#00805a", "#7c3aad", "#ca8a04", "#db2777", "#38a5e8", "#57534e")
DARK_COLOURS = ("#62b5f0", "#f5a35c", "#4fd1a5", "#c9a2f2", "#f0e05f", "#f472b6", "#4f7fd8", "#b8b0a8")
DASHES = ("", "7 4", "2 3", "9 3 2 3")  # of the ninth run and on, of the seventeenth and on, ...
STYLE = f"""
svg {{ color-scheme: light dark; font: 12px system-ui, sans-serif }}
.page {{ fill: #fff }} text {{ fill: #1d2126 }} .soft {{ fill: #5c6670 }} .title {{ font-weight: 600; font-size: 13px }}
.grid {{ stroke: #e1e5e9 }} .curve {{ fill: none; stroke-width: 1.8; stroke-linejoin: round }}
.best {{ stroke-width: 1.8; fill: #fff }}
{" ".join(f".r{n} {{ stroke: {colour} }}" for n, colour in enumerate(COLOURS))}
@media (prefers-color-scheme: dark) {{ .page, .best {{ fill: #1c2024 }} text {{ fill: #e8eaed }} .soft {{ fill: #a3adb7 }}
.grid {{ stroke: #343a41 }} {" ".join(f".r{n} {{ stroke: {colour} }}" for n, colour in enumerate(DARK_COLOURS))} }}
"""
PANEL, HEIGHT = 470.0, 250.0  # a panel's width and height, with all that belongs to it
LEFT, RIGHT, TOP, BOTTOM = 58.0, 18.0, 30.0, 36.0  # around its plotting area
LINE = 20.0  # height of a line of the legend
LETTER = 6.6  # about the width of one, for the legend alone
POINTS = 150  # of a loss, each the mean of the steps about it


@dataclass(frozen=True)
class Curve:
    """The line of one run in one panel."""

    run: int
    steps: Sequence[float]
    values: Sequence[float]
    best: tuple[float, float] | None = None  # the point of the run's best model


def curves_svg(comparison: Comparison) -> str:
    """The whole file, with a panel for each head and each loss that any of the runs has logged."""
    found = [
        (f"validation rsum, {head} head", [_rsum(n, run, head) for n, run in enumerate(comparison.runs)])
        for head in comparison.heads
    ]
    for name in comparison.losses:
        title = (
            "loss, as it is minimised" if name == "loss" else f"{name.removeprefix('unweighed loss ')} loss, before its weight"
        )
        found.append((title, [_loss(n, run, name) for n, run in enumerate(comparison.runs)]))
    panels = [(title, [curve for curve in curves if curve.steps]) for title, curves in found]
    panels = [(title, curves) for title, curves in panels if curves]
    last = max((run.log.steps for run in comparison.runs), default=1)
    columns = min(2, max(1, len(panels)))
    width = columns * PANEL
    legend, top = _legend([run.name for run in comparison.runs], width)
    parts = [legend]
    for n, (title, curves) in enumerate(panels):
        x, y = n % columns * PANEL, top + n // columns * HEIGHT
        parts.append(f'<g transform="translate({x:.0f} {y:.0f})">{_panel(title, curves, max(1, last))}</g>')
    height = top + math.ceil(len(panels) / columns) * HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="Curves of {len(comparison.runs)} runs"><style>{STYLE}</style>'
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>{"".join(parts)}</svg>\n'
    )


def _rsum(number: int, run: ComparedRun, head: str) -> Curve:
    name = f"{head} rsum"
    found = [line for line in run.log.validations if name in line]
    best = (run.best.step + 1.0, run.best.rsums[head]) if run.best and head in run.best.rsums else None
    return Curve(number, [line["step"] + 1.0 for line in found], [float(line[name]) for line in found], best)


def _loss(number: int, run: ComparedRun, name: str) -> Curve:
    """Means over equal parts of the steps: a single step's loss depends on its batch."""
    found = [(line["step"] + 1.0, float(line[name])) for line in run.log.losses if name in line]
    if not found:
        return Curve(number, (), ())
    parts = np.array_split(np.asarray(found), min(POINTS, math.ceil(len(found) / 4)))
    means = [part.mean(axis=0) for part in parts]
    return Curve(number, [float(mean[0]) for mean in means], [float(mean[1]) for mean in means])


def _panel(title: str, curves: Sequence[Curve], last: int) -> str:
    values = [value for curve in curves for value in curve.values]
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def x(step: float) -> float:
        return LEFT + (PANEL - LEFT - RIGHT) * step / last

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    parts = [f'<text class="title" x="{LEFT:.0f}" y="18">{escape(title)}</text>']
    for tick in ticks:
        height, number = y(tick), _tick(tick, ticks)
        parts.append(f'<line class="grid" x1="{LEFT:.0f}" x2="{PANEL - RIGHT:.0f}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 8:.0f}" y="{height + 4:.1f}" text-anchor="end">{number}</text>')
    steps = [tick for tick in nice_ticks(0.0, float(last)) if tick <= last]
    parts += [
        f'<text class="soft" x="{x(tick):.1f}" y="{HEIGHT - 20:.0f}" text-anchor="middle">{tick:,.0f}</text>' for tick in steps
    ]
    parts.append(
        f'<text class="soft" x="{(LEFT + PANEL - RIGHT) / 2:.0f}" y="{HEIGHT - 5:.0f}" text-anchor="middle">steps</text>'
    )
    for curve in curves:
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in zip(curve.steps, curve.values, strict=True))
        parts.append(f'<polyline {_look(curve.run)} points="{points}"/>')
    for curve in curves:
        if curve.best:
            colour = f"r{curve.run % len(COLOURS)}"
            parts.append(f'<circle class="best {colour}" cx="{x(curve.best[0]):.1f}" cy="{y(curve.best[1]):.1f}" r="4"/>')
    return "".join(parts)


def _legend(names: Sequence[str], width: float) -> tuple[str, float]:
    """The names with their lines in as many rows as they need, and how high that is."""
    parts, x, y = [], LEFT, 22.0
    for number, name in enumerate(names):
        needed = 34 + LETTER * len(name) + 22
        if x > LEFT and x + needed > width - RIGHT:
            x, y = LEFT, y + LINE
        parts.append(f'<polyline {_look(number)} points="{x:.0f},{y - 4:.0f} {x + 26:.0f},{y - 4:.0f}"/>')
        parts.append(f'<text x="{x + 34:.0f}" y="{y:.0f}">{_drawn(name)}</text>')
        x += needed
    circle = f'<circle class="best" stroke="currentColor" cx="{LEFT + 13:.0f}" cy="{y + LINE - 4:.0f}" r="4"/>'
    parts.append(f'{circle}<text class="soft" x="{LEFT + 34:.0f}" y="{y + LINE:.0f}">the model that was kept</text>')
    return "".join(parts), y + LINE + 14


def _look(run: int) -> str:
    dash = DASHES[run // len(COLOURS) % len(DASHES)]
    return f'class="curve r{run % len(COLOURS)}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _drawn(name: str) -> str:
    """A name for XML, which has no control characters and no lone surrogates."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in name))


def _tick(tick: float, ticks: Sequence[float]) -> str:
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{tick:,.{decimals}f}"


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers, at most seven, from at most `low` to at least `high`; two or more of them also where these are equal."""
    span = high - low
    if span < 1e-9 * max(1e-3, abs(high)):  # no more than rounding
        span = max(1e-3, abs(high))
    size = 10.0 ** math.floor(math.log10(span / 5))
    step = next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]
