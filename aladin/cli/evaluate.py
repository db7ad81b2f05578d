"""`aladin evaluate`: Measure a model's retrieval on images with captions."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from aladin.cli.captioned import SKIP_BAD, read_captioned
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_line, print_lines, printable
from aladin.cli.values import DEVICE, MODEL_PATH, PATH, memory_size
from aladin.errors import ConfigError

if TYPE_CHECKING:
    from aladin.measures.gate import Baseline
    from aladin.measures.report import Report

HARDEST = 20  # queries on the page, in each direction
PLAIN_WIDTH = 200  # characters of a line where there is no terminal


@click.command
@click.argument("model", type=MODEL_PATH)
@click.argument("data", type=PATH)
@click.option("--split", help="Split of the data to use, where it names splits.")
@click.option("--images", type=PATH, help="Folder or zip of the images, if not beside their captions.")
@click.option(
    "--protocol",
    type=click.Choice(["full", "coco-5k", "coco-1k", "coco-1k-5fold", "flickr30k", "flickr8k"]),
    default="full",
    show_default=True,
    help="Which images and captions, in how many folds.",
)
@click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="NAME[=FILE]",
    help="More measures: ndcg-rouge, ndcg-spice (both also of a matrix in FILE), eccv, cxc, pmrp=FILE. May be repeated.",
)
@click.option(
    "--coco-ids",
    type=PATH,
    help="COCO's captions JSON or Karpathy's, for the ids of eccv and cxc.  [default: DATA, if it is a .json]",
)
@click.option(
    "--judgements",
    type=PATH,
    help="Flickr8k's ExpertAnnotations.txt or CrowdFlowerAnnotations.txt, to correlate scores with.",
)
@click.option("--rerank", default=100, show_default=True, type=click.IntRange(0), help="The k of two-stage; 0: leave it out.")
@click.option(
    "--cross-encoder",
    type=click.IntRange(0),
    help="So many of the two-stage best are read with the query by a cross-encoder; 0: leave it out.  "
    "[default: 20, with a cross-encoder]",
)
@click.option("--cross-encoder-model", type=PATH, help="Model folder with the cross-encoder.  [default: MODEL]")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of encoding by a trained model.  [default: fp32]"
)
@DEVICE
@click.option("--json", "form", flag_value="json", help="All figures, and the rank of every query, as one JSON object.")
@click.option("--markdown", "form", flag_value="markdown", help="The tables as Markdown.")
@click.option("--html", type=PATH, help="Also write a page with plots and the hardest queries here.")
@click.option(
    "--gate",
    type=PATH,
    help="An earlier --json of the same queries; exit 1 if anything is significantly worse.",
)
@click.option(
    "--against",
    metavar="TRAINING",
    help="Set the paper's figures beside, with a verdict: those of the model of recipes/paper/TRAINING.toml.",
)
@click.option("--cache", type=PATH, help="Folder to keep image features and relevances in.")
@click.option(
    "--memory",
    type=memory_size,
    metavar="SIZE",
    default="64M",
    show_default=True,
    help="For blocks of scores, beside the results.",
)
@SKIP_BAD
def evaluate(
    model: Path,
    data: Path,
    split: str | None,
    images: Path | None,
    form: Literal["json", "markdown"] | None,
    html: Path | None,
    gate: Path | None,
    cache: Path | None,
    skip_bad: bool,
    coco_ids: Path | None,
    **settings: Any,
) -> None:
    """Measure the retrieval of MODEL on DATA, images with captions.

    MODEL is a folder that `aladin train` or `aladin export` wrote; one that can only search is measured as it searches.
    Recall@1, 5 and 10, median rank and rsum are printed for the matching head, the alignment head and both in two stages.

    \b
    aladin evaluate runs/align/best flickr8k.zip --split val
    aladin evaluate runs/align/best dataset_coco.json --images coco --split test --protocol coco-5k --measure eccv
    aladin evaluate runs/joint/best captions-5k.jsonl --images features --protocol coco-5k
        --against alignment-and-matching-distill
    aladin evaluate runs/both/best flickr8k.zip --split val --cross-encoder 20 --cross-encoder-model runs/cross-encoder/best
    """
    from aladin.evaluation import evaluate as evaluation
    from aladin.measures.gate import read_baseline
    from aladin.measures.html_report import html_page

    ids = coco_ids or (data if data.suffix.lower() == ".json" else None)
    config = evaluation.EvaluationConfig(coco_ids=ids, skip_bad=skip_bad, hardest=HARDEST if html else 0, **settings)
    if html and not html.parent.is_dir():  # said before the work is done
        raise ConfigError(f"there is no folder {printable(str(html.parent))} for --html; make it, or give another")
    evaluation.check_model(model, config)
    baseline = read_baseline(gate) if gate else None
    dataset = read_captioned(data, split, images, skip_bad)
    found = evaluation.evaluate(
        model,
        dataset,
        config,
        baseline=baseline,
        cache=cache,
        progress=TerminalSteps(),
        warn=lambda text: print_line(text, err=True),
    )
    report = replace(found.report, subject=replace(found.report.subject, data=str(data)))
    if html:
        _write(html, html_page(report, found.hardest))
    _print(report, form)
    if baseline:
        _compare(baseline, report)


def _compare(baseline: "Baseline", report: "Report") -> None:
    """Print how the report differs from an earlier one; Regression when something is significantly worse."""
    from aladin.measures.gate import compared, differences, pass_gate

    for difference in differences(baseline, report.subject):
        print_line(difference, err=True)
    assert report.queries is not None, "a report of an evaluation has them"
    print_line(pass_gate(compared(baseline, report.queries)), err=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{printable(str(path))} cannot be written: {error.strerror}; give another --html") from None


def _print(report: "Report", form: Literal["json", "markdown"] | None) -> None:
    from rich.console import Console

    from aladin.measures.report import notes, to_json, to_markdown, to_tables

    if form == "json":
        print_lines(json.dumps(to_json(report), indent=2, allow_nan=False))
    elif form == "markdown":
        print_lines(to_markdown(report))
    else:
        print_lines(f"{report.subject}\n")
        console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
        for table in to_tables(report):
            console.print(table)
            print_line()
        print_lines(notes(report))
