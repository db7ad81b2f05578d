"""`aladin evaluate`: a model and images with captions to a table of recalls."""

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from aladin.cli.progress import progress_shown
from aladin.cli.results import printable
from aladin.errors import ConfigError

if TYPE_CHECKING:
    from aladin.report import Report

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
PLAIN_WIDTH = 200  # characters of a line where there is no terminal


def memory_size(text: str) -> int:
    """Bytes from text such as 64M or 2G; a bare number is megabytes."""
    found = re.fullmatch(r"([1-9][0-9]*)([KMG]?)B?", text.upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write it as 256M or 2G")
    return int(found[1]) * UNITS[found[2] or "M"]


@click.command
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--split", help="Split of the data to use, where it names splits.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder or zip of the images, if not beside their captions.")
@click.option("--rerank", default=100, show_default=True, type=click.IntRange(0), help="The k of two-stage; 0: leave it out.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of encoding, for a trained model.  [default: fp32]")
@click.option("--json", "form", flag_value="json", help="All figures as one JSON object.")
@click.option("--markdown", "form", flag_value="markdown", help="The table as Markdown.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder to keep image features in, for the next time.")
@click.option(
    "--memory",
    type=memory_size,
    metavar="SIZE",
    default="64M",
    show_default=True,
    help="For blocks of scores, beside the results.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out rows that cannot be read, and count them by reason.")
def evaluate(
    model: Path,
    data: Path,
    split: str | None,
    images: Path | None,
    rerank: int,
    precision: Literal["fp32", "bf16"] | None,
    form: Literal["json", "markdown"] | None,
    cache: Path | None,
    memory: int,
    skip_bad: bool,
) -> None:
    """Measure the retrieval of MODEL on DATA, images with captions.

    MODEL is a folder that `aladin train` or `aladin export` wrote; one that can only search is measured as it searches.
    Recall@1, 5 and 10, median rank and rsum are told for the matching head, the alignment head and both in two stages.

    \b
    aladin evaluate runs/align/best flickr8k.zip --split val
    """
    from aladin import evaluation
    from aladin.datasets import read_dataset
    from aladin.report import Report, Subject, head_figures

    exported = evaluation.is_exported(model)
    if exported and precision:
        raise ConfigError(f"{printable(str(model))} has the precision that it was exported with; leave out --precision")
    dataset = read_dataset(data, split, images, skip_bad)
    for reason, count in dataset.skipped.items():
        click.echo(f"{printable(str(data))}: {count:,} rows skipped: {reason}", err=True)
    stages = evaluation.Stages(lambda name: progress_shown(name, quiet=False))
    with _cache_folder(cache) as folder:
        encoded = evaluation.encode_dataset(model, dataset, precision or "fp32", folder, stages)
    found = evaluation.evaluate(encoded, rerank, memory, stages)
    shown_precision = "as exported" if exported else precision or "fp32"
    names = (printable(str(model)), printable(str(data)))
    subject = Subject(*names, split, len(dataset), dataset.caption_count, rerank, shown_precision)
    _print(Report(subject, {name: head_figures(ranks) for name, ranks in found.ranks.items()}, found.seconds), form)


@contextmanager
def _cache_folder(cache: Path | None) -> Iterator[Path]:
    """The folder asked for, or one that is gone afterwards."""
    if cache is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{printable(str(cache))} cannot be made a folder: {error.strerror}; give another --cache") from None
    yield cache


def _print(report: "Report", form: Literal["json", "markdown"] | None) -> None:
    from rich.console import Console

    from aladin.report import notes, to_json, to_markdown, to_table

    if form == "json":
        click.echo(json.dumps(to_json(report), indent=2, allow_nan=False))
    elif form == "markdown":
        click.echo(to_markdown(report))
    else:
        click.echo(f"{report.subject}\n")
        Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(to_table(report))
        click.echo(f"\n{notes(report)}")
