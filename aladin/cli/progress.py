"""Progress of a long step on stderr: a bar on a terminal, else a plain line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

LINE_EVERY = 10.0  # seconds


@contextmanager
def progress_shown(doing: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A function to tell how many of how many are done; with `quiet` it says nothing."""
    if quiet:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        with _bar(doing) as tell:
            yield tell
    else:
        yield _lines(doing)


def _lines(doing: str) -> Callable[[int, int], None]:
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY:
            last = time.monotonic()
            click.echo(f"{doing}: {done:,} of {total:,}", err=True)

    return tell


@contextmanager
def _bar(doing: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None, visible=False)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield tell
