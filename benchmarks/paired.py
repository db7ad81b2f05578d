"""Whether a command became slower: two checkouts run it in turn, and each pair gives a ratio.

    git worktree add ../before COMMIT
    python benchmarks/paired.py ../before --fresh photos/.aladin -- index photos
    python benchmarks/paired.py ../before --fresh run -- train r.toml --train t.zip --val v.zip --out run --cache cache

What `--fresh` names is deleted before every run. The first pair is not counted.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

HERE = Path(__file__).parents[1]


@click.command(help=__doc__)
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, required=True)
@click.option("--fresh", multiple=True, type=click.Path(path_type=Path), help="Deleted before every run.")
@click.option("--pairs", default=5, show_default=True, help="Pairs of runs that count.")
def main(before: Path, command: tuple[str, ...], fresh: tuple[Path, ...], pairs: int) -> None:
    times = [(_seconds(before, command, fresh), _seconds(HERE, command, fresh)) for _ in range(1 + pairs)][1:]
    for name, column in zip(("before", "after"), zip(*times, strict=True), strict=True):
        click.echo(f"{name}: median {statistics.median(column):.2f} s, {min(column):.2f} to {max(column):.2f} s")
    ratios = [after / first for first, after in times]
    median = statistics.median(ratios)
    click.echo(f"after / before, {pairs} pairs: median {median:.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def _seconds(checkout: Path, command: tuple[str, ...], fresh: tuple[Path, ...]) -> float:
    for path in fresh:
        shutil.rmtree(path, ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "aladin", *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
