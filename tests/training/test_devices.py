"""Every step on another device than the processor. No GPU is needed: on PyTorch's meta device tensors have a device and no
values, and one that was made on the processor beside them is an error, as it is on a GPU.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from aladin.encoder.config import ModelConfig
from aladin.encoder.pooling import POOLINGS
from aladin.errors import ConfigError, MemoryFull
from aladin.evaluation.scoring import CaptionWords
from aladin.network.checkpoints import save_model
from aladin.network.model import Aladin
from aladin.network.pairs import scored_pairs
from aladin.network.run import Run, chosen_device, memory_watched
from aladin.network.tensors import Tokens, each_tensor
from aladin.training.recipe import LossConfig, Recipe
from aladin.training.state_bank import StateBank
from aladin.training.teachers import AnyTeacher, cross_encoder
from aladin.training.teachers.caption_similarity import CaptionSimilaritySettings
from aladin.training.teachers.cross_encoder import CrossEncoderSettings
from aladin.training.teachers.cross_fitted import CrossFittedSettings
from aladin.training.teachers.ensemble import EnsembleSettings
from aladin.training.trainer import Trainer
from tests.tiny_learning import TINY, learning_set, tiny_model, trainer, write_tokenizer
from tests.training import test_paper_recipes as paper
from tests.training.test_trainer import RECIPES, weights

META = torch.device("meta")
ELSEWHERE = Run("fp32", META)
OWN = {name: dataclasses.replace(recipe, teacher=()) for name, recipe in RECIPES.items()} | {
    "the cross-encoder": Recipe(
        train=("backbone", "cross_encoder"), loss=LossConfig(cross_encoder=1.0, cross_encoder_scale=0.0)
    ),
    "the projection": Recipe(train=("projection",)),
    "all regularisers": Recipe(
        train=("backbone", "image_network", "matching_head"),
        loss=LossConfig(matching=1.0, measure="order", entropy=0.1, hidden_l1=0.1),
        kept_regions=2,
    ),
    "losses that weigh themselves": Recipe(loss=LossConfig(matching=1.0, learned_weights=True)),
}


def step_elsewhere(run: Trainer) -> dict[str, torch.Tensor]:
    """A step of the optimizer, all of it on the meta device."""
    assert all(tensor.device == META for tensor in run.model.state_dict().values())
    measured = run.stepping.backward(next(iter(run.plan.steps(0, 1))))
    run.stepping.update()
    return measured


def placed_elsewhere(recipe: Recipe, folder: Path, model: Aladin | None = None) -> Trainer:
    """A run on the meta device; what is read or computed once for all steps is the processor's."""
    small = dataclasses.replace(recipe, batch_images=4, precision="fp32", views=1)
    model = model or tiny_model(write_tokenizer(folder), with_parts(small))
    bank = None
    if not {"backbone", "image_network"} & set(recipe.train):
        bank = StateBank.build(model, learning_set(model, write_tokenizer(folder), 8), Run())
    run = trainer(small, folder, model, run=ELSEWHERE)
    if bank is not None:
        run.reads.bank = dataclasses.replace(bank, run=ELSEWHERE)
    return run


def with_parts(recipe: Recipe) -> ModelConfig:
    narrow = 8 if "projection" in recipe.train else TINY.heads.token_dim
    heads = dataclasses.replace(TINY.heads, cross_encoder="cross_encoder" in recipe.train, token_dim=narrow)
    return dataclasses.replace(TINY, heads=heads)


@pytest.mark.parametrize("name", OWN)
def test_a_recipes_step_makes_no_tensor_on_the_processor(name: str, tmp_path: Path) -> None:
    run = placed_elsewhere(OWN[name], tmp_path)
    measured = step_elsewhere(run)
    assert {value.device for value in measured.values()} == {META}
    assert {f"unweighed loss {loss}" for loss in run.recipe.weights} <= measured.keys() | {"unweighed loss distillation"}


