import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.errors import AladinError
from aladin.network.checkpoints import save_model
from aladin.network.pairs import pair_matrix
from aladin.training.losses import listed_listnet_loss, listnet_loss
from aladin.training.recipe import LossConfig, OptimizerConfig, Recipe
from aladin.training.start import start_model
from aladin.training.teachers.cross_encoder import CrossEncoderSettings, CrossEncoderTeacher, listed_pairs, listed_scores
from tests.tiny_learning import TINY, Recorder, learning_set, losses, tiny_model, trainer, write_tokenizer

WITH_HEAD = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True))
OWNERS = [0, 0, 1, 2, 2, 2, 3]
OWN = torch.tensor([[owner == image for owner in OWNERS] for image in range(4)])
ALONE = LossConfig(alignment=0.0)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher, which says firmly what it thinks."""
    tokenizer = write_tokenizer(tmp_path)
    teacher = tiny_model(tokenizer, WITH_HEAD, seed=5)
    assert teacher.cross_encoder is not None
    for weight in teacher.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    save_model(teacher, tokenizer, tmp_path / "teacher")
    return tmp_path / "teacher"


def slow_loss(student: torch.Tensor, teacher: torch.Tensor, listed: torch.Tensor, scale: float, teacher_scale: float) -> float:
    """Every query's list by itself: images first, then captions."""
    total = 0.0
    for some, others, asked in ((student, teacher, listed), (student.T, teacher.T, listed.T)):
        for query in range(len(some)):
            kept = [k for k in range(some.shape[1]) if asked[query, k]]
            p = [math.exp(teacher_scale * others[query, k]) for k in kept]
            q = [math.exp(scale * some[query, k]) for k in kept]
            total -= sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True)) / len(some)
    return total


@given(seed=st.integers(0, 99), share=st.floats(0.0, 1.0), scale=st.sampled_from([1.0, 6.0]))
def test_the_loss_is_that_of_every_list_by_itself(seed: int, share: float, scale: float) -> None:
    student, teacher = drawn(seed, 4, 7), drawn(seed + 100, 4, 7)
    listed = torch.rand(4, 7, generator=torch.Generator().manual_seed(seed)) < share
    expected = slow_loss(student, teacher, listed, scale, 2.0)
    assert listed_listnet_loss(student, teacher, listed, scale, 2.0).item() == pytest.approx(expected, abs=1e-4)


def test_with_everything_listed_it_is_listnet() -> None:
    student, teacher = drawn(0, 4, 7), drawn(1, 4, 7)
    everything = torch.ones(4, 7, dtype=torch.bool)
    assert_close(listed_listnet_loss(student, teacher, everything, 6.0, 2.0), listnet_loss(student, teacher, 6.0, 2.0))


def test_only_listed_pairs_of_the_student_get_a_gradient_and_the_teacher_none() -> None:
    student, teacher = drawn(0, 4, 7).requires_grad_(), drawn(1, 4, 7).requires_grad_()
    listed = OWN.clone()
    listed[3], listed[:, 6] = False, False  # a list without any candidate, on both sides
    listed_listnet_loss(student, teacher, listed).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[~listed].eq(0).all()
    assert student.grad[0, 0] != 0


@given(seed=st.integers(0, 99), size=st.integers(2, 9))
def test_listed_are_positives_and_the_best_scored_others_of_each_query(seed: int, size: int) -> None:
    scores = drawn(seed, 4, 7)
    expected = OWN.clone()
    for image in range(4):
        order = sorted(range(7), key=lambda k: (not OWN[image, k], -scores[image, k]))
        expected[image, order[:size]] = True
    for caption in range(7):
        order = sorted(range(4), key=lambda k: (not OWN[k, caption], -scores[k, caption]))
        expected[order[:size], caption] = True
    assert torch.equal(listed_pairs(scores, OWN, size), expected)


