"""`aladin correct-hubs`: Lower the scores of what is near everything, in a trained model."""

from pathlib import Path

import click

from aladin.cli.captioned import CACHE, SKIP_BAD, TRAINED_WITH_DATA, read_captioned
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_line
from aladin.cli.values import DEVICE, with_options
from aladin.encoder.config import HeadsConfig


@click.command("correct-hubs")
@with_options(TRAINED_WITH_DATA)
@click.option("--centres", type=click.IntRange(min=1), default=500, show_default=True, help="In the bank of each side.")
@click.option("--scale", type=float, default=HeadsConfig.hub_scale, show_default=True, help="Inverse temperature of nearness.")
@click.option("--weight", type=float, default=HeadsConfig.hub_weight, show_default=True, help="Of nearness in scores.")
@DEVICE
@CACHE
@SKIP_BAD
def correct_hubs(
    model: Path,
    out: Path,
    data: Path,
    split: str | None,
    images: Path | None,
    centres: int,
    scale: float,
    weight: float,
    device: str,
    cache: Path | None,
    skip_bad: bool,
) -> None:
    """Write to OUT the trained MODEL with its hubs corrected, for `aladin evaluate` and `aladin export`.

    Hubs are images near every caption, and captions near every image, whatever they show. How near each is to training data at
    large is subtracted from its scores. Nothing is trained; to train on, start from MODEL, the one before.

    \b
    aladin correct-hubs runs/lite/best runs/corrected --data train.zip
    """
    from aladin.exporting import hub_correction

    hub_correction.check_model(model, out)  # said before the data are read
    dataset = read_captioned(data, split, images, skip_bad)
    done = hub_correction.correct_hubs(
        model, out, dataset, centres=centres, scale=scale, weight=weight, cache=cache, device=device, progress=TerminalSteps()
    )
    print_line(f"{out}: {done.centres} centres a side, of {done.images:,} images and {done.captions:,} captions")
