"""`aladin repair`: Make a damaged collection whole."""

from dataclasses import asdict
from pathlib import Path

import click

from aladin.cli.folder import (
    FOLDER,
    MODEL,
    PLACE,
    QUIET,
    existing,
)
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line
from aladin.cli.values import JSON, with_options
from aladin.collection.repair import repair as mend
from aladin.encoder.folder import ModelFolder, shipped_model


@click.command
@FOLDER
@with_options((JSON, MODEL, PLACE, QUIET))
def repair(folder: Path, as_json: bool, model: Path | None, collection: Path | None, quiet: bool) -> None:
    """Make a damaged collection of FOLDER whole: keep what checksums confirm, have the rest read again by `aladin index`."""
    file = existing(folder, collection)
    done = mend(file, folder, ModelFolder.of_photographs(model or shipped_model()))
    if as_json:
        table = asdict(done) | {"damaged_copy": str(done.damaged_copy) if done.damaged_copy else None}
        write_bytes(json_line(table, indent=2))
    elif not quiet:
        print_line(f"{done.kept:,} images kept, {done.to_read_again:,} to be read again, {done.lost:,} lost", err=True)
        if done.damaged_copy:
            print_line("not counted: images of which not even an id can be read any more", err=True)
            print_line(f"the damaged file is now {done.damaged_copy}", err=True)
        if done.to_read_again or done.lost:
            print_line(f"now run: aladin index {folder}", err=True)
