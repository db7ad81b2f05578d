"""`aladin correct-hubs`: Lower the scores of what is near everything, in a trained model."""

from dataclasses import replace
from pathlib import Path

import click

from aladin.cli.captioned import CACHE, SKIP_BAD, TRAINED_WITH_DATA, cache_folder, read_captioned
from aladin.cli.memory import keep_freed_memory
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_line
from aladin.cli.values import with_options
from aladin.datasets import DataOrigin, Dataset
from aladin.encoder.config import HeadsConfig
from aladin.encoder.folder import model_config
from aladin.errors import ConfigError

MAX_IMAGES = 10_000  # more make no better centres, and are held in memory


@click.command("correct-hubs")
@with_options(TRAINED_WITH_DATA)
@click.option("--centres", type=click.IntRange(min=1), default=500, show_default=True, help="In the bank of each side.")
@click.option("--scale", type=float, default=HeadsConfig.hub_scale, show_default=True, help="Inverse temperature of nearness.")
@click.option("--weight", type=float, default=HeadsConfig.hub_weight, show_default=True, help="Of nearness in scores.")
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
    cache: Path | None,
    skip_bad: bool,
) -> None:
    """Write to OUT the trained MODEL with its hubs corrected, for `aladin evaluate` and `aladin export`.

    Hubs are images near every caption, and captions near every image, whatever they show. How near each is to training data at
    large is subtracted from its scores. Nothing is trained; to train on, start from MODEL, the one before.

    \b
    aladin correct-hubs runs/lite/best runs/corrected --data train.zip
    """
    from aladin.evaluation.encoding import encode_dataset
    from aladin.network.checkpoints import load_model, named_model, provenance, save_model
    from aladin.network.variants import check_addable, with_hub_correction

    keep_freed_memory()
    config = model_config(model)
    check_addable(config)  # said before minutes go into encoding, as is what is wrong with the settings
    heads = replace(config.heads, hub_centres=centres, hub_scale=scale, hub_weight=weight)
    dataset = sample(read_captioned(data, split, images, skip_bad))
    check_centres(data, dataset, centres)
    steps = TerminalSteps()
    with cache_folder(cache) as folder:
        encoded = encode_dataset(model, dataset, "fp32", folder, steps)
    corrected = with_hub_correction(load_model(model), heads, encoded.images.vectors, encoded.captions.vectors)
    used = DataOrigin.of(dataset)
    origin = provenance(model) | {"hub_correction": {"model": named_model(model), "data": used.table()}}
    save_model(corrected, model / "tokenizer.json", out, origin)
    print_line(f"{out}: {centres} centres a side, of {used.images:,} images and {used.captions:,} captions")


def check_centres(path: Path, dataset: Dataset, centres: int) -> None:
    """ConfigError unless there are as many images, and as many captions, as each side is to have centres."""
    images, captions = len(dataset), dataset.caption_count
    if centres > min(images, captions):
        raise ConfigError(
            f"--centres is {centres:,}, but {path} gives {images:,} images and {captions:,} captions (at most {MAX_IMAGES:,} "
            f"images count); expected at least as many of both: give more data, or --centres {min(images, captions)} or fewer"
        )


def sample(dataset: Dataset) -> Dataset:
    """At most MAX_IMAGES of a data set, evenly spread over it."""
    step = -(-len(dataset) // MAX_IMAGES)
    return replace(dataset, examples=dataset.examples[::step])
