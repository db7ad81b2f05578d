"""`aladin verify`: Check every row, vector and page of a collection."""

from dataclasses import asdict
from pathlib import Path

import click

from aladin.cli.exit_codes import DAMAGED
from aladin.cli.folder import (
    FOLDER,
    PLACE,
    existing,
)
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_lines, printable
from aladin.cli.values import JSON, with_options
from aladin.collection.verify import Verification
from aladin.collection.verify import verify as check

SHOWN_DAMAGE = 20  # rows named; all are in the JSON


@click.command
@FOLDER
@with_options((JSON, PLACE))
def verify(folder: Path, as_json: bool, collection: Path | None) -> int:
    """Read everything that the collection of FOLDER stores and hold it against its checksums. Ends with 1 on damage."""
    file = existing(folder, collection)
    found = check(file)
    if as_json:
        write_bytes(json_line(asdict(found) | {"whole": found.whole}, indent=2))
    else:
        print_lines(_verdict(file, found))
    return 0 if found.whole else DAMAGED


def _verdict(file: Path, found: Verification) -> str:
    if found.whole:
        return f"{printable(str(file))} is whole: {found.rows:,} images, {found.bytes / 1e6:,.1f} MB read"
    lines = [f"{printable(str(file))} is damaged; `aladin repair` keeps what is whole"]
    lines += [f"  {printable(line)}" for line in found.structure]
    for damage in found.damage[:SHOWN_DAMAGE]:
        lines.append(f"  image {damage.id}{f' ({printable(damage.path)})' if damage.path else ''}: {damage.what}")
    if len(found.damage) > SHOWN_DAMAGE:
        lines.append(f"  and {len(found.damage) - SHOWN_DAMAGE:,} more")
    return "\n".join(lines)
