"""`aladin evaluate`: Measure a model's retrieval on images with captions."""

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from aladin import __version__
from aladin.cli.captioned import SKIP_BAD, cache_folder, read_captioned, tell_skipped
from aladin.cli.progress import progress_shown
from aladin.cli.terminal import print_line, print_lines, printable
from aladin.cli.values import PATH
from aladin.errors import ConfigError

if TYPE_CHECKING:
    from aladin.datasets import Dataset
    from aladin.evaluation.evaluate import Stages, ThirdStage
    from aladin.measures.protocols import Protocol
    from aladin.measures.report import Report, Subject

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
PAIRS = 20  # the n of three-stage where nothing else is asked for
PLAIN_WIDTH = 200  # characters of a line where there is no terminal


@dataclass(frozen=True)
class Request:
    """What the command was asked for, by the names of its options."""

    model: Path
    data: Path
    split: str | None
    images: Path | None
    protocol: str
    measures: tuple[str, ...]
    coco_ids: Path | None
    judgements: Path | None
    rerank: int
    pairs: int | None
    pair_model: Path | None
    precision: Literal["fp32", "bf16"] | None
    html: Path | None
    gate: Path | None
    cache: Path | None
    memory: int  # bytes
    skip_bad: bool

    @property
    def ids(self) -> Path | None:
        """Where COCO's ids of captions stand: the data themselves, if they are a JSON."""
        return self.coco_ids or (self.data if self.data.suffix.lower() == ".json" else None)

    @property
    def pair_folder(self) -> Path:
        """Where the cross-encoder of the third stage stands, if there is a third stage."""
        return self.pair_model or self.model