@pytest.mark.parametrize("name", paper.NAMES)
def test_a_paper_recipes_step_makes_no_tensor_on_the_processor(name: str, tmp_path: Path) -> None:
    run = paper.run_of(dataclasses.replace(paper.recipe(name), precision="fp32"), tmp_path, ELSEWHERE)
    assert {value.device for value in step_elsewhere(run).values()} == {META}


@pytest.mark.parametrize("kind", ["caption_similarity", "ensemble", "cross_fitted", "cross_encoder"])
def test_a_teachers_losses_make_no_tensor_on_the_processor(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = write_tokenizer(tmp_path)
    heads = dataclasses.replace(TINY.heads, cross_encoder=True)
    save_model(tiny_model(tokenizer, dataclasses.replace(TINY, heads=heads)), tokenizer, tmp_path / "teacher")
    models, both = (str(tmp_path / "teacher"),), {"alignment": 1.0, "matching": 1.0}
    settings: dict[str, AnyTeacher] = {
        "caption_similarity": CaptionSimilaritySettings(**both),
        "ensemble": EnsembleSettings(**both, models=models),
        "cross_fitted": CrossFittedSettings(**both, networks=("efficientnet-lite0",), size=64, folds=2, epochs=1),
        "cross_encoder": CrossEncoderSettings(**both, models=models, list_length=2),
    }
    recipe = Recipe(
        train=("backbone", "matching_head"), batch_images=4, views=1, precision="fp32", teacher=(settings[kind],),
        loss=LossConfig(alignment=0.0),
    )  # fmt: skip
    here = trainer(recipe, tmp_path)
    lessons = here.lessons()
    teacher = here.start.teachers[kind]
    here.folder.path.mkdir()
    teacher.prepare(Run(), lessons)
    run = trainer(recipe, tmp_path, run=ELSEWHERE)
    run.start.teachers[kind].__dict__.update(_moved(teacher.__dict__))
    # Which pairs stand in a list is known from values alone, which the meta device has not.
    monkeypatch.setattr(cross_encoder, "rows_and_columns", lambda listed: (torch.tensor([0, 1, 3]), torch.tensor([2, 0, 5])))
    measured = step_elsewhere(run)
    assert {f"loss {kind}_alignment", f"loss {kind}_matching"} <= measured.keys()


def _moved(parts: dict[str, object]) -> dict[str, object]:
    """A prepared teacher that computes elsewhere from now on."""
    moved = dict(parts)
    for name, part in parts.items():
        if isinstance(part, Run):
            moved[name] = ELSEWHERE
        elif isinstance(part, torch.nn.Module):
            moved[name] = part.to(META)
        elif dataclasses.is_dataclass(part) and hasattr(part, "run"):
            moved[name] = dataclasses.replace(part, run=ELSEWHERE)  # type: ignore[type-var]
    return moved


def test_a_tensor_of_the_processor_beside_the_models_is_an_error(tmp_path: Path) -> None:
    run = placed_elsewhere(OWN["align"], tmp_path)
    run.objective._run = Run()  # which so puts what is positive where the scores are not
    with pytest.raises(RuntimeError, match="device"):
        step_elsewhere(run)


@pytest.mark.parametrize("source", ["photographs", "a detector's regions"])
def test_encoding_and_scoring_make_no_tensor_on_the_processor(source: str, tmp_path: Path) -> None:
    if source == "photographs":
        tokenizer = write_tokenizer(tmp_path)
        model = tiny_model(tokenizer, dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True)))
        data = learning_set(model, tokenizer, 5)
    else:
        run = paper.run_of(paper.recipe("alignment-triplet"), tmp_path)
        model, data = run.model, run.train_set
    model = model.to(META).eval()
    ids, mask = (torch.from_numpy(part[:3]).to(META) for part in (data.pieces.ids, data.pieces.mask))
    images, captions = model.images(model.backbone.batch(data.images, np.arange(4))), model.captions(ids, mask)
    assert images.vectors.device == captions.tokens.states.device == META
    if model.cross_encoder is not None:
        read = model.backbone.batch(data.images, np.arange(2))
        assert scored_pairs(model, read, data.pieces, (torch.tensor([0, 1]), torch.tensor([3, 0]))).device == META


