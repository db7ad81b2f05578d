"""How often hits are right for each tenth of their probability, as a diagram: `aladin calibrate` held against unseen queries.

The constants are learned on half of the queries of DATA and judged on the other half, then the other way round; the hits of
both halves stand in the diagram. Which hit counts as right is told in aladin/training/calibrating.py.

    python benchmarks/reliability.py MODEL val.zip --svg docs/reliability.svg
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from aladin.datasets import read_dataset
from aladin.encoder.encoder import Encoder
from aladin.evaluation.encoding import encode_by
from aladin.measures.reliability import Reliability, reliability
from aladin.network.run import Run
from aladin.progress import SILENT
from aladin.training.calibrating import Judged, judged_probabilities, judged_queries, learned

SIDE, LEFT, TOP, BARS, GAP = 260, 52, 14, 56, 58  # px: the diagram, what is left of and above it, the bars below it, the gap
COLOURS = {"captions": "#2563eb", "words": "#c2410c"}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.grid{stroke:#8b949e;stroke-opacity:.35}.line{fill:none;stroke-width:2}"
)


@click.command(help=__doc__)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--svg", type=click.Path(path_type=Path), help="File for the diagram.")
def main(model: Path, data: Path, svg: Path | None) -> None:
    encoder, dataset = Encoder.load(model), read_dataset(data)
    judged = judged_queries(encoder, encode_by(encoder, dataset, Run(), SILENT), dataset, SILENT)
    found = crossed(judged, data.name)
    for kind, value in found.items():
        click.echo(f"{kind}:\n{value}\n", err=True)
    if svg:
        svg.write_text(diagram(found), encoding="utf-8")
    json.dump({kind: asdict(value) for kind, value in found.items()}, sys.stdout, indent=2)
    click.echo()


def crossed(judged: Judged, data: str) -> dict[str, Reliability]:
    """For captions, words and both together, each half of the queries judged by constants of the other."""
    halves = [judged_probabilities(learned(judged, half, data), judged, 1 - half) for half in (0, 1)]
    hits = {
        kind: tuple(np.concatenate([half[kind][part] for half in halves]) for part in (0, 1)) for kind in ("captions", "words")
    }
    found = {kind: reliability(probabilities, right) for kind, (probabilities, right) in hits.items()}
    together = tuple(np.concatenate([hits[kind][part] for kind in hits]) for part in (0, 1))
    return found | {"both": reliability(*together)}


def diagram(found: dict[str, Reliability]) -> str:
    """Share that is right over probability, a curve for each kind, and below it how many hits there are in each tenth."""
    width, height = LEFT + SIDE + 175, TOP + SIDE + GAP + BARS + 20
    parts = [f"<style>{STYLE}</style>", f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = _place(share, share)
        parts += [_line(x, TOP, x, TOP + SIDE), _line(LEFT, y, LEFT + SIDE, y)]
        parts += [_text(x, TOP + SIDE + 16, f"{share:g}", "middle"), _text(LEFT - 7, y + 4, f"{share:g}", "end")]
    parts.append(_line(LEFT, TOP + SIDE, LEFT + SIDE, TOP, ' style="stroke-dasharray:5 4;stroke-opacity:1"'))
    parts.append(_text(LEFT + SIDE / 2, TOP + SIDE + 34, "probability given", "middle"))
    parts.append(
        f'<text transform="translate(14 {TOP + SIDE / 2}) rotate(-90)" text-anchor="middle">share that is right</text>'
    )
    most = max(tenth.hits for kind in COLOURS for tenth in found[kind].bins)
    for number, (kind, colour) in enumerate(COLOURS.items()):
        points = [_place(tenth.probability, tenth.right) for tenth in found[kind].bins]
        parts.append(f'<polyline class="line" stroke="{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
        parts += _legend(number, kind, colour, found[kind])
        for tenth in found[kind].bins:
            high = BARS * tenth.hits / most
            x = LEFT + SIDE * (min(int(tenth.probability * 10), 9) / 10) + 3 + 10 * number
            y = TOP + SIDE + GAP + BARS - high
            parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="9" height="{high:.1f}" fill="{colour}"/>')
    parts.append(_text(LEFT + SIDE / 2, height - 4, f"hits in each tenth; the highest bar is {most:,}", "middle"))
    title = "Reliability of the probabilities"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{title}">{"".join(parts)}</svg>\n'
    )


def _legend(number: int, kind: str, colour: str, value: Reliability) -> list[str]:
    x, y = LEFT + SIDE + 16, TOP + 14 + 44 * number
    hits = sum(tenth.hits for tenth in value.bins)
    return [
        f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colour}"/>',
        _text(x + 10, y, f"{kind}: {hits:,} hits", "start"),
        _text(x + 10, y + 16, f"mean error {value.error:.3f}", "start"),
    ]


def _place(probability: float, share: float) -> tuple[float, float]:
    return LEFT + SIDE * probability, TOP + SIDE * (1 - share)


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{more}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    main()
