"""A recipe and data to a trained model: what `aladin train` does.

>>> import aladin
>>> result = aladin.train(recipe, pictures, others, scratch / "run", start=model)
>>> result.head
'matching'
>>> 0 < result.rsum <= 600
True
>>> sorted(path.name for path in result.folder.iterdir())
['model.safetensors', 'model.toml', 'tokenizer.json']
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aladin.config import check_whole_number
from aladin.datasets import Data, DataOrigin, Dataset, check_apart, dataset_of
from aladin.errors import ConfigError
from aladin.files import check_folder, path_of
from aladin.network.backbone import ImageSet
from aladin.network.grid_features import check_room, readable_bytes
from aladin.network.run import Run, memory_watched, products_restored
from aladin.processes import keep_freed_memory
from aladin.training.learning_set import Reader, check_captions, learning_set, shards_of
from aladin.training.recipe import Recipe, read_recipe
from aladin.training.run_folder import check_same_run, origins_of
from aladin.training.sharing import first_alone, one_of_several
from aladin.training.start import Start, start_model
from aladin.training.trackers import check_trackers
from aladin.training.trainer import Trainer, folds_of
from aladin.training.training_progress import SILENT_TRAINING, TrainingProgress

ROOM = "lower batch_images, or set chunk_images or recompute_layers in [compute]"


@dataclass(frozen=True)
class Trained:
    """What a run came to."""

    folder: Path  # the model folder of the best epoch
    head: str  # whose validation rsum decided which epoch is best
    rsum: float  # the sum of its six recalls in percent, so at most 600; of two heads at most 1200


def train(
    recipe: Recipe | str | Path,
    train_data: Data,
    val_data: Data,
    out: str | Path,
    *,
    seed: int | None = None,
    start: str | Path | None = None,
    teachers: Mapping[str, Sequence[str | Path]] | None = None,
    cache: str | Path | None = None,
    minilm: str | Path | None = None,
    trackers: Sequence[str] = (),
    device: str = "auto",
    progress: TrainingProgress = SILENT_TRAINING,
) -> Trained:
    """Train by a recipe, a TOML file or a value, in the folder `out`; a run that was stopped there goes on.

    `seed` stands instead of the recipe's. `start` is a model folder, trained or exported; without it the run starts from
    MiniLM-L6 and ImageNet. `teachers` gives model folders for the recipe's teachers, by kind, instead of the recipe's own.
    Image features are kept in `cache`, `out`/features without it. `minilm` is a folder with MiniLM-L6 (model.safetensors,
    tokenizer.json) instead of its package. `trackers`, of "wandb" and "mlflow", follow the run beside TensorBoard.

    `device` is auto (a GPU if there is one), cpu, cuda, cuda:N or mps. Where torchrun started several processes, each reads its
    share of every step, and all return the same.

    ConfigError for settings that contradict each other or the run in `out`, DataError for data that cannot be learned from,
    such as an image in both sets; all of that before features are computed. TrainingError when a loss is no number.
    """
    keep_freed_memory()
    check_trackers(trackers)
    out = path_of("out", out)
    check_folder("out", out)
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(path_of("recipe", recipe))
    if seed is not None:
        check_whole_number("seed", seed, 0)
        recipe = replace(recipe, seed=seed)
    recipe = recipe.taught_by({kind: [Path(folder) for folder in folders] for kind, folders in (teachers or {}).items()})
    train_data, val_data = dataset_of(train_data), dataset_of(val_data)
    check_apart(train_data, val_data)
    for data in (train_data, val_data):
        check_captions(data, data.name)
    if recipe.shuffle == "shards" and shards_of(train_data) is None:
        raise ConfigError(
            f'shuffle is "shards", but the images of {train_data.name} do not stand in several shards of features; write '
            'some by `aladin features convert --to shards`, or set shuffle to "all"'
        )
    with products_restored(), one_of_several(device, recipe.precision) as run, memory_watched(ROOM):
        begin = start_model(recipe, _path(start), _path(minilm))
        folds_of(begin, len(train_data))  # says what is wrong with them
        check_same_run(out, recipe, origins_of(begin.origins, DataOrigin.of(train_data), DataOrigin.of(val_data)))
        shown = progress if run.writes else SILENT_TRAINING
        features = _path(cache) or out / "features"
        beginning = _Beginning(recipe, begin, train_data, val_data, out, features, run, tuple(trackers))
        trainer = beginning.trainer(shown)
        trainer.run(shown)
    return Trained(trainer.folder.best, trainer.judged_head, trainer.best_rsum)


@dataclass(frozen=True)
class _Beginning:
    """A run before its image features are there."""

    recipe: Recipe
    start: Start
    train: Dataset
    val: Dataset
    out: Path
    features: Path
    run: Run
    trackers: tuple[str, ...]

    def trainer(self, progress: TrainingProgress) -> Trainer:
        """The run, as soon as they are."""
        model, tokenizer, views = self.start.model, self.start.tokenizer, self.recipe.views
        own = model.backbone.image_reader(tokenizer)
        with first_alone(self.run):
            _check_room(self.start, [(self.train, Reader(own, views)), (self.val, Reader(own))], self.features, progress)
            with progress.step("training images") as watched:
                learn = learning_set(self.train, model, tokenizer, self.features, views, watched)
            with progress.step("validation images") as watched:
                judged = learning_set(self.val, model, tokenizer, self.features, progress=watched)

        def images(reader: Reader) -> ImageSet:
            with first_alone(self.run), progress.step(f"training images, for {reader.name}") as watched:
                return reader.images(self.train, self.features, watched)

        return Trainer(self.recipe, self.start, learn, judged, self.out, images, self.run, self.trackers)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _check_room(begin: Start, own: list[tuple[Dataset, Reader]], features: Path, progress: TrainingProgress) -> None:
    """DataError if the disk has no room for all features of a run, its teachers' among them."""
    train = own[0][0]
    readers = [*own, *((train, reader) for teacher in begin.teachers.values() for reader in teacher.readers)]
    # Of readers with the same image networks all are counted: rather too much than too little.
    needed = sum(reader.missing_bytes(data, features) for data, reader in readers)
    if needed:
        check_room(features, needed, own[0][1].views)
        progress.note(f"image features take {readable_bytes(needed)} in {features}")