@pytest.mark.parametrize("pooling", POOLINGS)
def test_blocks_of_scores_are_computed_on_the_device(pooling: str) -> None:
    random = torch.Generator().manual_seed(0)
    tokens = [
        Tokens(functional.normalize(torch.randn(n, 4, 8, generator=random), dim=2), torch.ones(n, 4).bool()) for n in (3, 5)
    ]
    regions, words = tokens
    assert CaptionWords.of(words, pooling, META).scores(regions).device == META  # type: ignore[arg-type]
    assert CaptionWords.of(words, pooling).scores(regions).shape == (3, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"chunk_images": 1}, {"chunk_images": 3}, {"recompute_layers": True}])
@pytest.mark.parametrize("name", ["align", "both", "distil", "all regularisers"])
def test_chunks_and_recomputed_layers_change_no_gradient(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    recipe = dataclasses.replace(OWN[name], batch_images=4, precision="fp32", views=1)
    found = []
    for number, changed in enumerate(({}, settings)):
        compute = dataclasses.replace(recipe.compute, **changed)
        run = trainer(dataclasses.replace(recipe, compute=compute), tmp_path / str(number))
        torch.manual_seed(0)
        run.model.eval()  # dropout draws otherwise for other rows
        measured = run.stepping.backward(next(iter(run.plan.steps(0, 1))))
        gradients = {name: weight.grad for name, weight in run.model.named_parameters() if weight.grad is not None}
        found.append((measured, gradients))
    (measured, gradients), (again, others) = found
    assert gradients.keys() == others.keys()
    torch.testing.assert_close(measured, again, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradients, others, atol=1e-6, rtol=1e-4)


def test_recomputed_chunks_forget_what_they_forgot_before(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, dropout=0.5))
    recipe = dataclasses.replace(OWN["align"], batch_images=4, precision="fp32", views=1)
    recipe = dataclasses.replace(recipe, compute=dataclasses.replace(recipe.compute, chunk_images=2))
    run = trainer(recipe, tmp_path, tiny_model(write_tokenizer(tmp_path), config))
    step = next(iter(run.plan.steps(0, 1)))
    forward: list[torch.Tensor] = []
    layer = run.model.backbone.layers[0]
    layer.register_forward_hook(lambda module, given, found: forward.append(found.detach().clone()))
    run.model.train()
    run.stepping.backward(step)
    half = len(forward) // 2  # images and captions of two chunks; then all of them again, the last chunk first
    assert half == 4
    assert [torch.equal(forward[first], forward[second]) for first, second in ((0, 6), (1, 7), (2, 4), (3, 5))] == [True] * 4


def test_gradients_of_parts_are_added_and_their_negatives_are_their_own(tmp_path: Path) -> None:
    recipe = dataclasses.replace(OWN["align"], batch_images=6, precision="fp32", views=1)
    run = trainer(dataclasses.replace(recipe, gradient_accumulation=3), tmp_path / "parts")
    run.model.eval()
    step = next(iter(run.plan.steps(0, 1)))
    measured = run.stepping.backward(step)
    one = trainer(recipe, tmp_path / "one")
    one.model.eval()
    apart = [one.objective.losses(part)["alignment"] for part in step.apart(3)]
    assert [len(part.images) for part in step.apart(3)] == [2, 2, 2]
    torch.testing.assert_close(measured["unweighed loss alignment"], torch.stack(apart).mean())
    torch.stack(apart).mean().backward()
    expected = one.model.backbone.layers[0].output.weight.grad
    assert expected is not None
    expected = expected * min(1.0, recipe.optimizer.clip_norm / float(measured["gradient norm"]))
    torch.testing.assert_close(run.model.backbone.layers[0].output.weight.grad, expected, atol=1e-6, rtol=1e-4)


