"""`aladin similar`: Find the images of a folder that look like a given one."""

from pathlib import Path
from typing import Any

import click

from aladin.cli.folder import FOLDER
from aladin.cli.searching import SEARCHING, answer, split
from aladin.cli.values import PATH, with_options


@click.command
@FOLDER
@click.argument("image", type=PATH)
@with_options(SEARCHING)
def similar(folder: Path, image: Path, **options: Any) -> int:
    """Find the images of FOLDER that look like IMAGE, which may but need not be one of them.

    \b
    aladin similar ~/Pictures holiday.jpg
    aladin similar ~/Pictures holiday.jpg --box 120,80,300,200
    """
    query, rest = split(options)
    return answer(folder, query.query(image=image, root=folder), query.folders_below(folder), rest)
