"""`aladin train`: a recipe, data and a folder to a trained model."""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PATH = click.Path(path_type=Path)
PLAIN_SECONDS = 30  # between two lines of progress where there is no terminal


@click.command()
@click.argument("recipe", type=PATH)
@click.option("--train", "train_path", type=PATH, required=True, help="Images with captions to learn from.")
@click.option("--val", "val_path", type=PATH, required=True, help="Images with captions to judge epochs by.")
@click.option("--out", type=PATH, required=True, help="Folder for the run; goes on if a run was stopped in it.")
@click.option("--start", type=PATH, help="Model folder to start from; MiniLM-L6 and ImageNet without it.")
@click.option("--cache", type=PATH, help="Folder for image features; OUT/features without it.")
@click.option("--train-split", help="Split of the training data to use, where the data names splits.")
@click.option("--val-split", help="Split of the validation data to use, where the data names splits.")
@click.option("--train-images", type=PATH, help="Folder of the training images, if not beside their captions.")
@click.option("--val-images", type=PATH, help="Folder of the validation images, if not beside their captions.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows that cannot be read, and count them by reason.")
def train(
    recipe: Path,
    train_path: Path,
    val_path: Path,
    out: Path,
    start: Path | None,
    cache: Path | None,
    train_split: str | None,
    val_split: str | None,
    train_images: Path | None,
    val_images: Path | None,
    seed: int | None,
    skip_bad: bool,
) -> None:
    """Train by the RECIPE, a TOML file such as those in recipes/.

    OUT receives log.jsonl, TensorBoard's events, settings.toml, a checkpoint to go on from after any interruption, and in
    OUT/best the model folder of the epoch with the best validation rsum.
    """
    import dataclasses

    from aladin.config import read_recipe
    from aladin.datasets import read_dataset
    from aladin.text import WordPieces
    from aladin.training import Trainer, check_captions, learning_set, start_model

    _keep_freed_memory()
    settings = read_recipe(recipe)
    if seed is not None:
        settings = dataclasses.replace(settings, seed=seed)
    train_data = read_dataset(train_path, train_split, train_images, skip_bad)
    val_data = read_dataset(val_path, val_split, val_images, skip_bad)
    for data, path in ((train_data, train_path), (val_data, val_path)):
        check_captions(data, str(path))
        for reason, count in data.skipped.items():
            click.echo(f"{path}: {count} rows skipped: {reason}", err=True)
    model, tokenizer = start_model(settings, start)
    pieces = WordPieces.load(tokenizer, model.config.limits.caption_pieces)
    with TerminalReporter() as reporter:
        features = cache or out / "features"
        learn = learning_set(train_data, model, pieces, settings.views, features, reporter.counting("training images"))
        judge = learning_set(val_data, model, pieces, 1, features, reporter.counting("validation images"))
        trainer = Trainer(settings, model, tokenizer, learn, judge, out)
        trainer.run(reporter)
    best = f"best validation rsum of the {trainer.judged_head} head: {trainer.best_rsum:.1f}"
    click.echo(f"{best}; the model is in {out / 'best'}")


class TerminalReporter:
    """A progress bar on a terminal, a line now and then elsewhere; always on stderr."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self._console
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "TerminalReporter":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def counting(self, what: str) -> Callable[[int, int], None]:
        """A function that shows how far `what` is."""
        return lambda done, total: self.progress(what, done, total)

    def progress(self, what: str, done: int, total: int) -> None:
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)
        elif done == total or time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    def validated(self, epoch: int, record: dict[str, float]) -> None:
        sums = ", ".join(f"{name} {value:.1f}" for name, value in record.items() if name.endswith("rsum"))
        first = ", ".join(f"{name} {value:.1f}" for name, value in record.items() if name.endswith("Recall@1"))
        line = f"epoch {epoch}: {sums} ({first}) in {record['epoch_seconds']:.0f} s"
        self._console.print(line, highlight=False, soft_wrap=True)


def _keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory instead of returning it, elsewhere do nothing.

    Every step allocates the same large tensors; fetching their pages anew took six sevenths of the time of a step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
    mallopt(-4, 0)  # M_MMAP_MAX
