"""`aladin remove`: Take images out of a collection."""

import os
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
from aladin.cli.values import JSON, PATH, with_options
from aladin.collection.sqlite import Collection
from aladin.collection.writer import CollectionWriter
from aladin.errors import DataError
from aladin.pictures.frames import named_picture


@click.command
@FOLDER
@click.argument("paths", nargs=-1, type=PATH)
@click.option("--offline", is_flag=True, help="Forget all images whose files are gone.")
@click.option("--undo", is_flag=True, help="Take PATHS back; the next `aladin index` reads them.")
@with_options((JSON, PLACE, QUIET))
def remove(
    folder: Path, paths: tuple[Path, ...], offline: bool, undo: bool, as_json: bool, collection: Path | None, quiet: bool
) -> None:
    """Take the images at PATHS, or all below those that are folders, out of the collection of FOLDER.

    The files are not touched, and are not read again by later runs. Paths are as they were printed, or relative to FOLDER.
    """
    if bool(paths) == offline:
        raise click.UsageError("give PATHS to remove, or --offline for all whose files are gone")
    if offline and undo:
        raise click.UsageError("what --offline forgets cannot be taken back; leave out --undo")
    file = existing(folder, collection)
    with CollectionWriter.create(file, folder) as opened:
        if offline:
            count = opened.forget_offline()
        else:
            ids = [image_id for path in paths for image_id in _ids_of(opened, folder, path)]
            with opened.transaction():
                count = (opened.restore if undo else opened.remove)(ids)
    done = "taken back" if undo else "forgotten" if offline else "removed"
    if as_json:
        write_bytes(json_line({"removed": 0, "taken_back": 0, "forgotten": 0} | {done.replace(" ", "_"): count}, indent=2))
    elif not quiet:
        print_line(f"{count:,} {done}", err=True)


def _ids_of(opened: Collection, folder: Path, path: Path) -> list[int]:
    """The ids of the image at a path, of all below a folder, or of one picture, "cat.gif[2]"; DataError when there is none."""
    below_root = {os.path.relpath(os.path.realpath(path.parent) / Path(path.name), opened.root), os.fspath(path)}
    for name in sorted(below_root):
        ids = opened.ids_below(os.path.normpath(name))
        if ids:
            return ids
        image = opened.row_at(*named_picture(os.path.normpath(name)))
        if image is not None:
            return [image.id]
    raise DataError(f"the collection of {folder} has no image at {path}; see `aladin status`")
