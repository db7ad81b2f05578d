"""`aladin search`: Find the images of a folder that a sentence describes."""

from pathlib import Path
from typing import Any

import click

from aladin.cli.folder import FOLDER
from aladin.cli.searching import SEARCHING, answer, split
from aladin.cli.values import with_options


@click.command
@FOLDER
@click.argument("text", required=False)
@with_options(SEARCHING)
def search(folder: Path, text: str | None, **options: Any) -> int:
    """Find the images of FOLDER that TEXT describes.

    The first search reads the folder's images into a collection, later ones add what is new or changed.

    \b
    aladin search ~/Pictures "two dogs run through snow"
    aladin search ~/Pictures "a dog" --and snow --weight 1 --weight 2 --without people
    aladin search ~/Pictures "a beach" --image sunset.jpg --after 2024 --where "width > height"
    """
    query, rest = split(options)
    return answer(folder, query.query(text=text, root=folder), query.folders_below(folder), rest)
