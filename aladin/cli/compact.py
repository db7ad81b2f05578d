"""`aladin compact`: Give back the disk space that removed images, and a model before, left."""

from pathlib import Path

import click

from aladin.cli.folder import (
    FOLDER,
    PLACE,
    QUIET,
    existing,
)
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line
from aladin.cli.values import JSON, with_options
from aladin.collection.migration import forget_beside
from aladin.collection.writer import CollectionWriter


@click.command
@FOLDER
@with_options((JSON, PLACE, QUIET))
def compact(folder: Path, as_json: bool, collection: Path | None, quiet: bool) -> None:
    """Give back the disk space that removed images left in the collection of FOLDER, and rows of a model before a migration.

    Meanwhile what remains is on the disk twice more: in the folder for temporary files (TMPDIR), and beside the collection.
    """
    file = existing(folder, collection)
    before = file.stat().st_size
    with CollectionWriter.create(file, folder) as opened:
        forget_beside(opened)
        opened.compact()
    after = file.stat().st_size
    if as_json:
        write_bytes(json_line({"bytes_before": before, "bytes_after": after}, indent=2))
    elif not quiet:
        print_line(f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after", err=True)
