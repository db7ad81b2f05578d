"""`aladin export`: Make the files that search runs from a trained model."""

from pathlib import Path
from typing import Literal, TextIO

import click

from aladin.cli.captioned import CACHE, SKIP_BAD, read_captioned
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_line
from aladin.cli.values import DEVICE, PATH


@click.command()
@click.argument("model", type=PATH)
@click.argument("out", type=PATH)
@click.option("--val", type=PATH, required=True, help="Images with captions to measure the export on.")
@click.option("--split", help="Split of the validation data to use, where it names splits.")
@click.option("--images", type=PATH, help="Folder or zip of the images, if not beside their captions.")
@click.option(
    "--precision", type=click.Choice(["int8", "fp16", "fp32"]), default="int8", show_default=True, help="Of the weights."
)
@click.option("--notes", type=click.File(encoding="utf-8"), help="Markdown for the card: training data, its terms, limits.")
@DEVICE
@CACHE
@SKIP_BAD
def export(
    model: Path,
    out: Path,
    val: Path,
    split: str | None,
    images: Path | None,
    precision: Literal["int8", "fp16", "fp32"],
    notes: TextIO | None,
    device: str,
    cache: Path | None,
    skip_bad: bool,
) -> None:
    """Write the ONNX graphs of a trained MODEL, its tokenizer, settings and card to the folder OUT.

    The graphs are measured on the validation data first; nothing is written if they lose quality against PyTorch.
    """
    from aladin.exporting import export as exporting

    exporting.check_model(model, out)  # said before the data are read
    data = read_captioned(val, split, images, skip_bad)
    text = exporting.NO_NOTES if notes is None else notes.read()
    report, parity = exporting.export(
        model, out, data, precision=precision, notes=text, cache=cache, device=device, progress=TerminalSteps()
    )
    if parity.remark:
        print_line(f"aladin: {parity.remark}", err=True)
    print_line(f"least cosine {parity.cosine:.6f}, rsum lost (below 0: gained): {parity.losses}", err=True)
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    rsums = ", ".join(f"{head} {figures.rsum.value:.1f}" for head, figures in report.heads.items())
    print_line(f"{out}: {size:.1f} MB; rsum on {val.name}: {rsums}")
