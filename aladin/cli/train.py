"""`aladin train`: Train a model by a recipe."""

import os
from pathlib import Path

import click

from aladin.cli.captioned import SKIP_BAD, read_captioned
from aladin.cli.progress import TerminalSteps
from aladin.cli.terminal import print_line
from aladin.cli.values import DEVICE, PATH

MUCH_WAITED = 0.05  # of the steps' time


@click.command()
@click.argument("recipe", type=PATH)
@click.option("--train", "train_path", type=PATH, required=True, help="Images with captions to learn from.")
@click.option("--val", "val_path", type=PATH, required=True, help="Images with captions to judge epochs by.")
@click.option("--out", type=PATH, required=True, help="Folder for the run; goes on if a run was stopped in it.")
@click.option("--start", type=PATH, help="Model folder to start from, trained or exported; MiniLM-L6 and ImageNet without it.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="KIND=FOLDER",
    help="Model folder for the recipe's teacher of that kind, instead of the recipe's own; may be given several times.",
)
@DEVICE
@click.option("--cache", type=PATH, help="Folder for image features; OUT/features without it.")
@click.option("--train-split", help="Split of the training data to use, where the data names splits.")
@click.option("--val-split", help="Split of the validation data to use, where the data names splits.")
@click.option("--train-images", type=PATH, help="Folder of the training images, if not beside their captions.")
@click.option("--val-images", type=PATH, help="Folder of the validation images, if not beside their captions.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the recipe's.")
@click.option("--wandb", is_flag=True, help="Log to Weights & Biases too, whose package must be installed.")
@click.option("--mlflow", is_flag=True, help="Log to MLflow too, whose package must be installed.")
@SKIP_BAD
def train(
    recipe: Path,
    train_path: Path,
    val_path: Path,
    out: Path,
    start: Path | None,
    teachers: tuple[str, ...],
    device: str,
    cache: Path | None,
    train_split: str | None,
    val_split: str | None,
    train_images: Path | None,
    val_images: Path | None,
    seed: int | None,
    wandb: bool,
    mlflow: bool,
    skip_bad: bool,
) -> None:
    """Train by the RECIPE, a TOML file such as those in recipes/.

    OUT receives log.jsonl, TensorBoard's events, settings.toml, a checkpoint to go on from after any interruption (with
    the scores of a cross-fitted teacher, if the recipe has one), and in OUT/best the model folder of the epoch with the
    best validation rsum. No image may be in both --train and --val.

    \b
    torchrun --nproc-per-node 4 -m -- aladin train RECIPE ...   on four GPUs
    """
    from aladin.training.recipe import read_recipe
    from aladin.training.train import train as learn

    settings = read_recipe(recipe)
    trackers = [name for name, asked in (("wandb", wandb), ("mlflow", mlflow)) if asked]
    train_data = read_captioned(train_path, train_split, train_images, skip_bad)
    val_data = read_captioned(val_path, val_split, val_images, skip_bad)
    result = learn(
        settings, train_data, val_data, out, seed=seed, start=start, teachers=folders_by_kind(teachers), cache=cache,
        device=device, trackers=trackers, progress=TrainingShown(),
    )  # fmt: skip
    if int(os.environ.get("RANK", "0")) == 0:  # torchrun's other processes say the same
        print_line(f"best validation rsum of the {result.head} head: {result.rsum:.1f}; the model is in {result.folder}")


def folders_by_kind(given: tuple[str, ...]) -> dict[str, list[Path]]:
    """The folders of each kind of teacher, in the order given; a usage error for what is not KIND=FOLDER."""
    folders: dict[str, list[Path]] = {}
    for text in given:
        kind, equals, folder = text.partition("=")
        if not (kind and equals and folder):
            raise click.BadParameter(f"{text!r} is not KIND=FOLDER, such as ensemble=runs/align/best", param_hint="--teacher")
        folders.setdefault(kind, []).append(Path(folder))
    return folders


class TrainingShown(TerminalSteps):
    """Shows one step of the work at a time, and keeps a line of each epoch; always on stderr."""

    def validated(self, epoch: int, measures: dict[str, float]) -> None:
        sums = ", ".join(f"{name} {value:.1f}" for name, value in measures.items() if name.endswith("rsum"))
        first = ", ".join(f"{name} {value:.1f}" for name, value in measures.items() if name.endswith("Recall@1"))
        if "epoch_seconds" in measures:
            waited = measures.get("waited_share", 0.0)
            slow = f", {100 * waited:.0f} % of it waiting for images" if waited > MUCH_WAITED else ""
            print_line(f"epoch {epoch}: {sums} ({first}) in {measures['epoch_seconds']:.0f} s{slow}", err=True)
        else:
            print_line(f"within epoch {epoch}: {sums} ({first})", err=True)

    def note(self, sentence: str) -> None:
        print_line(sentence, err=True)
