"""`aladin plan`: Estimate what indexing a folder will take and skip."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aladin.cli.folder import (
    FOLDER,
    MODEL,
    PLACE,
    check_folder,
)
from aladin.cli.reading import FRAMES, READING, index_config
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_lines
from aladin.cli.values import JSON, with_options
from aladin.collection.store import default_file
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model


@click.command
@FOLDER
@with_options((FRAMES, *READING, JSON, MODEL, PLACE))
def plan(folder: Path, as_json: bool, model: Path | None, collection: Path | None, **options: Any) -> None:
    """Estimate time, memory and disk of indexing FOLDER, and what will be skipped, by reading a few of its images.

    Nothing is written.
    """
    from aladin.collection.plan import plan_for

    check_folder(folder)
    file = collection or default_file(folder)
    found = plan_for(folder, file, Encoder.load(model or shipped_model()), index_config(**options))
    if as_json:
        write_bytes(json_line(asdict(found), indent=2))
    else:
        print_lines(found.as_text())
