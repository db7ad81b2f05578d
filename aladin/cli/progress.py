"""Progress of a long step on stderr: a bar on a terminal, else a plain line every ten seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from aladin.cli.terminal import print_line, printable
from aladin.progress import SILENT, Progress

LINE_EVERY = 10.0  # seconds


class TerminalSteps:
    """Shows one step after the other, each under its name."""

    def step(self, name: str) -> AbstractContextManager[Progress]:
        return progress_shown(name, quiet=False)


@contextmanager
def progress_shown(doing: str, quiet: bool) -> Iterator[Progress]:
    """The progress of one step called `doing`; with `quiet` nothing of it is shown."""
    if quiet:
        yield SILENT
    elif sys.stderr.isatty():
        with _bar(doing) as progress:
            yield progress
    else:
        yield _lines(doing)


def _lines(doing: str) -> Progress:
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            print_line(f"{doing}: {done:,} of {total:,}", err=True)

    return progress


@contextmanager
def _bar(doing: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(doing), total=None, visible=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield progress
