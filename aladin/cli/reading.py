"""What the commands that read photographs share: their options, and what they say of a run."""

from pathlib import Path

import click

from aladin.cli.terminal import print_line
from aladin.cli.values import memory_size
from aladin.collection.indexing import IndexReport
from aladin.collection.opening import open_store
from aladin.collection.settings import IndexConfig
from aladin.errors import ConfigError
from aladin.pictures.frames import picture_name
from aladin.pictures.limits import MOST_FRAMES

SHOWN_FAILURES = 20  # files named on stderr; all are in the collection


def ceiling(text: str) -> int:
    """Megabytes that leave room for reading images."""
    size = memory_size(text) >> 20
    try:
        IndexConfig(max_memory_mb=size)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    return size


FRAMES = click.option(
    "--frames",
    type=click.IntRange(1, MOST_FRAMES),
    help="Read up to so many pictures of a file with several: an animation, pages.  [default: as before, at first 1]",
)
READING = (
    click.option("--workers", type=click.IntRange(0), help="Processes that decode.  [default: one a core]"),
    click.option("--max-memory", type=ceiling, metavar="SIZE", help="Keep all processes together below it, such as 1G."),
    click.option("--follow-symlinks", is_flag=True, help="Read what links lead to, also outside FOLDER."),
)


def index_config(
    workers: int | None = None, max_memory: int | None = None, frames: int | None = None, **flags: bool
) -> IndexConfig:
    """The settings of these options, those that are left out at their defaults."""
    return IndexConfig(workers=workers or 0, max_memory_mb=max_memory or 0, frames=frames or 0, **flags)


def print_failures(folder: Path, file: Path, report: IndexReport, named: set[str] | None = None) -> None:
    """The first files that could not be read, with why; of those in `named`, which grows, nothing more."""
    if not report.skipped:
        return
    named = set() if named is None else named
    shown = 0
    with open_store(file) as collection:
        for row in collection.images("failed"):
            line = f"skipped: {picture_name(str(folder / row.path), row.frame)} {row.reason}"
            if line in named:
                continue
            named.add(line)
            shown += 1
            if shown <= SHOWN_FAILURES:
                print_line(line, err=True)
    if shown > SHOWN_FAILURES:
        print_line(f"skipped: and {shown - SHOWN_FAILURES:,} more", err=True)


def summary(report: IndexReport) -> str:
    """The counts that are not 0, and how long it took."""
    counts = [
        (report.added, "added"), (report.updated, "updated"), (report.moved, "moved"), (report.returned, "back again"),
        (report.unchanged, "unchanged"), (report.offline, "offline"), (report.forgotten, "forgotten"),
        (sum(report.skipped.values()), "skipped"),
    ]  # fmt: skip
    found = ", ".join(f"{count:,} {what}" for count, what in counts if count) or "nothing to do"
    rate = f", {report.images_per_second:.0f} images/s" if report.images_per_second else ""
    return f"{found}; {report.seconds:.1f} s{rate}"
