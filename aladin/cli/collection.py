"""`aladin index` and what keeps a collection in order: status, remove, verify, repair, compact, plan, watch."""

import os
from dataclasses import asdict
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
    existing,
    holds_images,
    megabytes,
)
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line, print_lines, printable
from aladin.cli.values import PATH, with_options
from aladin.collection.indexing import IndexReport
from aladin.collection.repair import repair as mend
from aladin.collection.settings import IndexConfig
from aladin.collection.store import Collection, default_file
from aladin.collection.verify import Verification
from aladin.collection.verify import verify as check
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder, shipped_model
from aladin.errors import CollectionLocked, ConfigError, DataError
from aladin.pictures.frames import named_picture, picture_name
from aladin.pictures.limits import MOST_FRAMES

SKIPPED_SOME = 3  # exit codes
DAMAGED = 1
SHOWN_FAILURES = 20  # files named on stderr; all are in the collection


def ceiling(text: str) -> int:
    """Megabytes that leave room for reading images."""
    size = megabytes(text)
    try:
        IndexConfig(max_memory_mb=size)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
    return size


JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
FRAMES = click.option(
    "--frames",
    type=click.IntRange(1, MOST_FRAMES),
    help="Read up to so many pictures of a file with several: an animation, pages.  [default: as before, at first 1]",
)
READING = (
    click.option("--workers", type=click.IntRange(0), help="Processes that decode.  [default: one a core]"),
    click.option("--max-memory", type=ceiling, metavar="SIZE", help="Keep all processes together below it, such as 1G."),
    click.option("--follow-symlinks", is_flag=True, help="Read what links lead to, also outside FOLDER."),
)


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
    place = collection or default_file(folder)
    config = _config(**options)
    report = brought_up_to_date(folder, place, Encoder.load(model or shipped_model()), quiet, config, rebuild)
    if not quiet:
        _print_failures(folder, place, report)
    if report.warning:
        print_line(f"aladin: {report.warning}", err=True)
    if as_json:
        write_bytes(json_line(asdict(report), indent=2))
    elif not quiet:
        print_line(_summary(report), err=True)
    return SKIPPED_SOME if report.skipped else 0


@click.command
@FOLDER
@with_options((JSON, PLACE))
def status(folder: Path, as_json: bool, collection: Path | None) -> None:
    """What the collection of FOLDER holds: images by state, model, size, and who is writing it."""
    from aladin.collection.status import status_of

    found = status_of(existing(folder, collection))
    if as_json:
        write_bytes(json_line(asdict(found), indent=2))
    else:
        print_lines(found.as_text(printable))


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
    place = existing(folder, collection)
    with CollectionWriter.create(place, folder) as opened:
        if offline:
            count = opened.forget_offline()
        else:
            numbers = [number for path in paths for number in _numbers_of(opened, folder, path)]
            with opened.transaction():
                count = (opened.restore if undo else opened.remove)(numbers)
    done = "taken back" if undo else "forgotten" if offline else "removed"
    if as_json:
        write_bytes(json_line({"removed": 0, "taken_back": 0, "forgotten": 0} | {done.replace(" ", "_"): count}, indent=2))
    elif not quiet:
        print_line(f"{count:,} {done}", err=True)


@click.command
@FOLDER
@with_options((JSON, PLACE))
def verify(folder: Path, as_json: bool, collection: Path | None) -> int:
    """Read everything that the collection of FOLDER stores and hold it against its checksums. Ends with 1 on damage."""
    place = existing(folder, collection)
    found = check(place)
    if as_json:
        write_bytes(json_line(asdict(found) | {"whole": found.whole}, indent=2))
    else:
        print_lines(_verdict(place, found))
    return 0 if found.whole else DAMAGED


@click.command
@FOLDER
@with_options((JSON, MODEL, PLACE, QUIET))
def repair(folder: Path, as_json: bool, model: Path | None, collection: Path | None, quiet: bool) -> None:
    """Make a damaged collection of FOLDER whole: keep what checksums confirm, have the rest read again by `aladin index`."""
    place = existing(folder, collection)
    done = mend(place, folder, ModelFolder.open(model or shipped_model()))
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


@click.command
@FOLDER
@with_options((JSON, PLACE, QUIET))
def compact(folder: Path, as_json: bool, collection: Path | None, quiet: bool) -> None:
    """Give back the disk space that removed images left in the collection of FOLDER.

    Meanwhile what remains is on the disk twice more: in the folder for temporary files (TMPDIR), and beside the collection.
    """
    place = existing(folder, collection)
    before = place.stat().st_size
    with CollectionWriter.create(place, folder) as opened:
        opened.compact()
    after = place.stat().st_size
    if as_json:
        write_bytes(json_line({"bytes_before": before, "bytes_after": after}, indent=2))
    elif not quiet:
        print_line(f"{before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after", err=True)


