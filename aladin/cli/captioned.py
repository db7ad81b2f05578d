"""What the commands on images with captions share: reading them, with what cannot be read left out where that is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aladin.cli.progress import progress_shown
from aladin.cli.results import printable
from aladin.errors import DataError

if TYPE_CHECKING:
    from aladin.datasets import Dataset

SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Leave out rows and images that cannot be read, and count them by reason."
)


def read_captioned(path: Path, split: str | None, images: Path | None, skip_bad: bool) -> "Dataset":
    """The data set at `path`; with `skip_bad` without rows and images that cannot be read, which are counted on stderr."""
    from aladin.datasets import read_dataset, without_undecodable

    dataset = read_dataset(path, split, images, skip_bad)
    if skip_bad:
        with progress_shown("images looked at", quiet=False) as tell:
            dataset = without_undecodable(dataset, tell)
    tell_skipped(path, dataset.skipped)
    if not len(dataset):
        raise DataError(f"{printable(str(path))} has no image that can be decoded; read it without --skip-bad to see where")
    return dataset


def tell_skipped(path: Path, skipped: Mapping[str, int]) -> None:
    """On stderr, how many rows of `path` were left out for each reason."""
    for reason, count in skipped.items():
        click.echo(f"{printable(str(path))}: {count:,} rows skipped: {reason}", err=True)
