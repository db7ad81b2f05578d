"""`aladin status`: What a folder's collection holds."""

from dataclasses import asdict
from pathlib import Path

import click

from aladin.cli.folder import (
    FOLDER,
    PLACE,
    existing,
)
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_lines, printable
from aladin.cli.values import JSON, with_options


@click.command
@FOLDER
@with_options((JSON, PLACE))
def status(folder: Path, as_json: bool, collection: Path | None) -> None:
    """What the collection of FOLDER holds: images by state, model, size, and who is writing it."""
    from aladin.collection.status import status_of

    found = status_of(existing(folder, collection))
    if as_json:
        write_bytes(json_line(asdict(found), indent=2))
    else:
        print_lines(found.as_text(printable))
