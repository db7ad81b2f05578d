"""`aladin encode`: Write the vectors of images with captions."""

from pathlib import Path

import click

from aladin.cli.captioned import CACHE, SKIP_BAD, read_captioned
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_line
from aladin.cli.values import DEVICE, MODEL_PATH, PATH
from aladin.errors import ConfigError


@click.command
@click.argument("model", type=MODEL_PATH)
@click.argument("data", type=PATH)
@click.argument("out", type=PATH)
@click.option("--split", help="Split of the data to use, where it names splits.")
@click.option("--images", type=PATH, help="Folder or zip of the images, if not beside their captions.")
@DEVICE
@CACHE
@SKIP_BAD
def encode(
    model: Path,
    data: Path,
    out: Path,
    split: str | None,
    images: Path | None,
    device: str,
    cache: Path | None,
    skip_bad: bool,
) -> None:
    """Write the vectors of DATA, images with captions, by the model folder MODEL to OUT, an .npz file.

    It holds images (their ids), image_vectors, captions, caption_vectors, and owners: of each caption the row of its image.

    \b
    aladin encode runs/both/best flickr8k.zip vectors.npz --split val
    """
    from aladin.evaluation.vectors import encode as encoded

    if out.exists():
        raise ConfigError(f"{out} exists; give another path or delete it")
    found = encoded(model, read_captioned(data, split, images, skip_bad), cache=cache, device=device, progress=TerminalSteps())
    found.save(out)
    print_line(f"{out}: vectors of {len(found.images):,} images and {len(found.captions):,} captions")