def memory_size(text: str) -> int:
    """Bytes from text such as 64M or 2G; a bare number is megabytes."""
    found = re.fullmatch(r"([1-9][0-9]*)([KMG]?)B?", text.upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write it as 256M or 2G")
    return int(found[1]) * UNITS[found[2] or "M"]


@click.command
@click.argument("model", type=PATH)
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
    "--pairs",
    type=click.IntRange(0),
    help=f"The n of three-stage: so many are read with the query by a cross-encoder; 0: leave it out.  [default: {PAIRS}, "
    "with a cross-encoder]",
)
@click.option("--pair-model", type=PATH, help="Model folder with the cross-encoder.  [default: MODEL]")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of encoding, for a trained model.  [default: fp32]")
@click.option("--json", "form", flag_value="json", help="All figures, and the rank of every query, as one JSON object.")
@click.option("--markdown", "form", flag_value="markdown", help="The tables as Markdown.")
@click.option("--html", type=PATH, help="Also write a page with plots and the hardest queries here.")
@click.option(
    "--gate",
    type=PATH,
    help="An earlier --json of the same queries; exit 1 if anything is significantly worse.",
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
def evaluate(form: Literal["json", "markdown"] | None, **options: Any) -> None:
    """Measure the retrieval of MODEL on DATA, images with captions.

    MODEL is a folder that `aladin train` or `aladin export` wrote; one that can only search is measured as it searches.
    Recall@1, 5 and 10, median rank and rsum are told for the matching head, the alignment head and both in two stages.

    \b
    aladin evaluate runs/align/best flickr8k.zip --split val
    aladin evaluate runs/align/best dataset_coco.json --images coco --split test --protocol coco-5k --measure eccv
    aladin evaluate runs/both/best flickr8k.zip --split val --pairs 20 --pair-model runs/cross-encoder/best
    """
    from aladin.measures.gate import check_same_queries, compared, differences, pass_gate, read_baseline
    from aladin.measures.protocols import PROTOCOLS, chosen
    from aladin.network import checkpoints

    asked = Request(**options)
    exported = checkpoints.is_exported(asked.model)
    if exported and asked.precision:
        raise ConfigError(f"{printable(str(asked.model))} has the precision that it was exported with; leave out --precision")
    if asked.html and not asked.html.parent.is_dir():  # said before the work is done
        raise ConfigError(f"there is no folder {printable(str(asked.html.parent))} for --html; make it, or give another")
    pairs = _pairs_of(asked)
    baseline = read_baseline(asked.gate) if asked.gate else None
    protocol = PROTOCOLS[asked.protocol]
    dataset = chosen(read_captioned(asked.data, asked.split, asked.images, asked.skip_bad), protocol)
    subject = _subject(asked, dataset, "as exported" if exported else asked.precision or "fp32", pairs)
    if baseline:
        check_same_queries(baseline, subject)
    with cache_folder(asked.cache) as cache:
        report = _report(asked, dataset, protocol, subject, cache)
    _print(report, form)
    if baseline and report.queries:
        for difference in differences(baseline, report.subject):
            print_line(difference, err=True)
        print_line(pass_gate(compared(baseline, report.queries)), err=True)


def _pairs_of(asked: Request) -> int:
    """The n of three-stage, 0 for none; an error where it cannot be had."""
    from aladin.evaluation.cross_encoder import check_cross_encoder, has_cross_encoder

    if asked.pairs and asked.pairs > asked.rerank:
        raise ConfigError(
            f"--pairs is {asked.pairs} and --rerank {asked.rerank}; the third stage reads what the second has put in order: "
            "give a --rerank of at least --pairs"
        )
    if asked.pairs or asked.pair_model:
        check_cross_encoder(asked.pair_folder)
    if asked.pairs is None:
        return min(PAIRS, asked.rerank) if has_cross_encoder(asked.pair_folder) else 0
    return asked.pairs


def _third_stage(asked: Request, dataset: "Dataset", pairs: int, cache: Path, stages: "Stages") -> "ThirdStage | None":
    from aladin.evaluation.cross_encoder import CrossEncoder
    from aladin.evaluation.evaluate import ThirdStage

    if not pairs:
        return None
    return ThirdStage(pairs, CrossEncoder.load(asked.pair_folder, dataset, asked.precision or "fp32", cache, stages).scores)


def _subject(asked: Request, dataset: "Dataset", precision: str, pairs: int) -> "Subject":
    from aladin.measures.protocols import digest
    from aladin.measures.report import Subject

    return Subject(
        printable(str(asked.model)),
        printable(str(asked.data)),
        asked.split,
        len(dataset),
        dataset.caption_count,
        asked.rerank,
        precision,
        asked.protocol,
        digest(dataset),
        pairs,
        printable(str(asked.pair_folder)) if pairs else "",
        __version__,
    )


def _report(asked: Request, dataset: "Dataset", protocol: "Protocol", subject: "Subject", cache: Path) -> "Report":
    """Everything that was asked for, but for the comparison with a baseline; writes the HTML page."""
    from aladin.evaluation import evaluate as evaluation
    from aladin.measures.judgements import read_judgements
    from aladin.measures.protocols import folds
    from aladin.measures.relevance.named import Judging, named_judge
    from aladin.measures.report import QueryValues, full_report
    from aladin.network import checkpoints

    stages = evaluation.Stages(lambda name: progress_shown(name, quiet=False))
    captions_of_each = [len(example.captions) for example in dataset.examples]
    parts = folds(captions_of_each, protocol)
    judgements = read_judgements(asked.judgements, dataset, asked.skip_bad) if asked.judgements else None
    if asked.judgements and judgements:
        tell_skipped(asked.judgements, judgements.skipped)
        if judgements.own:
            print_line(f"{judgements.own:,} judged pairs are left out, as their caption is one of the image's own", err=True)
    judging = Judging(dataset, protocol, asked.ids, cache, asked.memory, stages.stage, lambda text: print_line(text, err=True))
    judges = [named_judge(text, judging) for text in dict.fromkeys(asked.measures)]
    encoded = evaluation.encode_dataset(asked.model, dataset, asked.precision or "fp32", cache, stages)
    cross_encoder_fingerprint = checkpoints.fingerprint(asked.pair_folder) if subject.pairs else ""
    subject = replace(
        subject, fingerprint=checkpoints.fingerprint(asked.model), cross_encoder_fingerprint=cross_encoder_fingerprint
    )
    third = _third_stage(asked, dataset, subject.pairs, cache, stages)
    found = evaluation.evaluate(encoded, asked.rerank, asked.memory, stages, parts, judges, third)
    agreements = evaluation.agreements(encoded, judgements, asked.memory) if judgements else {}
    origins = {name: judge.origin for judge in judges for name in judge.measures}
    report = full_report(subject, QueryValues(captions_of_each, found.ranks, found.judged, origins), found.seconds, agreements)
    if asked.html:
        from aladin.evaluation.hardest import hardest_queries
        from aladin.measures.html_report import html_page

        _write(asked.html, html_page(report, hardest_queries(encoded, dataset, found.ranks["alignment"], parts)))
    return report


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
