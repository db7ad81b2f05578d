"""`aladin add-global-head`: Let a trained model compare pictures and sentences as a whole too."""

from pathlib import Path

import click

from aladin.cli.captioned import CACHE, SKIP_BAD, TRAINED_WITH_DATA, read_captioned
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_line
from aladin.cli.values import DEVICE, FiniteRange, with_options
from aladin.encoder.config import HeadsConfig


@click.command("add-global-head")
@with_options(TRAINED_WITH_DATA)
@click.option("--dim", type=click.IntRange(1, 384), default=128, show_default=True, help="Numbers added to vectors and tokens.")
@click.option(
    "--share",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=HeadsConfig.global_share,
    show_default=True,
    help="Of the global head in every score.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=160, show_default=True, help="Of its learning.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of its learning.")
@DEVICE
@CACHE
@SKIP_BAD
def add_global_head(
    model: Path,
    out: Path,
    data: Path,
    split: str | None,
    images: Path | None,
    dim: int,
    share: float,
    epochs: int,
    seed: int,
    device: str,
    cache: Path | None,
    skip_bad: bool,
) -> None:
    """Write to OUT the trained MODEL with a global head, for `aladin correct-hubs`, `aladin evaluate` and `aladin export`.

    The global head compares pictures and sentences as a whole, by perceptrons that learn in minutes, and its score is added to
    those of MODEL, which learns nothing here. MODEL may be an exported folder, as good as its stored weights are. A global head
    and a correction of hubs that it has already are left out: make the correction anew. To train on, start from MODEL.

    \b
    aladin add-global-head runs/lite/best runs/whole --data train.zip
    """
    from aladin.training import adding_global_head

    adding_global_head.check_model(model, out)  # said before the data are read
    dataset = read_captioned(data, split, images, skip_bad)
    added = adding_global_head.add_global_head(
        model,
        out,
        dataset,
        dim=dim,
        share=share,
        epochs=epochs,
        seed=seed,
        cache=cache,
        device=device,
        progress=TerminalSteps(),
    )
    print_line(f"{out}: a global head of {dim} numbers, from {added.images:,} images and {added.captions:,} captions")
