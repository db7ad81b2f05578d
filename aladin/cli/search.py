"""`aladin search`, `aladin similar` and `aladin index`: a folder of photographs and its collection."""

import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

import aladin.search as engine
from aladin.cli.progress import progress_shown
from aladin.cli.results import Answer, Form, json_line, print_answer, printable, write_bytes
from aladin.collection import Collection, default_place
from aladin.collection_writer import CollectionWriter, FileState
from aladin.encode import Encoder
from aladin.errors import CollectionLocked, DataError
from aladin.indexing import EXTENSIONS, IndexReport, index_folder, list_images
from aladin.model_folder import shipped_model

SKIPPED_SOME = 3  # exit codes
NOTHING_FOUND = 4
SHOWN_FAILURES = 20  # files named on stderr; all are in the collection

Command = TypeVar("Command", bound=Callable[..., Any])
DEFAULTS = engine.SearchConfig()
FOLDER = click.argument("folder", type=click.Path(path_type=Path))
PLACES = (
    click.option("--model", type=click.Path(path_type=Path), help="Model folder.  [default: the one that comes with aladin]"),
    click.option(
        "--collection",
        type=click.Path(path_type=Path),
        help="The collection's file.  [default: FOLDER/.aladin/collection.sqlite]",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
)
SEARCHING = (
    click.option("-n", "--top", default=DEFAULTS.top, show_default=True, type=click.IntRange(1), help="How many hits."),
    click.option(
        "--rerank",
        default=DEFAULTS.rerank,
        show_default=True,
        type=click.IntRange(0),
        help="How many of the nearest images to rank again by aligning words with regions; 0: none.",
    ),
    click.option("--json", "form", flag_value="json", help="One JSON object."),
    click.option("--jsonl", "form", flag_value="jsonl", help="One JSON object a hit."),
    click.option("--tsv", "form", flag_value="tsv", help="Score, tab, path: the default where stdout is no terminal."),
    click.option("-0", "--print0", "form", flag_value="print0", help="Paths only, each ended by NUL, for xargs -0."),
    click.option("--no-index", is_flag=True, help="Do not look for new and changed files."),
    click.option("--fail-empty", is_flag=True, help="Exit with 4 when there is no hit."),
    *PLACES,
)


@dataclass(frozen=True)
class SearchOptions:
    """The options that `search` and `similar` share."""

    top: int
    rerank: int
    form: Form | None
    no_index: bool
    fail_empty: bool
    model: Path | None
    collection: Path | None
    quiet: bool

    def note(self, message: str) -> None:
        if not self.quiet:
            click.echo(f"aladin: {message}", err=True)


def with_options(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """A decorator that gives a command all of `options`."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command
@FOLDER
@click.argument("text")
@with_options(SEARCHING)
def search(folder: Path, text: str, **options: Any) -> int:
    """Find the images of FOLDER that TEXT describes.

    The first search reads the folder's images into a collection, later ones add what is new or changed.

    \b
    aladin search ~/Pictures "two dogs run through snow"
    """
    if not text.strip():
        raise DataError("the query is empty; describe the image that you look for, such as: a dog runs through snow")
    return _answer(folder, engine.TextQuery(text), text, SearchOptions(**options))


@click.command
@FOLDER
@click.argument("image", type=click.Path(path_type=Path))
@with_options(SEARCHING)
def similar(folder: Path, image: Path, **options: Any) -> int:
    """Find the images of FOLDER that look like IMAGE, which may but need not be one of them."""
    return _answer(folder, engine.ImageQuery(image), str(image), SearchOptions(**options))


@click.command
@FOLDER
@click.option("--rebuild", is_flag=True, help="Read all images again, as after a change of model; ids stay.")
@click.option("--json", "as_json", is_flag=True, help="The report as a JSON object on stdout.")
@with_options(PLACES)
def index(folder: Path, rebuild: bool, as_json: bool, model: Path | None, collection: Path | None, quiet: bool) -> int:
    """Read the new and changed images of FOLDER into its collection.

    Files that are gone stay known, for when they come back. Ends with 3 when some files could not be read.
    """
    _check_folder(folder)
    place = collection or default_place(folder)
    report = _brought_up_to_date(folder, place, Encoder.load(model or shipped_model()), quiet, rebuild)
    if not quiet:
        _print_failures(folder, place, report)
    if as_json:
        write_bytes(json_line(asdict(report), indent=2))
    elif not quiet:
        click.echo(_summary(report), err=True)
    return SKIPPED_SOME if report.skipped else 0


def _answer(folder: Path, query: engine.Query, label: str, options: SearchOptions) -> int:
    _check_folder(folder)
    place = options.collection or default_place(folder)
    encoder = Encoder.load(options.model or shipped_model())
    if not options.no_index:
        _update(folder, place, encoder, options)
    with Collection.open(place) as collection:
        collection.check_root(folder)
        started = time.perf_counter()
        results = engine.search(collection, encoder, query, engine.SearchConfig(options.top, options.rerank))
        took_ms = 1000 * (time.perf_counter() - started)
        model = collection.fingerprint or encoder.model.fingerprint
    if results.truncated:
        options.note("the query is longer than the model reads; its end was left out")
    print_answer(Answer(label, str(folder), str(place), model, took_ms, results), options.form)
    return NOTHING_FOUND if options.fail_empty and not results.hits else 0


def _update(folder: Path, place: Path, encoder: Encoder, options: SearchOptions) -> None:
    """Bring the collection up to date where it can be written; where not, what is there is searched."""
    if place.is_file() and not (os.access(place, os.W_OK) and os.access(place.parent, os.W_OK)):
        options.note(f"{place} cannot be written; searching it as it is")
        return
    try:
        report = _brought_up_to_date(folder, place, encoder, options.quiet, rebuild=False)
    except CollectionLocked as error:
        if not place.is_file():
            raise
        options.note(f"{error}; searching what is there so far")
        return
    if report.skipped:
        options.note(f"{_files(sum(report.skipped.values()))} could not be read; `aladin index` on the folder names them")


def _brought_up_to_date(folder: Path, place: Path, encoder: Encoder, quiet: bool, rebuild: bool) -> IndexReport:
    # Pillow's remarks on files, which we report in our own way.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    if not place.is_file() and not any(isinstance(found, FileState) for found in list_images(folder)):
        kinds = ", ".join(sorted(EXTENSIONS))
        raise DataError(f"there are no images in {folder}; expected files ending in {kinds}, outside hidden folders")
    with CollectionWriter.create(place, folder) as collection, progress_shown("indexing", quiet) as tell:
        if rebuild:
            collection.rebuild(encoder.model)
        return index_folder(collection, encoder, progress=tell)


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    found = "is a file" if folder.exists() else "does not exist"
    raise DataError(f"{printable(str(folder))} {found}; expected a folder of images")


def _print_failures(folder: Path, place: Path, report: IndexReport) -> None:
    if not report.skipped:
        return
    with Collection.open(place) as collection:
        for number, row in enumerate(collection.images("failed")):
            if number == SHOWN_FAILURES:
                click.echo("skipped: and more", err=True)
                return
            click.echo(f"skipped: {printable(str(folder / row.path))} {row.reason}", err=True)


def _summary(report: IndexReport) -> str:
    counts = [
        (report.added, "added"), (report.updated, "updated"), (report.moved, "moved"), (report.returned, "back again"),
        (report.unchanged, "unchanged"), (report.offline, "offline"), (sum(report.skipped.values()), "skipped"),
    ]  # fmt: skip
    told = ", ".join(f"{count:,} {what}" for count, what in counts if count) or "nothing to do"
    return f"{told}; {report.seconds:.1f} s, {report.images_per_second:.0f} images/s"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
