"""`aladin watch`: Keep a folder's collection up to date, change by change."""

from pathlib import Path
from typing import Any

import click

from aladin.cli.folder import (
    FOLDER,
    MODEL,
    PLACE,
    QUIET,
    brought_up_to_date,
    check_folder,
    holds_images,
)
from aladin.cli.reading import READING, index_config, print_failures, summary
from aladin.cli.terminal import print_line
from aladin.cli.values import with_options
from aladin.collection.indexing import IndexReport
from aladin.collection.settings import IndexConfig
from aladin.collection.store import default_file
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model
from aladin.errors import CollectionLocked, DataError


@click.command
@FOLDER
@with_options((*READING, MODEL, PLACE, QUIET))
def watch(folder: Path, model: Path | None, collection: Path | None, quiet: bool, **options: Any) -> None:
    """Keep the collection of FOLDER up to date until interrupted: index now, then after every change.

    While FOLDER is away, as when its disk is, or holds no image yet, it says so once and waits.
    """
    from aladin.collection.watch import ticks

    check_folder(folder)
    file, encoder, config = collection or default_file(folder), Encoder.load(model or shipped_model()), index_config(**options)
    behind = waiting = False
    named: set[str] = set()
    for changed in ticks(folder):
        why = _nothing_to_read(folder, file, config)
        if not why and (changed or behind):
            behind = False
            try:
                report = brought_up_to_date(folder, file, encoder, quiet, config)
                _print_report(folder, file, report, quiet, named)
            except CollectionLocked as error:
                why, behind = str(error), True
            except DataError:
                why = _nothing_to_read(folder, file, config)  # it went meanwhile
                if not why:
                    raise
        if why and not waiting and not quiet:
            print_line(f"aladin: {why}; waiting", err=True)
        waiting = bool(why)


def _nothing_to_read(folder: Path, file: Path, config: IndexConfig) -> str:
    """Why the folder cannot be indexed now, but may be later."""
    if not folder.is_dir():
        return f"the folder {folder} is not there"
    return "" if file.is_file() or holds_images(folder, config) else f"there are no images in {folder} yet"


def _print_report(folder: Path, file: Path, report: IndexReport, quiet: bool, named: set[str]) -> None:
    """What a run found, with those of the skipped files that are not yet `named`."""
    if report.warning:
        print_line(f"aladin: {report.warning}", err=True)
    if not quiet:
        print_failures(folder, file, report, named)
        print_line(summary(report), err=True)