def test_the_teacher_scores_listed_pairs_as_pair_by_pair(folder: Path) -> None:
    teacher = tiny_model(folder / "tokenizer.json", WITH_HEAD).eval()
    data = learning_set(teacher, folder / "tokenizer.json", 4)
    maps, classes = torch.from_numpy(data.images.maps[0]).float(), torch.from_numpy(data.images.tags[0]).long()  # type: ignore[union-attr]
    rows = data.owners.nonzero()[0][::2]  # some captions, not from the beginning
    with torch.no_grad():
        images = teacher.backbone.image_input(maps, classes)
        listed = drawn(3, 4, len(rows)) > 0
        found = listed_scores(teacher, images, data.pieces, rows, listed)
        every = pair_matrix(teacher, images, data.pieces)[:, torch.from_numpy(rows)]
    assert_close(found, every.masked_fill(~listed, 0.0), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("student", ["matching", "alignment"])
def test_the_student_comes_nearer_to_a_teacher_that_does_not_move(folder: Path, tmp_path: Path, student: str) -> None:
    recipe = Recipe(
        train=("matching_head",) if student == "matching" else ("backbone",),
        epochs=40,
        batch_images=4,
        views=2,
        precision="fp32",
        validate_every=40,
        loss=ALONE,
        teacher=(CrossEncoderSettings(**{student: 1.0}, models=(str(folder),), list_length=3, scale=20.0),),
        optimizer=OptimizerConfig(learning_rate=3e-3, new_learning_rate=5e-3, warmup_steps=2),
    )
    run = trainer(recipe, tmp_path)
    found = run.start.teachers["cross_encoder"]
    assert isinstance(found, CrossEncoderTeacher)
    teacher = found.model
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    heads = {name: weight.clone() for name, weight in run.model.state_dict().items()}
    run.run(Recorder())
    record = losses(run.folder.path)
    assert all(set(step) == {"loss", f"loss cross_encoder_{student}"} for step in record.values())
    totals = [step["loss"] for step in record.values()]
    assert sum(totals[-8:]) < 0.95 * sum(totals[:8])
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert not teacher.training
    moved = {name.split(".")[0] for name, weight in run.model.state_dict().items() if not torch.equal(weight, heads[name])}
    assert moved == {"matching_head"} if student == "matching" else {"backbone"}
    assert run.judged_head == student


@pytest.mark.slow
def test_two_runs_with_a_teacher_compute_the_same_losses(folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(train=("matching_head",), epochs=2, batch_images=4, precision="fp32", loss=ALONE, teacher=(taught(folder),))
    runs = [trainer(recipe, tmp_path / name) for name in ("one", "other")]
    for run in runs:
        run.run(Recorder())
    assert losses(runs[0].folder.path) == losses(runs[1].folder.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ((), r"'cross_encoder' names no model; give folders by models in .*, or by --teacher cross_encoder=FOLDER"),
        (("plain", "plain"), "the teacher of kind 'cross_encoder' names 2 models; expected one"),
        (("plain",), "has no cross-encoder; give a folder that recipes/cross-encoder.toml made"),
        (("nowhere",), "nowhere is not a model folder"),
        (("finer",), "reads other images than the model does"),
        (("speller",), "has other word pieces than"),
    ],
)
def test_a_teacher_that_cannot_teach_the_model_is_refused_before_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = tmp_path / "tokenizer.json"
    plain = tiny_model(tokenizer)
    finer = dataclasses.replace(WITH_HEAD, preprocessing=dataclasses.replace(TINY.preprocessing, size=128))
    save_model(plain, tokenizer, Path("plain"))
    save_model(tiny_model(tokenizer, finer), tokenizer, Path("finer"))
    save_model(tiny_model(tokenizer, WITH_HEAD), tokenizer, Path("speller"))
    with Path("speller/tokenizer.json").open("a") as file:
        file.write("\n")
    recipe = Recipe(teacher=(CrossEncoderSettings(matching=1.0, models=models),))
    with pytest.raises(AladinError, match=sentence):
        start_model(recipe, Path("plain"))


def taught(folder: Path) -> CrossEncoderSettings:
    return CrossEncoderSettings(matching=1.0, models=(str(folder),), list_length=3)
