"""A teacher whose models judge only what they have not learned from."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from aladin.encoder.config import BackboneConfig
from aladin.errors import ConfigError, DataError, ModelError
from aladin.network.minilm import load_minilm
from aladin.network.run import Run
from aladin.network.transformer import Transformer
from aladin.training import cross_fitting, global_learning
from aladin.training.batches import Plan
from aladin.training.caption_similarity import CaptionSimilarity
from aladin.training.cross_fitting import (
    CrossFittedScores,
    CrossFitting,
    fold_of_each,
    pictures_read,
    pictures_seen,
    sentences_read,
)
from aladin.training.losses import infonce_loss
from aladin.training.recipe import LossConfig, Recipe
from aladin.training.start import teachers_of
from aladin.training.teachers import TeacherSettings
from aladin.training.teachers.caption_similarity import CaptionSimilaritySettings
from aladin.training.teachers.cross_fitted import CrossFittedSettings
from tests.tiny_learning import FAST, Recorder, learning_set, losses, tiny_model, trainer, write_tokenizer

PICTURES = 20
FOLDS = 2
SEED = 0


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_fitting, "AXES", (6, 10))
    monkeypatch.setattr(global_learning, "HIDDEN", 32)
    monkeypatch.setattr(global_learning, "DIM", 16)
    monkeypatch.setattr(cross_fitting, "DIM", 16)
    monkeypatch.setattr(global_learning, "AVERAGED_STEPS", 5)


@pytest.fixture(scope="module")
def minilm() -> Transformer:
    backbone = Transformer(BackboneConfig()).eval()
    load_minilm(backbone)
    return backbone


def fitting(minilm: Transformer, folder: Path, epochs: int) -> CrossFitting:
    tokenizer = write_tokenizer(folder)
    model = tiny_model(tokenizer)
    data = learning_set(model, tokenizer, PICTURES)
    plan = plan_of(data.owners, PICTURES)
    similarity = CaptionSimilarity.build(minilm, data.pieces, data.owners)
    pictures = pictures_read(data.images, model.backbone.image_network, SEED)
    return CrossFitting(pictures, sentences_read(data.pieces, minilm, Run()), similarity, plan, epochs, SEED, Run())


def plan_of(owners: np.ndarray, images: int) -> Plan:
    return Plan(owners, 10, 2, 1, 1, 1, 0, fold_of_each(images, FOLDS, 0))


@pytest.mark.parametrize(("images", "folds"), [(10, 5), (11, 5), (5996, 5), (4, 2)])
def test_folds_are_of_nearly_one_size_and_the_same_for_one_seed(images: int, folds: int) -> None:
    found = fold_of_each(images, folds, 3)
    sizes = np.bincount(found, minlength=folds)
    assert len(found) == images
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(found, fold_of_each(images, folds, 3))
    assert images < 20 or (found != fold_of_each(images, folds, 4)).any()


def test_a_fold_of_a_single_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"9 images are too few for 5 folds .*; expected at least two each: give more images"):
        fold_of_each(9, 5, 0)


@pytest.mark.slow
def test_scores_of_a_fold_do_not_depend_on_which_captions_go_with_its_pictures(minilm: Transformer, tmp_path: Path) -> None:
    """The models of a fold learn nothing from it: its pictures and captions could go with each other in any way."""
    plain = fitting(minilm, tmp_path, epochs=3)
    rows = np.flatnonzero(plain.folds == 0)
    pictures = plain.pictures.clone()
    pictures[rows] = pictures[rows[::-1].copy()]
    columns = np.flatnonzero(plain.caption_folds == 0)
    other = dataclasses.replace(plain, pictures=pictures)
    one, two = plain.scores(), other.scores()
    assert torch.equal(one.image_vectors[:, rows], two.image_vectors[:, rows[::-1].copy()])
    assert torch.equal(one.caption_vectors[:, columns], two.caption_vectors[:, columns])
    learned_from_it = np.flatnonzero(plain.folds == 1)
    assert not torch.equal(one.image_vectors[:, learned_from_it], two.image_vectors[:, learned_from_it])


@pytest.mark.slow
def test_it_finds_the_right_captions_of_pictures_that_its_models_have_not_seen(minilm: Transformer, tmp_path: Path) -> None:
    """Pictures and captions of random numbers that a line turns into each other: nothing of a pair can be known by heart."""
    random = torch.Generator().manual_seed(0)
    plain = fitting(minilm, tmp_path, epochs=1)
    pictures = torch.randn(200, 10, generator=random)
    owners = np.repeat(np.arange(200), 2)
    sentences = pictures[owners] @ torch.randn(10, 10, generator=random) + 0.1 * torch.randn(400, 10, generator=random)
    similarity = dataclasses.replace(
        plain.similarity,
        caption_vectors=torch.nn.functional.normalize(sentences, dim=1),
        image_vectors=torch.nn.functional.normalize(sentences[::2], dim=1),
    )
    apart = CrossFitting(pictures, sentences, similarity, plan_of(owners, 200), 150, SEED, Run())
    teacher = apart.scores()
    rows, columns = np.flatnonzero(apart.folds == 0), np.flatnonzero(apart.caption_folds == 0)
    found = rows[teacher.scores(rows, columns).argmax(dim=0).numpy()]
    assert (found == owners[columns]).mean() > 0.5  # by chance: 0.01


def test_a_score_is_the_mean_of_the_models_cosines() -> None:
    random = torch.Generator().manual_seed(0)
    images, captions = (torch.nn.functional.normalize(torch.randn(3, n, 4, generator=random), dim=2) for n in (5, 7))
    teacher = CrossFittedScores(images, captions, 20.0)
    rows, columns = np.array([4, 0]), np.array([6, 1, 3])
    slow = [[np.mean([float(images[m, i] @ captions[m, c]) for m in range(3)]) for c in columns] for i in rows]
    assert_close(teacher.scores(rows, columns), torch.tensor(slow), check_dtype=False)


@pytest.mark.slow
def test_its_scale_is_the_one_at_which_right_answers_are_likeliest(minilm: Transformer, tmp_path: Path) -> None:
    of = fitting(minilm, tmp_path, epochs=2)
    teacher = of.scores()
    steps = list(of.plan.steps(0, of.plan.steps_per_epoch))
    found = {
        scale: math.fsum(
            infonce_loss(teacher.scores(step.images, step.captions), step.positives, scale).item() for step in steps
        )
        for scale in cross_fitting.SCALES
    }
    assert found[teacher.scale] == min(found.values())
    assert max(found.values()) > min(found.values())


@pytest.mark.slow
def test_saved_scores_are_the_same_when_read_again(minilm: Transformer, tmp_path: Path) -> None:
    of = fitting(minilm, tmp_path, epochs=1)
    teacher = of.scores()
    teacher.save(tmp_path / "teacher.safetensors")
    again = CrossFittedScores.load(tmp_path / "teacher.safetensors")
    assert again.scale == teacher.scale
    rows = np.arange(PICTURES)
    assert torch.equal(again.scores(rows, rows), teacher.scores(rows, rows))


def test_pictures_are_pooled_one_by_one_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = write_tokenizer(tmp_path)
    model = tiny_model(tokenizer)
    images = learning_set(model, tokenizer, 5, views=2).images
    whole = pictures_seen(images, model.backbone.image_network)
    monkeypatch.setattr(global_learning, "BATCH", 2)
    assert_close(pictures_seen(images, model.backbone.image_network), whole)


def taught(**weights: float) -> Recipe:
    return Recipe(
        train=("backbone", "matching_head") if "matching" in weights else ("backbone",),
        epochs=30,
        batch_images=4,
        precision="fp32",
        validate_every=30,
        views=1,
        loss=LossConfig(alignment=0.0),
        teacher=(CrossFittedSettings(**weights, networks=("efficientnet-lite0",), size=64, folds=FOLDS, epochs=3),),  # type: ignore[arg-type]
        optimizer=FAST,
    )


@pytest.mark.slow
@pytest.mark.parametrize("student", ["alignment", "matching"])
def test_the_student_comes_nearer_to_the_teacher(tmp_path: Path, student: str) -> None:
    run = trainer(taught(**{student: 1.0}), tmp_path)
    run.run(Recorder())
    record = losses(run.folder.path)
    assert all(set(step) == {"loss", f"loss cross_fitted_{student}"} for step in record.values())
    totals = [step["loss"] for step in record.values()]
    assert sum(totals[-8:]) < sum(totals[:8])
    assert run.judged_head == student


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_same_teacher_to_the_same_losses(tmp_path: Path) -> None:
    short = dataclasses.replace(taught(alignment=1.0), epochs=4, averaged_steps=3)
    whole = trainer(short, tmp_path / "whole")
    whole.run(Recorder())
    stopped = trainer(short, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        stopped.run(Stopping(at=4))
    again, recorder = trainer(short, tmp_path / "stopped"), Recorder()
    again.run(recorder)
    assert not any("cross-fitted" in what for what, _, _ in recorder.seen)  # it need not learn again
    assert losses(again.folder.path) == losses(whole.folder.path)


@pytest.mark.slow
def test_a_run_whose_teacher_is_gone_does_not_go_on(tmp_path: Path) -> None:
    short = dataclasses.replace(taught(alignment=1.0), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        trainer(short, tmp_path).run(Stopping(at=4))
    (tmp_path / "run" / "cross_fitted.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the teacher of this run so far, cannot be read: .*; put it back, or"):
        trainer(short, tmp_path).run(Recorder())


class Stopping(Recorder):
    """Ctrl-C after so many steps."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def progress(self, what: str, done: int, total: int) -> None:
        if what == "training steps" and done == self.at + 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epochs", [1, 9, 10])
def test_however_few_the_steps_they_are_learned_from(minilm: Transformer, tmp_path: Path, epochs: int) -> None:
    assert torch.isfinite(fitting(minilm, tmp_path, epochs).scores().image_vectors).all()


@pytest.mark.parametrize("kind", [CrossFittedSettings, CaptionSimilaritySettings])
def test_a_tokenizer_that_is_not_minilms_is_refused(tmp_path: Path, kind: type[TeacherSettings]) -> None:
    tokenizer = write_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"is not MiniLM's.* teachers of kind caption_similarity and cross_fitted"):
        teachers_of(Recipe(teacher=(kind(alignment=1.0),)), tiny_model(tokenizer), tokenizer)  # type: ignore[arg-type]
