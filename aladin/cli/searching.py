"""What `aladin search` and `aladin similar` share: their options, and the way from a query to printed hits."""

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import aladin.search.search as engine
from aladin.cli.exit_codes import NOTHING_FOUND
from aladin.cli.folder import MODEL, PLACE, QUIET, brought_up_to_date, check_folder, existing
from aladin.cli.progress import progress_shown
from aladin.cli.query import CONDITIONS, PARTS, QueryOptions
from aladin.cli.results import Answer, Form, print_answer
from aladin.cli.terminal import print_line
from aladin.cli.values import FiniteRange, form_option
from aladin.collection.opening import open_store
from aladin.collection.store import default_file
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model
from aladin.errors import CollectionLocked
from aladin.search.query import Query

DEFAULTS = engine.SearchConfig()
SEARCHING = (
    *PARTS,
    *CONDITIONS,
    click.option("-n", "--top", default=DEFAULTS.top, show_default=True, type=click.IntRange(1), help="How many hits."),
    click.option(
        "--rerank",
        default=DEFAULTS.rerank,
        show_default=True,
        type=click.IntRange(0),
        help="How many of the nearest images to rank again by aligning words with regions; 0: none.",
    ),
    click.option(
        "--min-probability",
        default=DEFAULTS.min_probability,
        type=FiniteRange(0, 1),
        help="Leave out hits that show what was asked less likely than that.  [default: leave out none]",
    ),
    click.option("--why", is_flag=True, help="For each hit, which region each word chose and what it added to the score."),
    form_option("--json", form="json", line="One JSON object."),
    form_option("--jsonl", form="jsonl", line="One JSON object a hit."),
    form_option("--coco", form="coco", line="A COCO captions JSON: each hit with the query as its caption."),
    form_option(
        "--tsv", form="tsv", line="Score, tab, path (with --why: tab, words): the default where stdout is no terminal."
    ),
    form_option("-0", "--print0", form="print0", line="Paths only, each ended by NUL, for xargs -0."),
    click.option("--no-index", is_flag=True, help="Do not look for new and changed files."),
    click.option("--fail-empty", is_flag=True, help="Exit with 4 when nothing matches."),
    MODEL,
    PLACE,
    QUIET,
)


@dataclass(frozen=True)
class SearchOptions:
    """The options that `search` and `similar` share, those of the query apart."""

    top: int
    rerank: int
    min_probability: float
    why: bool
    form: Form | None
    no_index: bool
    fail_empty: bool
    model: Path | None
    collection: Path | None
    quiet: bool

    @property
    def config(self) -> engine.SearchConfig:
        return engine.SearchConfig(self.top, self.rerank, self.min_probability, self.why)

    def note(self, message: str) -> None:
        if not self.quiet:
            print_line(f"aladin: {message}", err=True)


def split(options: dict[str, Any]) -> tuple[QueryOptions, SearchOptions]:
    """The options that say what is looked for, and the others."""
    names = {field.name for field in dataclasses.fields(QueryOptions)}
    query = {name: value for name, value in options.items() if name in names}
    return QueryOptions(**query), SearchOptions(**{name: value for name, value in options.items() if name not in names})


def answer(folder: Path, query: Query, within: list[str], options: SearchOptions) -> int:
    """Bring the collection up to date, search it and print the hits; the exit code. `within`: folders that the query names."""
    if options.why and options.form == "print0":
        raise click.UsageError("-0 has no room for what --why tells; leave out one of them")
    check_folder(folder)
    file = existing(folder, options.collection) if options.no_index else options.collection or default_file(folder)
    encoder = Encoder.load(options.model or shipped_model())
    if not options.no_index:
        _update(folder, file, encoder, options)
    with open_store(file) as collection, progress_shown("reading vectors", options.quiet) as progress:
        collection.check_root(folder)
        started = time.perf_counter()
        results = engine.Searcher(collection, encoder, progress).search(query, options.config)
        took_ms = 1000 * (time.perf_counter() - started)
        model = collection.fingerprint or encoder.model.fingerprint
        unknown = [name for name in within if not collection.has_folder(name)]
        offline = 0 if results.searched else collection.counts().get("offline", 0)
    answer = Answer(str(query), str(folder), str(file), model, took_ms, results)
    if offline:
        options.note(f"nothing is there to be searched: {offline:,} images are offline; is their disk there?")
    _remark(query, answer, unknown, options)
    print_answer(answer, options.form)
    return NOTHING_FOUND if options.fail_empty and (results.answered is False or not results.hits) else 0


def _remark(query: Query, answer: Answer, unknown: list[str], options: SearchOptions) -> None:
    """On stderr, what a person should know of these hits, and which folders they were looked for in vain."""
    results = answer.results
    if results.truncated:
        options.note("the query is longer than the model reads; its end was left out")
    for folder in unknown:
        options.note(f"the collection has no folder {folder}; name one from {answer.folder}, or from here")
    if query.where is not None and not results.searched and not unknown:
        options.note("no image meets the condition")
    if results.nearest:
        names = ", ".join(f"{answer.name(hit)} ({hit.probability:.0%})" for hit in results.nearest)
        options.note(f"nothing here matches; the nearest are {names}")
    elif results.hits and results.answered is False:
        options.note("nothing here seems to match; these are the nearest")


def _update(folder: Path, file: Path, encoder: Encoder, options: SearchOptions) -> None:
    """Bring the collection up to date where it can be written; where not, what is there is searched."""
    if file.is_file() and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        options.note(f"{file} cannot be written; searching it as it is")
        return
    try:
        report = brought_up_to_date(folder, file, encoder, options.quiet)
    except CollectionLocked as error:
        if not file.is_file():
            raise
        options.note(f"{error}; searching what is there so far")
        return
    if report.warning:
        options.note(report.warning)
    if report.skipped:
        options.note(f"{_files(sum(report.skipped.values()))} could not be read; `aladin index` on the folder names them")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