@click.command
@FOLDER
@with_options((FRAMES, *READING, JSON, MODEL, PLACE))
def plan(folder: Path, as_json: bool, model: Path | None, collection: Path | None, **options: Any) -> None:
    """Estimate time, memory and disk of indexing FOLDER, and what will be skipped, by reading a few of its images.

    Nothing is written.
    """
    from aladin.collection.plan import plan_for

    check_folder(folder)
    place = collection or default_file(folder)
    found = plan_for(folder, place, Encoder.load(model or shipped_model()), _config(**options))
    if as_json:
        write_bytes(json_line(asdict(found), indent=2))
    else:
        print_lines(found.as_text())


@click.command
@FOLDER
@with_options((*READING, MODEL, PLACE, QUIET))
def watch(folder: Path, model: Path | None, collection: Path | None, quiet: bool, **options: Any) -> None:
    """Keep the collection of FOLDER up to date until interrupted: index now, then after every change.

    While FOLDER is away, as when its disk is, or holds no image yet, it says so once and waits.
    """
    from aladin.collection.watch import ticks

    check_folder(folder)
    place, encoder, config = collection or default_file(folder), Encoder.load(model or shipped_model()), _config(**options)
    behind = waiting = False
    named: set[str] = set()
    for changed in ticks(folder):
        why = _nothing_to_read(folder, place, config)
        if not why and (changed or behind):
            behind = False
            try:
                report = brought_up_to_date(folder, place, encoder, quiet, config)
                _print_report(folder, place, report, quiet, named)
            except CollectionLocked as error:
                why, behind = str(error), True
            except DataError:
                why = _nothing_to_read(folder, place, config)  # it went meanwhile
                if not why:
                    raise
        if why and not waiting and not quiet:
            print_line(f"aladin: {why}; waiting", err=True)
        waiting = bool(why)


def _nothing_to_read(folder: Path, place: Path, config: IndexConfig) -> str:
    """Why the folder cannot be indexed now, but may be later."""
    if not folder.is_dir():
        return f"the folder {folder} is not there"
    return "" if place.is_file() or holds_images(folder, config) else f"there are no images in {folder} yet"


def _print_report(folder: Path, place: Path, report: IndexReport, quiet: bool, named: set[str]) -> None:
    """What a run found, with those of the skipped files that are not yet `named`."""
    if report.warning:
        print_line(f"aladin: {report.warning}", err=True)
    if not quiet:
        _print_failures(folder, place, report, named)
        print_line(_summary(report), err=True)


def _config(workers: int | None = None, max_memory: int | None = None, frames: int | None = None, **flags: bool) -> IndexConfig:
    return IndexConfig(workers=workers or 0, max_memory_mb=max_memory or 0, frames=frames or 0, **flags)


def _numbers_of(opened: Collection, folder: Path, path: Path) -> list[int]:
    """The ids of the image at a path, of all below a folder, or of one picture, "cat.gif[2]"; DataError when there is none."""
    below_root = {os.path.relpath(os.path.realpath(path.parent) / Path(path.name), opened.root), os.fspath(path)}
    for name in sorted(below_root):
        numbers = opened.ids_below(os.path.normpath(name))
        if numbers:
            return numbers
        image = opened.image_at(*named_picture(os.path.normpath(name)))
        if image is not None:
            return [image.id]
    raise DataError(f"the collection of {folder} has no image at {path}; see `aladin status`")


def _print_failures(folder: Path, place: Path, report: IndexReport, named: set[str] | None = None) -> None:
    """The first files that could not be read, with why; of those in `named`, which grows, nothing more."""
    if not report.skipped:
        return
    named = set() if named is None else named
    shown = 0
    with Collection.open(place) as collection:
        for row in collection.images("failed"):
            line = f"skipped: {picture_name(str(folder / row.path), row.frame)} {row.reason}"
            if line in named:
                continue
            named.add(line)
            shown += 1
            if shown <= SHOWN_FAILURES:
                print_line(line, err=True)
    if shown > SHOWN_FAILURES:
        print_line(f"skipped: and {shown - SHOWN_FAILURES:,} more", err=True)


def _summary(report: IndexReport) -> str:
    counts = [
        (report.added, "added"), (report.updated, "updated"), (report.moved, "moved"), (report.returned, "back again"),
        (report.unchanged, "unchanged"), (report.offline, "offline"), (report.forgotten, "forgotten"),
        (sum(report.skipped.values()), "skipped"),
    ]  # fmt: skip
    told = ", ".join(f"{count:,} {what}" for count, what in counts if count) or "nothing to do"
    rate = f", {report.images_per_second:.0f} images/s" if report.images_per_second else ""
    return f"{told}; {report.seconds:.1f} s{rate}"


def _verdict(place: Path, found: Verification) -> str:
    if found.whole:
        return f"{printable(str(place))} is whole: {found.rows:,} images, {found.bytes / 1e6:,.1f} MB read"
    lines = [f"{printable(str(place))} is damaged; `aladin repair` keeps what is whole"]
    lines += [f"  {printable(line)}" for line in found.structure]
    for damage in found.damage[:SHOWN_FAILURES]:
        lines.append(f"  image {damage.id}{f' ({printable(damage.path)})' if damage.path else ''}: {damage.what}")
    if len(found.damage) > SHOWN_FAILURES:
        lines.append(f"  and {len(found.damage) - SHOWN_FAILURES:,} more")
    return "\n".join(lines)
