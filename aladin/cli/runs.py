"""`aladin runs`: Compare training runs: settings, figures, curves."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from aladin.cli.exit_codes import DAMAGED
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line, printable
from aladin.cli.values import JSON, PATH
from aladin.errors import ConfigError

if TYPE_CHECKING:
    from aladin.measures.report import Sheet
    from aladin.measures.run_comparison import Comparison

PLAIN_WIDTH = 200  # characters of a line where there is no terminal


@click.command
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=PATH)
@JSON
@click.option("--curves", type=PATH, metavar="FILE.svg", help="Also draw validation rsum and losses by steps here.")
def runs(folders: tuple[Path, ...], as_json: bool, curves: Path | None) -> int:
    """Compare the training runs in DIR...: what `aladin train` wrote to its --out, or folders that hold such.

    Shown are the settings that differ, the rsums of the validation that the best model comes from, and how each run learned:
    its steps, the means of its losses over the last 100 steps before their weights, seconds of a middling epoch, peak memory.
    A run may still go on. Exit code 1 also where lines of a log are damaged; they are left out.

    \b
    aladin runs runs/both runs/lite
    aladin runs runs --curves runs.svg
    """
    from aladin.measures.run_comparison import compare_runs, to_json
    from aladin.measures.run_curves import curves_svg

    if curves:
        _check_curves(curves)  # before logs are read
    comparison = compare_runs(*folders)
    if as_json:
        write_bytes(json_line(to_json(comparison), indent=2))
    else:
        _print(comparison)
    if curves:
        _write(curves, curves_svg(comparison))
    damaged = [run for run in comparison.runs if run.log.damaged]
    for run in damaged:
        lines = f"{run.log.damaged:,} damaged line{'s' if run.log.damaged > 1 else ''}"
        print_line(f"{run.log.path}/log.jsonl has {lines}, left out here", err=True)
    return DAMAGED if damaged else 0


def _print(comparison: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    from aladin.measures.run_comparison import sheets, turned

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for number, (title, whole) in enumerate(sheets(comparison).items()):
        sheet = whole if _width(whole) <= console.width else min(whole, turned(whole), key=_width)
        if number:
            print_line()
        print_line(title)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column, heading in enumerate(sheet.headings):
            align: Literal["left", "right"] = "left" if column in sheet.words else "right"
            table.add_column(printable(heading), justify=align, overflow="fold", no_wrap=column == 0)
        for row in sheet.rows:
            table.add_row(*map(printable, row))
        console.print(table)


def _width(sheet: "Sheet") -> int:
    """How many characters of a line the table takes."""
    return sum(max(map(len, column)) + 2 for column in zip(sheet.headings, *sheet.rows, strict=True))


def _check_curves(path: Path) -> None:
    if path.suffix.lower() != ".svg":
        raise ConfigError(f"--curves is {printable(str(path))}; give a file that ends in .svg, which every browser shows")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {printable(str(path.parent))} for --curves; make it, or give another")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{printable(str(path))} cannot be written: {error.strerror}; give another --curves") from None
