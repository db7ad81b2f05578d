"""`aladin dupes`: List the images of a folder that are copies of each other, or nearly."""

import os
from pathlib import Path

import click

from aladin.cli.exit_codes import SKIPPED_SOME
from aladin.cli.folder import FOLDER, PLACE, QUIET, check_folder, existing
from aladin.cli.progress import progress_shown
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line
from aladin.cli.values import form_option
from aladin.collection.opening import open_store
from aladin.collection.store import ImageRow
from aladin.search.duplicates import LEVELS, Duplicates, Group, Level, find_duplicates

SHOWN_LEFT_OUT = 20  # files named on stderr; all are in the JSON


@click.command
@FOLDER
@click.option("--level", type=click.Choice(LEVELS), default="same", show_default=True, help="How alike is enough.")
@form_option("--json", form="json", line="One JSON object.")
@form_option("-0", "--print0", form="print0", line="All but the best of each group, NUL-ended, for xargs -0.")
@PLACE
@QUIET
def dupes(folder: Path, level: Level, form: str | None, collection: Path | None, quiet: bool) -> int:
    """List groups of images of FOLDER that are copies of each other; the first of each is the best one. Nothing is deleted.

    \b
    exact  the same file, byte by byte
    same   the same picture, saved, resized or recoloured again
    alike  nearly the same scene, such as a burst or a mirrored copy

    Every level includes those before it. FOLDER must have been indexed before; files that have changed since are left out, and
    it ends with 3.

    \b
    aladin dupes ~/Pictures
    aladin dupes ~/Pictures --level exact -0 | xargs -0 -n 1 echo
    """
    check_folder(folder)
    with open_store(existing(folder, collection)) as stored, progress_shown("comparing", quiet) as progress:
        stored.check_root(folder)
        found = find_duplicates(stored, level, progress)
    if form == "json":
        write_bytes(json_line(_summary(folder, level, found), indent=2))
    elif form == "print0":
        write_bytes(b"".join(os.fsencode(folder / row.path) + b"\0" for group in found.groups for row in group.images[1:]))
    else:
        _print(folder, found.groups)
    if not quiet:
        _print_remarks(folder, found)
    return SKIPPED_SOME if found.changed or found.unreadable else 0


def _summary(folder: Path, level: Level, found: Duplicates) -> dict[str, object]:
    return {
        "level": level,
        "groups": [{"level": group.level, "images": [_table(folder, row) for row in group.images]} for group in found.groups],
        "changed": [str(folder / row.path) for row in found.changed],
        "unreadable": [str(folder / row.path) for row in found.unreadable],
    }


def _table(folder: Path, row: ImageRow) -> dict[str, object]:
    return {"id": row.id, "path": str(folder / row.path), "width": row.width, "height": row.height, "size": row.size}


def _print(folder: Path, groups: tuple[Group, ...]) -> None:
    """A block for each group: its level, then a line for each image."""
    for group in groups:
        print_line(group.level)
        for row in group.images:
            print_line(f"  {row.width} x {row.height}", f"{row.size:,} bytes", str(folder / row.path))


def _print_remarks(folder: Path, found: Duplicates) -> None:
    """On stderr: how much there is, and what was left out."""
    others = [row for group in found.groups for row in group.images[1:]]
    if others:
        groups = "1 group" if len(found.groups) == 1 else f"{len(found.groups):,} groups"
        megabytes = sum(row.size for row in others) / 1e6
        print_line(f"{groups}; {len(others):,} images beside the first of each, {megabytes:,.1f} MB", err=True)
    else:
        print_line("aladin: no image is a copy of another", err=True)
    left_out = (
        (found.changed, "changed or gone since they were indexed, and left out; run `aladin index` for them"),
        (found.unreadable, "cannot be read now, and were compared by content and vector alone"),
    )
    for rows, why in left_out:
        for row in rows[:SHOWN_LEFT_OUT]:
            print_line(f"  {folder / row.path}", err=True)
        if rows:
            print_line(f"aladin: {len(rows):,} of the images {why}", err=True)
