"""`aladin index`: Read a folder's new and changed images into its collection."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aladin.cli.exit_codes import SKIPPED_SOME
from aladin.cli.folder import (
    FOLDER,
    MODEL,
    PLACE,
    QUIET,
    brought_up_to_date,
)
from aladin.cli.reading import FRAMES, READING, index_config, print_failures, summary
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line
from aladin.cli.values import JSON, with_options
from aladin.collection.store import default_file
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model


@click.command
@FOLDER
@click.option("--rebuild", is_flag=True, help="Read all images again, as after a change of model; ids stay.")
@click.option(
    "--confirm-deletes", is_flag=True, help="Forget the images whose files are gone, instead of keeping them offline."
)
@click.option("--retry-failed", is_flag=True, help="Read files again that could not be read before.")
@with_options((FRAMES, *READING, JSON, MODEL, PLACE, QUIET))
def index(
    folder: Path, rebuild: bool, as_json: bool, model: Path | None, collection: Path | None, quiet: bool, **options: Any
) -> int:
    """Read the new and changed images of FOLDER into its collection.

    Files that are gone stay known, for when they come back. Ends with 3 when some files could not be read.
    """
    file = collection or default_file(folder)
    config = index_config(**options)
    report = brought_up_to_date(folder, file, Encoder.load(model or shipped_model()), quiet, config, rebuild)
    if not quiet:
        print_failures(folder, file, report)
    if report.warning:
        print_line(f"aladin: {report.warning}", err=True)
    if as_json:
        write_bytes(json_line(asdict(report), indent=2))
    elif not quiet:
        print_line(summary(report), err=True)
    return SKIPPED_SOME if report.skipped else 0
