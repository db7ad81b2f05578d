"""What the commands on images with captions share: their options, reading them, with what cannot be read left out where that is
asked for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aladin.cli.progress import progress_shown
from aladin.cli.terminal import print_line, printable
from aladin.cli.values import MODEL_PATH, PATH
from aladin.errors import DataError

if TYPE_CHECKING:
    from aladin.datasets import Dataset

SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Leave out rows and images that cannot be read, and count them by reason."
)


CACHE = click.option("--cache", type=PATH, help="Folder to keep image features in, for the next time.")
# Of a command that adds something to a trained model.
TRAINED_WITH_DATA = (
    click.argument("model", type=MODEL_PATH),
    click.argument("out", type=PATH),
    click.option("--data", type=PATH, required=True, help="Training images with captions."),
    click.option("--split", help="Split of the data to use, where it names splits."),
    click.option("--images", type=PATH, help="Folder or zip of the images, if not beside their captions."),
)


def read_captioned(path: Path, split: str | None, images: Path | None, skip_bad: bool) -> "Dataset":
    """The data set at `path`; with `skip_bad` without rows and images that cannot be read, which are counted on stderr."""
    from aladin.datasets import read_dataset, without_undecodable

    dataset = read_dataset(path, split, images, skip_bad)
    if skip_bad:
        with progress_shown("images looked at", quiet=False) as progress:
            dataset = without_undecodable(dataset, progress)
    print_skipped(path, dataset.skipped)
    if not len(dataset):
        raise DataError(f"{printable(str(path))} has no image that can be decoded; read it without --skip-bad to see where")
    return dataset


def print_skipped(path: Path, skipped: Mapping[str, int]) -> None:
    """On stderr, how many rows of `path` were left out for each reason."""
    for reason, count in skipped.items():
        print_line(f"{path}: {count:,} rows skipped: {reason}", err=True)
