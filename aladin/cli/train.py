"""`aladin train`: Train a model by a recipe."""

from contextlib import ExitStack
from pathlib import Path

import click

from aladin.cli.memory import keep_freed_memory
from aladin.cli.progress import progress_shown
from aladin.cli.terminal import print_line
from aladin.cli.values import PATH
from aladin.progress import Progress


@click.command()
@click.argument("recipe", type=PATH)
@click.option("--train", "train_path", type=PATH, required=True, help="Images with captions to learn from.")
@click.option("--val", "val_path", type=PATH, required=True, help="Images with captions to judge epochs by.")
@click.option("--out", type=PATH, required=True, help="Folder for the run; goes on if a run was stopped in it.")
@click.option("--start", type=PATH, help="Model folder to start from, trained or exported; MiniLM-L6 and ImageNet without it.")
@click.option(
    "--teacher", type=PATH, help="Model folder with a cross-encoder, for pair_teacher in [loss]; the recipe's without it."
)
@click.option(
    "--ensemble",
    type=PATH,
    multiple=True,
    help="Model folder whose alignment scores teach, for the ensemble weights in [loss]; may be given several times; the "
    "recipe's without it.",
)
@click.option("--cache", type=PATH, help="Folder for image features; OUT/features without it.")
@click.option("--train-split", help="Split of the training data to use, where the data names splits.")
@click.option("--val-split", help="Split of the validation data to use, where the data names splits.")
@click.option("--train-images", type=PATH, help="Folder of the training images, if not beside their captions.")
@click.option("--val-images", type=PATH, help="Folder of the validation images, if not beside their captions.")
@click.option("--seed", type=int, help="Instead of the recipe's.")
@click.option("--skip-bad", is_flag=True, help="Leave out rows and images that cannot be read, and count them by reason.")
def train(
    recipe: Path,
    train_path: Path,
    val_path: Path,
    out: Path,
    start: Path | None,
    teacher: Path | None,
    ensemble: tuple[Path, ...],
    cache: Path | None,
    train_split: str | None,
    val_split: str | None,
    train_images: Path | None,
    val_images: Path | None,
    seed: int | None,
    skip_bad: bool,
) -> None:
    """Train by the RECIPE, a TOML file such as those in recipes/.

    OUT receives log.jsonl, TensorBoard's events, settings.toml, a checkpoint to go on from after any interruption (with
    what a cross-fitted teacher has to say, if the recipe has one), and in OUT/best the model folder of the epoch with the
    best validation rsum. No image may be in both --train and --val.
    """
    import dataclasses

    from aladin.datasets import DataOrigin, check_apart, read_dataset, without_undecodable
    from aladin.network.features import check_room, missing_bytes, readable_bytes
    from aladin.training.cross_fitted_teacher import fold_of_each
    from aladin.training.recipe import read_recipe
    from aladin.training.trainer import (
        WHOLE_TAGS,
        Trainer,
        check_captions,
        check_same_run,
        images_read,
        learning_set,
        origins,
        start_model,
        whole_images,
    )

    keep_freed_memory()
    settings = read_recipe(recipe)
    if seed is not None:
        settings = dataclasses.replace(settings, seed=seed)
    if teacher is not None:
        settings = dataclasses.replace(settings, teacher=str(teacher))
    if ensemble:
        settings = dataclasses.replace(settings, ensemble=tuple(map(str, ensemble)))
    train_data = read_dataset(train_path, train_split, train_images, skip_bad)
    val_data = read_dataset(val_path, val_split, val_images, skip_bad)
    check_apart(train_data, val_data)
    begin = start_model(settings, start)
    model, tokenizer = begin.model, begin.tokenizer
    with TerminalReporter() as reporter:
        if skip_bad and model.image_network is not None:
            train_data = without_undecodable(train_data, reporter.counting("training images looked at"))
            val_data = without_undecodable(val_data, reporter.counting("validation images looked at"))
        for data, path in ((train_data, train_path), (val_data, val_path)):
            check_captions(data, str(path))
            for reason, count in data.skipped.items():
                print_line(f"{path}: {count} rows skipped: {reason}", err=True)
        if settings.loss.needs_cross_fitted:
            fold_of_each(len(train_data), settings.cross_fitted.folds, settings.seed)  # says what is wrong with it
        check_same_run(out, settings, origins(begin.origins, DataOrigin.of(train_data), DataOrigin.of(val_data)))
        features = cache or out / "features"
        models = [(train_data, model, settings.views), (val_data, model, 1)]
        models += [(train_data, member, 1) for member in begin.ensemble]
        # Of models with the same image networks all are counted: rather too much than too little.
        looks = [
            (data, reader.image_network, reader.config.image.size, reader.config.limits.tags, views)
            for data, reader, views in models
            if reader.image_network is not None
        ]
        if begin.whole_network is not None:
            looks.append((train_data, begin.whole_network, settings.cross_fitted.size, WHOLE_TAGS, 1))
        needed = sum(missing_bytes(*look, features) for look in looks)
        if needed:
            check_room(features, needed, settings.views)
            print_line(f"image features take {readable_bytes(needed)} in {features}", err=True)
        learn = learning_set(train_data, model, tokenizer, settings.views, features, reporter.counting("training images"))
        judge = learning_set(val_data, model, tokenizer, 1, features, reporter.counting("validation images"))
        others = [
            images_read(train_data, member, tokenizer, 1, features, reporter.counting(f"training images, for {name}"))
            for member, name in zip(begin.ensemble, settings.ensemble, strict=True)
        ]
        whole = None
        if begin.whole_network is not None:
            report = reporter.counting("whole training images")
            whole = whole_images(train_data, begin.whole_network, settings, features, report)
        trainer = Trainer(settings, begin, learn, judge, out, others, whole)
        trainer.run(reporter)
    best = f"best validation rsum of the {trainer.judged_head} head: {trainer.best_rsum:.1f}"
    print_line(f"{best}; the model is in {out / 'best'}")


class TerminalReporter:
    """Shows one step of the work at a time, and keeps a line of each epoch; always on stderr."""

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._what = ""
        self._tell: Progress

    def __enter__(self) -> "TerminalReporter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._shown.close()

    def counting(self, what: str) -> Progress:
        """A function that shows how far `what` is."""
        return lambda done, total: self.progress(what, done, total)

    def progress(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._show(what)
        self._tell(done, total)

    def validated(self, epoch: int, record: dict[str, float]) -> None:
        sums = ", ".join(f"{name} {value:.1f}" for name, value in record.items() if name.endswith("rsum"))
        first = ", ".join(f"{name} {value:.1f}" for name, value in record.items() if name.endswith("Recall@1"))
        self._shown.close()
        self._what = ""
        print_line(f"epoch {epoch}: {sums} ({first}) in {record['epoch_seconds']:.0f} s", err=True)

    def _show(self, what: str) -> None:
        self._shown.close()
        self._tell = self._shown.enter_context(progress_shown(what, quiet=False))
        self._what = what
