"""Several models' alignment scores as one teacher."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from aladin.errors import ConfigError
from aladin.evaluation.encoding import encode_captions, encode_images
from aladin.network.checkpoints import save_model
from aladin.network.model import Aladin
from aladin.network.run import Run
from aladin.training.recipe import LossConfig, OptimizerConfig, Recipe
from aladin.training.start import teachers_of
from aladin.training.teachers.ensemble import EncodedEnsemble, EnsembleSettings, EnsembleTeacher
from tests.tiny_learning import TINY, Recorder, learning_set, losses, tiny_model, trainer, write_tokenizer

pytestmark = pytest.mark.slow

PICTURES = 8
COARSER = dataclasses.replace(TINY, image=dataclasses.replace(TINY.image, grid=1))  # sees the same pictures as one region


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, ...]:
    """Two teachers that see images in their own ways and say firmly what they think."""
    tokenizer = write_tokenizer(tmp_path)
    for name, config, seed in (("one", TINY, 5), ("other", COARSER, 6)):
        member = tiny_model(tokenizer, config, seed)
        for weight in member.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.3)
        save_model(member, tokenizer, tmp_path / name)
    return str(tmp_path / "one"), str(tmp_path / "other")


def taught(folders: tuple[str, ...], **weights: float) -> Recipe:
    return Recipe(
        train=("backbone", "matching_head") if "matching" in weights else ("backbone",),
        epochs=30,
        batch_images=4,
        views=2,
        precision="fp32",
        validate_every=30,
        loss=LossConfig(alignment=0.0),
        teacher=(EnsembleSettings(**weights, models=folders),),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(learning_rate=3e-3, new_learning_rate=5e-3, warmup_steps=2),
    )


def members_of(folders: tuple[str, ...]) -> tuple[Path, tuple[Aladin, ...]]:
    tokenizer = Path(folders[0]) / "tokenizer.json"
    found = teachers_of(taught(folders, alignment=1.0), tiny_model(tokenizer), tokenizer)["ensemble"]
    assert isinstance(found, EnsembleTeacher)
    return tokenizer, found.members


def slow_score(member: Aladin, tokenizer: Path, image: int, caption: int) -> float:
    """The mean over a caption's words of the similarity to the region that is most similar."""
    data = learning_set(member, tokenizer, PICTURES)
    regions, words = encode_images(member, data.images).tokens, encode_captions(member, data.pieces).tokens
    best = [
        max(float(region @ word) for region in regions.states[image, regions.mask[image]])
        for word in words.states[caption, words.mask[caption]]
    ]
    return sum(best) / len(best)


def test_the_teachers_scores_are_the_mean_of_what_each_member_scores_pair_by_pair(folders: tuple[str, ...]) -> None:
    tokenizer, members = members_of(folders)
    sets = [learning_set(member, tokenizer, PICTURES) for member in members]
    teacher = EncodedEnsemble.of(members, [data.images for data in sets], sets[0].pieces)
    images, captions = np.array([5, 0, 3]), np.array([10, 1, 0, 7])
    expected = [
        [np.mean([slow_score(m, tokenizer, image, caption) for m in members]) for caption in captions] for image in images
    ]
    assert_close(teacher.scores(images, captions), torch.tensor(expected), atol=1e-5, rtol=1e-4, check_dtype=False)


def test_what_else_is_in_the_batch_changes_no_score(folders: tuple[str, ...]) -> None:
    tokenizer, members = members_of(folders)
    sets = [learning_set(member, tokenizer, PICTURES) for member in members]
    teacher = EncodedEnsemble.of(members, [data.images for data in sets], sets[0].pieces, Run("bf16"))
    every = teacher.scores(np.arange(PICTURES), np.arange(2 * PICTURES))
    for caption in range(2 * PICTURES):
        assert_close(teacher.scores(np.array([2]), np.array([caption]))[0, 0], every[2, caption], atol=1e-2, rtol=0)


@pytest.mark.parametrize("student", ["alignment", "matching"])
def test_the_student_comes_nearer_to_teachers_that_do_not_move(folders: tuple[str, ...], tmp_path: Path, student: str) -> None:
    run = trainer(taught(folders, **{student: 1.0}), tmp_path)
    teacher = run.start.teachers["ensemble"]
    assert isinstance(teacher, EnsembleTeacher)
    before = [{name: weight.clone() for name, weight in member.state_dict().items()} for member in teacher.members]
    run.run(Recorder())
    record = losses(run.folder.path)
    assert all(set(step) == {"loss", f"loss ensemble_{student}"} for step in record.values())
    totals = [step["loss"] for step in record.values()]
    assert sum(totals[-8:]) < 0.97 * sum(totals[:8])
    for member, weights in zip(teacher.members, before, strict=True):
        assert not member.training
        assert all(torch.equal(weight, weights[name]) for name, weight in member.state_dict().items())
    assert run.judged_head == student


def test_two_runs_with_an_ensemble_compute_the_same_losses(folders: tuple[str, ...], tmp_path: Path) -> None:
    recipe = dataclasses.replace(taught(folders, alignment=1.0, matching=0.5), epochs=2)
    runs = [trainer(recipe, tmp_path / name) for name in ("first", "second")]
    for run in runs:
        run.run(Recorder())
    assert losses(runs[0].folder.path) == losses(runs[1].folder.path)


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        (
            (),
            "'ensemble' names no model; give folders by models in .*, or by --teacher ensemble=FOLDER",
        ),
        (("summing",), "summing scores by MrSw, the model that learns by MrAVGw; give models of one pooling"),
        (("shorter",), "shorter reads 11 pieces of a caption, the model that learns 12"),
        (("speller",), "speller has other word pieces than"),
    ],
)
def test_an_ensemble_that_cannot_teach_the_model_is_refused(
    folders: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = Path("one/tokenizer.json")
    summing = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, pooling="MrSw"))
    shorter = dataclasses.replace(TINY, preprocessing=dataclasses.replace(TINY.preprocessing, caption_pieces=11))
    for name, config in (("summing", summing), ("shorter", shorter), ("speller", TINY)):
        save_model(tiny_model(tokenizer, config), tokenizer, Path(name))
    with Path("speller/tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ConfigError, match=sentence):
        teachers_of(taught(models, alignment=1.0), tiny_model(tokenizer), tokenizer)
