"""`aladin.train`: a recipe and data to a trained model, in one call."""

import dataclasses
import doctest
from pathlib import Path
from types import ModuleType

import pytest

import aladin
from aladin.encoder.config import ImageNetwork
from aladin.errors import AladinError, ConfigError
from aladin.network.checkpoints import provenance, save_model
from aladin.training import adding_global_head, train
from aladin.training.cross_fitting import CrossFittedScores
from aladin.training.recipe import LossConfig, OptimizerConfig, Recipe
from aladin.training.teachers.cross_fitted import CrossFittedSettings
from aladin.training.teachers.ensemble import EnsembleSettings
from tests.tiny_learning import Recorder, losses, tiny_model, write_minilm, write_pictures, write_tokenizer

pytestmark = pytest.mark.slow

NETWORKS: tuple[ImageNetwork, ...] = ("efficientnet-lite0",)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from, MiniLM that spells as the tests do, and pictures to learn from and to judge by."""
    folder = tmp_path_factory.mktemp("files")
    tokenizer = write_tokenizer(folder / "tokenizer")
    save_model(tiny_model(tokenizer), tokenizer, folder / "model")
    write_minilm(folder / "minilm")
    write_pictures(folder / "pictures", 8)
    write_pictures(folder / "others", 6, first=8)
    return folder


def recipe(*teachers: CrossFittedSettings | EnsembleSettings) -> Recipe:
    return Recipe(
        train=("backbone", "matching_head"),
        epochs=2,
        batch_images=4,
        views=1,
        loss=LossConfig(distillation=0.0 if teachers else 1.0),
        teacher=teachers,
        optimizer=OptimizerConfig(warmup_steps=1),
    )


@pytest.mark.parametrize(("module", "lines"), [(train, 5), (adding_global_head, 3)])
def test_the_examples_are_true(files: Path, tmp_path: Path, module: ModuleType, lines: int) -> None:
    names = {"recipe": recipe(), "model": files / "model", "scratch": tmp_path}
    names |= {"pictures": files / "pictures", "others": files / "others"}
    found = doctest.testmod(module, extraglobs=names)
    assert (found.attempted, found.failed) == (lines, 0)


def test_a_cross_fitted_teacher_sees_photographs_through_networks_of_its_own(files: Path, tmp_path: Path) -> None:
    settings = CrossFittedSettings(matching=1.0, networks=NETWORKS, size=64, folds=2, epochs=2)
    recorder = Recorder()
    result = aladin.train(
        recipe(settings), files / "pictures", files / "others", tmp_path / "run",
        start=files / "model", cache=files / "cache", minilm=files / "minilm", progress=recorder,
    )  # fmt: skip
    assert all("loss cross_fitted_matching" in step for step in losses(tmp_path / "run").values())
    teacher = CrossFittedScores.load(tmp_path / "run" / "cross_fitted.safetensors")
    assert teacher.image_vectors.shape[1] == 8
    assert teacher.caption_vectors.shape[1] == 16
    assert provenance(result.folder)["training"]["recipe"]["teacher"][0]["networks"] == ["efficientnet-lite0"]
    assert "training images, for the cross-fitted teacher" in {what for what, _, _ in recorder.seen}
    (note,) = recorder.notes
    assert note.startswith("image features take ")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 240}, "size of the teacher of kind 'cross_fitted' is 240; expected a multiple of 32"),
        ({"folds": 5}, "8 images are too few for 5 folds of a cross-fitted teacher; expected at least two each"),
    ],
)
def test_what_a_cross_fitted_teacher_cannot_be_is_said_before_features_are_computed(
    files: Path, tmp_path: Path, settings: dict[str, int], sentence: str
) -> None:
    teacher = CrossFittedSettings(matching=1.0, networks=NETWORKS, **settings)  # type: ignore[arg-type]
    with pytest.raises(AladinError, match=sentence):
        aladin.train(
            recipe(teacher), files / "pictures", files / "others", tmp_path / "run",
            start=files / "model", cache=tmp_path / "cache", minilm=files / "minilm",
        )  # fmt: skip
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("cross_encoder", r"the recipe has no \[\[teacher\]\] of that kind; it has ensemble"),
        ("cross_fitted", "no .* of that kind"),
    ],
)
def test_a_model_for_a_teacher_that_the_recipe_has_not_is_refused(
    files: Path, tmp_path: Path, kind: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        aladin.train(
            recipe(EnsembleSettings(matching=1.0)), files / "pictures", files / "others", tmp_path / "run",
            start=files / "model", teachers={kind: [files / "model"]},
        )  # fmt: skip


def test_a_seed_that_is_given_stands_instead_of_the_recipes(files: Path, tmp_path: Path) -> None:
    data = files / "pictures", files / "others"
    with pytest.raises(ConfigError, match="seed is -1; expected a whole number of at least 0"):
        aladin.train(recipe(), *data, tmp_path / "run", seed=-1)
    assert not (tmp_path / "run").exists()
    once = dataclasses.replace(recipe(), epochs=1)
    made = aladin.train(once, *data, tmp_path / "run", seed=7, start=files / "model", cache=files / "cache")
    assert provenance(made.folder)["training"]["recipe"]["seed"] == 7


@pytest.mark.parametrize(("name", "sentence"), [("file", "which is no folder; give"), ("file/run", "but .*file is no folder")])
def test_a_file_in_the_place_of_the_runs_folder_is_named_as_out(files: Path, tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=f"^out is {tmp_path / name}, {sentence}") as caught:
        aladin.train(recipe(), files / "pictures", files / "others", tmp_path / name, start=files / "model")
    assert "--cache" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_model_for_a_teacher_that_reads_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="a teacher of kind 'cross_fitted' reads no model folder, but some was given"):
        recipe(CrossFittedSettings(matching=1.0)).taught_by({"cross_fitted": [Path("some")]})