def test_losses_in_fp16_are_scaled_and_a_step_whose_gradient_overflows_is_left_out(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(OWN["both"], batch_images=4, precision="fp16", views=1), tmp_path)
    step = next(iter(run.plan.steps(0, 1)))
    before, scale = weights(run.model), run.learning.scaler.get_scale()
    first = run.model.backbone.embeddings.word_embeddings.weight
    hook = first.register_hook(lambda gradient: gradient * torch.inf)
    record = run.learn(step)
    assert "gradient norm" not in record
    assert np.isfinite(list(record.values())).all()  # as JSON wants them
    torch.testing.assert_close(weights(run.model), before, atol=0, rtol=0)
    assert run.learning.scaler.get_scale() == scale / 2
    hook.remove()
    assert np.isfinite(run.learn(step)["gradient norm"])
    assert not torch.equal(first, before["backbone.embeddings.word_embeddings.weight"])
    stored = run.learning.metadata
    other = trainer(run.recipe, tmp_path / "other")
    other.learning.restore(run.learning.state(), stored)
    assert other.learning.scaler.get_scale() == scale / 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_full_precision(precision: str, tmp_path: Path) -> None:
    totals = []
    for kind in ("fp32", precision):
        run = trainer(dataclasses.replace(OWN["align"], batch_images=4, precision=kind, views=1), tmp_path / kind)  # type: ignore[arg-type]
        totals.append([run.learn(step)["loss"] for step in run.plan.steps(0, 2)])
    assert totals[0] == pytest.approx(totals[1], rel=0.03)
    assert totals[0] != totals[1]


def test_a_tensor_is_put_where_the_run_computes() -> None:
    tokens = Tokens(torch.zeros(1, 2, 3), torch.ones(1, 2).bool())
    moved = ELSEWHERE.put(tokens)
    assert moved.states.device == moved.mask.device == META
    assert each_tensor(tokens, lambda tensor: ~tensor if tensor.dtype == torch.bool else tensor + 1).states.sum() == 6


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "", "cpu:0", "tpu"])
def test_what_is_no_device_is_refused_with_what_could_be_given(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, cuda:N or mps"):
        chosen_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:3"])
def test_a_gpu_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(ConfigError, match=r"(built without CUDA|finds no GPU); give cpu or auto"):
        chosen_device(name)


def test_auto_takes_what_there_is() -> None:
    assert chosen_device("auto").type == ("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")


def test_memory_that_is_full_is_one_sentence_with_what_to_lower() -> None:
    with pytest.raises(MemoryFull, match=r"memory of this machine is full; lower it"), memory_watched("lower it"):
        torch.empty(2**60)
    with pytest.raises(MemoryFull, match=r"this machine is full; read less"), memory_watched("give --device cpu", "read less"):
        np.empty(2**50)
    with (
        pytest.raises(MemoryFull, match=r"memory of the GPU is full \(CUDA out of memory\); lower it"),
        memory_watched("lower it"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    with pytest.raises(RuntimeError, match="something else"), memory_watched("lower it"):
        raise RuntimeError("something else")


COMPILED = """
import dataclasses, sys
from pathlib import Path
from tests.tiny_learning import trainer
from tests.training.test_trainer import RECIPES

for compiled in (False, True):
    recipe = dataclasses.replace(RECIPES["both"], teacher=(), batch_images=4, precision="fp32", views=1)
    compute = dataclasses.replace(recipe.compute, compile=compiled)
    run = trainer(dataclasses.replace(recipe, compute=compute), Path(sys.argv[1]) / str(compiled))
    run.model.eval()
    print(*(run.stepping.backward(step)["loss"].item() for step in run.plan.steps(0, 3)))
    assert not any("_orig_mod" in name for name in run.model.state_dict()), "a checkpoint is one of any run"
"""


@pytest.mark.slow
def test_compiled_layers_compute_the_same(tmp_path: Path) -> None:
    # In a process of its own: the tests' checks of shapes, which wrap every function, are none that can be compiled.
    command = [sys.executable, "-c", COMPILED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    plain, compiled = ([float(loss) for loss in line.split()] for line in done.stdout.splitlines())
    assert len(plain) == 3
    assert plain == pytest.approx(compiled, rel=1e-4)
