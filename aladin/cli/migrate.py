"""`aladin migrate`: Let another model answer for a folder, once it has read every image."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aladin.cli.exit_codes import SKIPPED_SOME
from aladin.cli.folder import FOLDER, MODEL, PLACE, QUIET, existing
from aladin.cli.progress import progress_shown
from aladin.cli.reading import READING, index_config
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line
from aladin.cli.values import JSON, with_options
from aladin.collection.migration import Migrated, go_back
from aladin.collection.migration import migrate as migrated_to
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder


@click.command
@FOLDER
@click.option("--back", is_flag=True, help="Let the model before the last migration answer again.")
@with_options((*READING, JSON, MODEL, PLACE, QUIET))
def migrate(
    folder: Path, back: bool, as_json: bool, model: Path | None, collection: Path | None, quiet: bool, **options: Any
) -> int:
    """Read the images of FOLDER by another --model, and let that one answer from then on; ids stay.

    Meanwhile the model before answers, and where the command is stopped, it goes on answering; the same command goes on. The
    new rows stand beside the old ones until the exchange, the old ones after it: `aladin compact` gives their space back, and
    until then --back is the way back. Commands need the new --model afterwards. Ends with 3 when images were left out.

    \b
    aladin migrate photos --model runs/mine/exported
    aladin migrate photos --back
    """
    if back == (model is not None):
        raise click.UsageError("give either --model, the model that is to answer, or --back")
    file = existing(folder, collection)
    with CollectionWriter.create(file, folder) as opened:
        if model is None:
            done = go_back(opened)
        else:
            with progress_shown("encoding", quiet) as progress:
                done = migrated_to(opened, Encoder.load(model), index_config(**options), progress)
    if as_json:
        write_bytes(json_line(asdict(done), indent=2))
    elif not quiet:
        print_line(_summary(done), err=True)
    return SKIPPED_SOME if done.left_out else 0


def _summary(done: Migrated) -> str:
    left_out = "".join(f", {count:,} left out: {reason}" for reason, count in done.left_out.items())
    kept = f"the rows of {done.before} are kept until `aladin compact`"
    return f"{done.model} answers now: {done.images:,} images, {done.encoded:,} encoded in this run{left_out}; {kept}"
