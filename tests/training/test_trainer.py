import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch

from aladin.config import read_toml, to_table
from aladin.encoder.config import HeadsConfig, ModelConfig, Pooling
from aladin.errors import ConfigError, DataError, ModelError, TrainingError
from aladin.network.checkpoints import load_model, save_model
from aladin.network.model import Aladin
from aladin.network.run import Run
from aladin.training import projection
from aladin.training.learning_set import check_captions
from aladin.training.losses import ordinal_loss
from aladin.training.recipe import (
    AlignmentLoss,
    DistillationLoss,
    LossConfig,
    MatchingLoss,
    OptimizerConfig,
    Recipe,
    read_recipe,
)
from aladin.training.start import Start, start_model
from aladin.training.state_bank import StateBank
from aladin.training.trainer import Trainer
from tests.tiny_learning import (
    FAST,
    INTERRUPTED,
    TINY,
    Recorder,
    Waiting,
    learning_set,
    losses,
    tiny_model,
    trainer,
    write_tokenizer,
)

ROOT = Path(__file__).parents[2]
PARTS = {
    "image_network": ("backbone.image_network.region_tails.",),
    "backbone": ("backbone.embeddings.", "backbone.region_embedding.", "backbone.layers."),
    "matching_head": ("matching_head.",),
    "projection": ("alignment_head.",),
}


def beginnings(recipe: Recipe) -> tuple[str, ...]:
    """How names of weights begin that learn by a recipe."""
    return tuple(name for part in recipe.train for name in PARTS[part])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So that a run in another process rounds alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shipped(name: str) -> Recipe:
    """A recipe of the package, at the size of the tests."""
    recipe = read_recipe(ROOT / "recipes" / f"{name}.toml")
    return dataclasses.replace(
        recipe, epochs=4, batch_images=4, views=1, image_network_from_epoch=0, validate_every=4, optimizer=FAST
    )


def with_loss(**settings: object) -> Recipe:
    parts = ("backbone", "matching_head") if settings.get("matching") or settings.get("distillation") else ("backbone",)
    loss = LossConfig(**settings)  # type: ignore[arg-type]
    return Recipe(train=parts, epochs=4, batch_images=4, views=1, validate_every=4, optimizer=FAST, loss=loss)


def by_matching(form: str) -> Recipe:
    return with_loss(alignment=0.0, matching=1.0, matching_form=form)


def by_distillation(form: str) -> Recipe:
    return dataclasses.replace(
        shipped("distil"),
        captions_per_image=1 if form == "contrastive_original" else 2,
        loss=LossConfig(alignment=0.0, distillation=1.0, distillation_form=form),  # type: ignore[arg-type]
    )


RECIPES = {
    **{name: shipped(name) for name in ("align", "distil", "triplet", "both")},
    **{f"alignment by {form}": with_loss(alignment_form=form) for form in get_args(AlignmentLoss)},
    **{f"matching by {form}": by_matching(form) for form in get_args(MatchingLoss)},
    **{f"distillation by {form}": by_distillation(form) for form in get_args(DistillationLoss)},
}


def weights(model: Aladin) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def moved(before: dict[str, torch.Tensor], model: Aladin) -> set[str]:
    return {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_and_only_what_the_recipe_names_moves(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    run = trainer(recipe, tmp_path)
    before = weights(run.model)
    run.run(Recorder())
    totals = [record["loss"] for record in losses(run.folder.path).values()]
    assert len(totals) == run.total_steps == 8
    assert sum(totals[-2:]) < 0.99 * sum(totals[:2])  # the last epoch and the first
    changed = moved(before, run.model)
    for part, prefix in PARTS.items():
        assert any(parameter.startswith(prefix) for parameter in changed) == (part in recipe.train), part
    assert all(parameter.startswith(beginnings(recipe)) for parameter in changed)


@pytest.mark.slow
def test_the_mean_of_the_weights_is_what_is_validated_and_kept(tmp_path: Path) -> None:
    recipe = dataclasses.replace(INTERRUPTED, averaged_steps=4, epochs=2, validate_every=1)
    run = trainer(recipe, tmp_path)
    mean = weights(run.model)
    learned: list[dict[str, torch.Tensor]] = []

    class Watching(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            learned.append(weights(run.model))

    reporter = Watching()
    run.run(reporter)
    for number, state in enumerate(learned):
        for name, weight in state.items():
            if weight.is_floating_point():
                mean[name] = weight if number == 0 else mean[name] + (weight - mean[name]) / 4
    kept = weights(run.kept_model)
    assert not torch.equal(kept["backbone.layers.0.output.weight"], learned[-1]["backbone.layers.0.output.weight"])
    for name, weight in mean.items():
        torch.testing.assert_close(kept[name], weight, atol=1e-6, rtol=1e-5)
    assert run.validate() == {name: reporter.epochs[-1][1][name] for name in run.validate()}


def test_lower_layers_learn_slower_by_the_layer_decay(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, layers=3))
    model = tiny_model(write_tokenizer(tmp_path), config)
    rates = dataclasses.replace(FAST, layer_decay=0.5)
    run = trainer(dataclasses.replace(RECIPES["align"], optimizer=rates), tmp_path, model)
    full = {id(p): group["full_rate"] for group in run.learning.optimizer.param_groups for p in group["params"]}
    for parameter in model.backbone.embeddings.parameters():
        assert full[id(parameter)] == rates.learning_rate / 8
    for above, layer in enumerate(reversed(model.backbone.layers)):
        assert {full[id(parameter)] for parameter in layer.parameters()} == {rates.learning_rate / 2**above}
    assert {full[id(parameter)] for parameter in model.backbone.region_embedding.parameters()} == {rates.new_learning_rate}


@pytest.mark.slow
def test_every_layer_of_what_learns_moves(tmp_path: Path) -> None:
    run = trainer(RECIPES["both"], tmp_path)
    before = weights(run.model)
    run.run(Recorder())
    parts = beginnings(RECIPES["both"])
    learners = {name for name, _ in run.model.named_parameters() if name.startswith(parts)}
    # A key's bias shifts all weights of a query alike, so it has no gradient but rounding.
    still = {name for name in learners - moved(before, run.model) if "key.bias" not in name}
    assert not still


def test_a_projection_learns_alone_and_is_judged_by_its_own_head(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, token_dim=5))
    model = tiny_model(write_tokenizer(tmp_path), config)
    run = trainer(dataclasses.replace(with_loss(), train=("projection",)), tmp_path, model)
    before, recorder = weights(model), Recorder()
    run.run(recorder)
    assert moved(before, model) == {"alignment_head.projection.weight"}
    assert run.judged_head == "alignment"
    assert run.best_rsum == max(record["alignment rsum"] for _, record in recorder.epochs)


@pytest.mark.slow
def test_a_projection_begins_near_the_cosines_it_is_to_keep_and_is_not_replaced(tmp_path: Path) -> None:
    dim = TINY.backbone.dim
    tokenizer = write_tokenizer(tmp_path)
    save_model(tiny_model(tokenizer, TINY), tokenizer, tmp_path / "wide")
    recipe = dataclasses.replace(with_loss(), train=("projection",))

    def narrowed(token_dim: int, start: str) -> Start:
        heads = dataclasses.replace(TINY.heads, token_dim=token_dim)
        return start_model(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, heads=heads)), tmp_path / start)

    assert narrowed(dim - 1, "wide").fresh_projection
    model = narrowed(dim - 1, "wide").model
    rows = model.alignment_head.projection.weight.detach()
    assert model.config.heads.token_dim == len(rows) == dim - 1
    torch.testing.assert_close(rows @ rows.T, torch.eye(dim - 1))
    stored = load_model(tmp_path / "wide").state_dict()
    assert all(torch.equal(weight, stored[name]) for name, weight in weights(model).items() if "alignment_head" not in name)
    save_model(model, tokenizer, tmp_path / "narrow")
    again = narrowed(dim - 1, "narrow")
    assert torch.equal(again.model.alignment_head.projection.weight, rows)
    assert not again.fresh_projection
    with pytest.raises(ConfigError, match=f"projects its tokens to {dim - 1} already"):
        narrowed(dim - 2, "narrow")


NARROWING = dataclasses.replace(
    with_loss(), train=("projection",), epochs=3, batch_images=3, views=2, kept_regions=3, averaged_steps=3
)


def narrow_model(folder: Path, token_dim: int = 5) -> Aladin:
    config = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, token_dim=token_dim))
    return tiny_model(write_tokenizer(folder), config)


@pytest.mark.slow
@pytest.mark.parametrize("train", [("projection",), ("backbone", "projection")])
def test_a_fresh_projection_begins_with_the_principal_axes_of_what_the_first_steps_read(
    train: tuple[str, ...], tmp_path: Path
) -> None:
    still = OptimizerConfig(learning_rate=0.0, new_learning_rate=0.0, weight_decay=0.0)
    model = narrow_model(tmp_path)
    before = model.alignment_head.projection.weight.detach().clone()
    recipe = dataclasses.replace(NARROWING, train=train, optimizer=still)
    run = trainer(recipe, tmp_path, model, fresh_projection=True)
    run.run(Recorder())
    whole = tiny_model(write_tokenizer(tmp_path))
    whole.load_state_dict({name: weight for name, weight in weights(model).items() if "alignment_head" not in name})
    tokens = []
    with torch.no_grad():
        for step in run.plan.steps(0, projection.AXES_STEPS):
            maps = torch.from_numpy(run.train_set.images.maps[step.views, step.images]).float()  # type: ignore[union-attr]
            classes = torch.from_numpy(run.train_set.images.tags[step.views, step.images]).long()  # type: ignore[union-attr]
            pieces, mask = (torch.from_numpy(a[step.captions]) for a in (run.train_set.pieces.ids, run.train_set.pieces.mask))
            for found in (
                whole.encoded_images(whole.image_states(whole.backbone.image_input(maps, classes, step.keep))).tokens,
                whole.encoded_captions(whole.caption_states(pieces, mask)).tokens,
            ):
                tokens.append(found.states[found.mask])
    every = torch.cat(tokens)
    best = torch.linalg.svd(every, full_matrices=False).Vh[:5]
    rows = run.model.alignment_head.projection.weight.detach()
    torch.testing.assert_close(rows @ rows.T, torch.eye(5), atol=1e-5, rtol=0)
    kept, most, random = ((every @ axes.T).square().sum() for axes in (rows, best, torch.linalg.qr(before.T).Q.T))
    assert random < 0.9 * most
    assert kept > 0.999 * most  # states are kept and multiplied in bfloat16
    assert torch.equal(run.kept_model.alignment_head.projection.weight, rows)


@pytest.mark.slow
def test_a_resumed_run_does_not_look_for_the_axes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            if (what, done) == ("training steps", 4):
                raise KeyboardInterrupt

    def run(folder: str) -> Trainer:
        return trainer(NARROWING, tmp_path / folder, narrow_model(tmp_path / folder), fresh_projection=True)

    whole = run("whole")
    whole.run(Recorder())
    with pytest.raises(KeyboardInterrupt):
        run("stopped").run(Stopping())
    monkeypatch.setattr(projection, "principal_axes", None)
    resumed = run("stopped")
    resumed.run(Recorder())
    assert losses(resumed.folder.path) == losses(whole.folder.path)
    assert torch.equal(resumed.model.alignment_head.projection.weight, whole.model.alignment_head.projection.weight)


@pytest.mark.slow
def test_too_few_tokens_for_a_projection_are_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(NARROWING, epochs=1, captions_per_image=1, kept_regions=1)
    run = trainer(recipe, tmp_path, narrow_model(tmp_path, TINY.backbone.dim - 1), pictures=2, fresh_projection=True)
    with pytest.raises(DataError, match=r"there are \d+ tokens to find 15 principal axes of; .* or lower token_dim"):
        run.run(Recorder())


def test_a_projection_that_is_not_there_cannot_learn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token_dim is that of the backbone"):
        trainer(dataclasses.replace(with_loss(), train=("backbone", "projection")), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"), [("align", "alignment"), ("distil", "matching"), ("triplet", "matching"), ("both", "matching")]
)
def test_epochs_are_judged_by_the_head_that_the_recipe_is_for(name: str, head: str, tmp_path: Path) -> None:
    assert trainer(RECIPES[name], tmp_path).judged_head == head


@pytest.mark.slow
@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_every_pooling_can_be_learned_and_validated(pooling: Pooling, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, pooling=pooling))
    run = trainer(dataclasses.replace(with_loss(), epochs=1), tmp_path, tiny_model(write_tokenizer(tmp_path), config))
    run.run(Recorder())
    assert 0 < run.best_rsum <= 600


@pytest.mark.slow
def test_the_image_networks_tail_stays_as_it_is_until_its_epoch(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["align"], epochs=3, validate_every=1, image_network_from_epoch=2)
    run = trainer(recipe, tmp_path)
    tail = run.model.backbone.image_network.region_tails  # type: ignore[union-attr]
    before = [weight.clone() for weight in tail.parameters()]
    still: list[bool] = []

    class Watching(Recorder):
        def validated(self, epoch: int, measures: dict[str, float]) -> None:
            still.append(all(torch.equal(one, other) for one, other in zip(before, tail.parameters(), strict=True)))

    run.run(Watching())
    assert still == [True, True, False]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_frozen_transformer_has_the_same_states_every_time(dropout: float, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, dropout=dropout))
    tokenizer = write_tokenizer(tmp_path)
    model = tiny_model(tokenizer, config).train()
    data = learning_set(model, tokenizer, 6, views=2)
    banks = [StateBank.build(model, data, Run("bf16")) for _ in range(2)]
    assert torch.equal(banks[0].image_states, banks[1].image_states)
    assert torch.equal(banks[0].caption_states, banks[1].caption_states)


@pytest.mark.slow
def test_a_backbone_that_does_not_learn_has_no_dropout_though_the_image_network_does_learn(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, dropout=0.5))
    tokenizer = write_tokenizer(tmp_path)
    recipe = dataclasses.replace(RECIPES["align"], train=("image_network",), epochs=1, batch_images=8)
    by_seed = []
    for seed in (1, 2):  # of torch's generator, which nothing but dropout reads
        run = trainer(dataclasses.replace(recipe, seed=seed), tmp_path / str(seed), tiny_model(tokenizer, config))
        run.run(Recorder())
        by_seed.append(losses(run.folder.path)[0]["loss"])
    assert by_seed[0] == pytest.approx(by_seed[1], rel=1e-2)


def test_the_states_of_frozen_parts_are_those_that_the_model_computes(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    model = tiny_model(tokenizer)
    data = learning_set(model, tokenizer, 5, views=2)
    bank = StateBank.build(model, data, Run("fp32"))
    recipe = dataclasses.replace(RECIPES["distil"], batch_images=5, views=2, kept_regions=4)
    step = next(iter(Trainer(recipe, Start(model, tokenizer), data, data, tmp_path / "run").plan.steps(0, 1)))
    maps = torch.from_numpy(data.images.maps[step.views, step.images]).float()
    classes = torch.from_numpy(data.images.tags[step.views, step.images]).long()
    with torch.no_grad():
        images = model.image_states(model.backbone.image_input(maps, classes))
        captions = model.caption_states(*(torch.from_numpy(a[step.captions]) for a in (data.pieces.ids, data.pieces.mask)))
    torch.testing.assert_close(bank.images(step.whole).states, images.states, atol=0.02, rtol=0.01)  # bfloat16
    kept = bank.captions(step.whole)
    assert torch.equal(kept.mask, captions.mask[:, : kept.mask.shape[1]])
    torch.testing.assert_close(kept.states[kept.mask], captions.states[captions.mask], atol=0.02, rtol=0.01)
    chosen = bank.images(dataclasses.replace(step, keep=torch.tensor([[1, 3]] * 5)).whole)
    assert torch.equal(chosen.states, bank.images(step.whole).states[:, [0, 2, 4]])


@pytest.mark.slow
def test_a_run_leaves_a_model_its_settings_and_its_logs(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["both"], epochs=4, validate_every=2)
    run, recorder = trainer(recipe, tmp_path), Recorder()
    run.run(recorder)
    best = load_model(run.folder.best)
    assert best.config == run.model.config
    details = read_toml(run.folder.best / "model.toml")["training"]
    assert details["recipe"] == to_table(recipe)
    assert details["epoch"] in (1, 3)
    settings = read_toml(run.folder.path / "settings.toml")
    made_of = {"training": {"data": {}}}  # of data and a start that say nothing of themselves
    made_of |= {"plan": {"steps": 8, "judged_head": "matching"}}
    assert settings == {"commit": details["commit"], **to_table(recipe), "model": to_table(run.model.config), **made_of}
    records = [json.loads(line) for line in (run.folder.path / "log.jsonl").read_text().splitlines()]
    validations = [record for record in records if "matching rsum" in record]
    assert [record["epoch"] for record in validations] == [epoch for epoch, _ in recorder.epochs] == [1, 3]
    assert max(record["matching rsum"] for record in validations) == run.best_rsum
    assert all(record["peak_memory_gib"] > 0 and record["epoch_seconds"] >= 0 for record in validations)
    assert recorder.seen[-1] == ("training steps", 8, 8)
    (events,) = run.folder.path.glob("events.out.tfevents.*")
    assert b"matching_rsum" in events.read_bytes()
    assert not list(run.folder.path.rglob("*.partial"))


@pytest.mark.slow
def test_a_run_where_nobody_counts_memory_says_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    run, recorder = trainer(dataclasses.replace(RECIPES["align"], epochs=1), tmp_path), Recorder()
    run.run(recorder)
    ((_, measures),) = recorder.epochs
    assert "epoch_seconds" in measures
    assert "peak_memory_gib" not in measures


@pytest.mark.slow
def test_the_best_model_is_the_one_of_the_best_epoch(tmp_path: Path) -> None:
    """Measured again from its folder, it has the rsum that the log says was best."""
    run = trainer(dataclasses.replace(RECIPES["align"], epochs=5, validate_every=1), tmp_path)
    run.run(Recorder())
    start = Start(load_model(run.folder.best), run.start.tokenizer)
    again = Trainer(run.recipe, start, run.train_set, run.val_set, tmp_path / "again")
    assert again.validate()["alignment rsum"] == run.best_rsum


@pytest.mark.slow
@pytest.mark.parametrize("name", ["align", "distil"])
def test_learning_finds_the_right_captions(name: str, tmp_path: Path) -> None:
    # An alignment head that has not learned has nothing worth imitating.
    start = trainer(dataclasses.replace(RECIPES["align"], epochs=12, validate_every=12), tmp_path / "start", pictures=16)
    start.run(Recorder())
    run = start
    if name == "distil":
        recipe = dataclasses.replace(RECIPES["distil"], epochs=12, validate_every=12)
        run = trainer(recipe, tmp_path / "distil", load_model(start.folder.best), pictures=16)
        run.run(Recorder())
    assert run.best_rsum > 400  # chance: about 200


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trainer(INTERRUPTED, tmp_path / "whole")
    whole.run(Recorder())
    expected = losses(whole.folder.path)
    assert len(expected) == whole.total_steps == 12

    # Epochs 0 and 1 end after steps 2 and 5: killed in the middle of epoch 2, one step after the last checkpoint.
    command = [sys.executable, "-m", "tests.tiny_learning", str(tmp_path / "killed"), "8"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    log = tmp_path / "killed" / "run" / "log.jsonl"
    assert list(losses(log.parent)) == list(range(8))
    with log.open("a") as file:
        file.write('{"step": 8, "epo')  # as if it had been killed while writing

    resumed = trainer(INTERRUPTED, tmp_path / "killed")
    resumed.run(Recorder())
    assert losses(resumed.folder.path) == expected
    assert resumed.best_rsum == whole.best_rsum
    assert all(torch.equal(one, other) for one, other in zip(resumed.model.parameters(), whole.model.parameters(), strict=True))
    assert torch.equal(resumed.objective.score_fit, whole.objective.score_fit)


@pytest.mark.slow
def test_a_run_stopped_between_checkpoints_by_an_exception_goes_on_from_the_last_epoch(tmp_path: Path) -> None:
    class Stopping(Waiting):
        def progress(self, what: str, done: int, total: int) -> None:
            if what == "training steps" and done == self.stop:
                raise KeyboardInterrupt

    whole = trainer(INTERRUPTED, tmp_path / "whole")
    whole.run(Recorder())
    with pytest.raises(KeyboardInterrupt):
        trainer(INTERRUPTED, tmp_path / "stopped").run(Stopping(5))
    resumed, recorder = trainer(INTERRUPTED, tmp_path / "stopped"), Recorder()
    resumed.run(recorder)
    assert recorder.seen[0] == ("training steps", 4, 12)
    assert losses(resumed.folder.path) == losses(whole.folder.path)


def test_a_finished_run_is_not_begun_again(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["distil"], epochs=2, validate_every=2)
    first = trainer(recipe, tmp_path)
    first.run(Recorder())
    log = (first.folder.path / "log.jsonl").read_text()
    second, recorder = trainer(recipe, tmp_path), Recorder()
    second.run(recorder)
    assert recorder.seen == []
    assert (first.folder.path / "log.jsonl").read_text() == log
    assert second.best_rsum == first.best_rsum


def test_another_recipe_in_the_same_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["distil"], epochs=1)
    run = trainer(recipe, tmp_path)
    run.run(Recorder())
    before = {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="belongs to another recipe; give another --out"):
        trainer(dataclasses.replace(recipe, seed=1), tmp_path).run(Recorder())
    assert {path: path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_other_data_or_a_model_of_other_sizes_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["distil"], epochs=1)
    trainer(recipe, tmp_path).run(Recorder())
    with pytest.raises(ConfigError, match="belongs to a run on other captions"):
        trainer(recipe, tmp_path, pictures=9).run(Recorder())
    larger = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, layers=2))
    with pytest.raises(ConfigError, match="belongs to a model of other sizes"):
        trainer(recipe, tmp_path, tiny_model(write_tokenizer(tmp_path), larger)).run(Recorder())


def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(RECIPES["distil"], epochs=1), tmp_path)
    run.folder.path.mkdir()
    (run.folder.path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors cannot be read: .*delete it to start the run anew"):
        run.run(Recorder())


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    run = trainer(RECIPES["both"], tmp_path)
    with torch.no_grad():
        run.model.matching_head.layers[0].linear1.bias[0] = torch.nan
    expected = r"the loss is nan at step 0 \(epoch 0; alignment loss \d.*, distillation loss nan\)"
    with pytest.raises(TrainingError, match=expected):
        run.run(Recorder())


def test_a_gradient_that_is_not_a_number_stops_the_run_before_it_spoils_the_weights(tmp_path: Path) -> None:
    run = trainer(RECIPES["align"], tmp_path)
    first = run.model.backbone.embeddings.word_embeddings.weight
    first.register_hook(lambda gradient: gradient * torch.inf)
    before = weights(run.model)
    with pytest.raises(TrainingError, match=r"the gradient norm is (nan|inf) at step 0"):
        run.run(Recorder())
    assert not moved(before, run.model)


@pytest.mark.slow
def test_the_learning_rate_warms_up_and_then_falls_to_nothing(tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        RECIPES["distil"], epochs=10, validate_every=10, optimizer=dataclasses.replace(FAST, warmup_steps=5)
    )
    run = trainer(recipe, tmp_path)
    run.run(Recorder())
    rates = [json.loads(line)["rate"] for line in (run.folder.path / "log.jsonl").read_text().splitlines() if '"rate"' in line]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[5:]))
    assert rates[-1] < 0.02


@pytest.mark.slow
def test_gradients_are_clipped_and_rates_of_nothing_move_nothing(tmp_path: Path) -> None:
    still = OptimizerConfig(learning_rate=0.0, new_learning_rate=0.0, image_learning_rate=0.0, weight_decay=0.0, clip_norm=1e-3)
    run = trainer(dataclasses.replace(RECIPES["both"], epochs=1, optimizer=still), tmp_path)
    before = weights(run.model)
    run.run(Recorder())
    assert not moved(before, run.model)
    gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
    assert torch.stack([gradient.norm() for gradient in gradients]).norm().item() <= 1.01e-3


def test_data_of_a_single_image_cannot_be_learned_from() -> None:
    from aladin.datasets import Dataset, Example, FileOnDisk

    one = Example("a.jpg", ("a dog",), "", FileOnDisk(Path("a.jpg")))
    with pytest.raises(DataError, match="my data has fewer than 2 images"):
        check_captions(Dataset((one,)), "my data")


def test_a_model_starts_from_a_folder_or_from_pretrained_weights(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(RECIPES["distil"], epochs=1, fresh_matching_head=False), tmp_path)
    run.run(Recorder())
    start = start_model(run.recipe, run.folder.best)
    assert start.tokenizer == run.folder.best / "tokenizer.json"
    expected = load_model(run.folder.best).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in start.model.state_dict().items())


def test_dropout_is_the_recipes_whatever_model_it_starts_from(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    save_model(tiny_model(tokenizer, TINY), tokenizer, tmp_path / "start")
    backbone = dataclasses.replace(TINY.backbone, dropout=0.25, attention_dropout=0.125)
    recipe = dataclasses.replace(with_loss(), model=dataclasses.replace(ModelConfig(), backbone=backbone))
    model = start_model(recipe, tmp_path / "start").model
    assert model.config == dataclasses.replace(TINY, backbone=backbone)
    shares = {name: module.p for name, module in model.backbone.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert {share for name, share in shares.items() if name.endswith("weights_dropout")} == {0.125}
    assert {share for name, share in shares.items() if not name.endswith("weights_dropout")} == {0.25}


@pytest.mark.slow
def test_a_fresh_matching_head_is_another_one_for_each_seed_and_nothing_else_is_new(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(RECIPES["distil"], epochs=1), tmp_path)
    run.run(Recorder())
    stored = load_model(run.folder.best).state_dict()

    def renewed(seed: int) -> dict[str, torch.Tensor]:
        return weights(start_model(dataclasses.replace(run.recipe, seed=seed), run.folder.best).model)

    one, again, other = renewed(1), renewed(1), renewed(2)
    matrix = "matching_head.layers.0.linear1.weight"
    assert torch.equal(one[matrix], again[matrix])
    assert not torch.equal(one[matrix], other[matrix])
    for name, weight in stored.items():
        assert name.startswith("matching_head.") or torch.equal(one[name], weight)


@pytest.mark.parametrize("name", ["distil", "triplet", "project", "taught"])
def test_a_recipe_that_leaves_the_transformer_as_it_is_needs_a_start(name: str) -> None:
    recipe = read_recipe(ROOT / "recipes" / f"{name}.toml")
    with pytest.raises(ConfigError, match=r"without --start its embedding of regions is random; give --start"):
        start_model(recipe, None)


def test_a_backbone_of_other_sizes_than_minilms_needs_a_start() -> None:
    backbone = dataclasses.replace(ModelConfig().backbone, dim=64, layers=2)
    recipe = dataclasses.replace(Recipe(), model=dataclasses.replace(ModelConfig(), backbone=backbone))
    expected = r"has dim = 64, layers = 2, but a run without --start begins with MiniLM-L6, which has dim = 384, layers = 6"
    with pytest.raises(ConfigError, match=expected):
        start_model(recipe, None)


def test_the_checkpoint_may_be_read_by_whom_every_new_file_may_be(tmp_path: Path) -> None:
    run = trainer(dataclasses.replace(RECIPES["distil"], epochs=1), tmp_path)
    run.run(Recorder())
    modes = {path.name: path.stat().st_mode for path in run.folder.path.iterdir()}
    assert modes["checkpoint.safetensors"] == modes["log.jsonl"]


@pytest.mark.slow
def test_a_run_by_drawn_pairs_that_was_stopped_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    headed = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True))
    headed = dataclasses.replace(headed, backbone=dataclasses.replace(headed.backbone, dropout=0.2))
    recipe = dataclasses.replace(
        INTERRUPTED,
        train=("backbone", "cross_encoder"),
        epochs=2,
        loss=LossConfig(alignment=0.0, cross_encoder=1.0, cross_encoder_scale=0.0),
    )

    def run_in(folder: Path) -> Trainer:
        return trainer(recipe, folder, tiny_model(write_tokenizer(folder), headed))

    class Stopping(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            if done == 5:
                raise KeyboardInterrupt

    whole = run_in(tmp_path / "whole")
    whole.run(Recorder())
    with pytest.raises(KeyboardInterrupt):
        run_in(tmp_path / "stopped").run(Stopping())
    torch.rand(7)  # wherever torch's generator stands
    resumed = run_in(tmp_path / "stopped")
    resumed.run(Recorder())
    assert losses(resumed.folder.path) == losses(whole.folder.path)


def test_the_ordinal_form_compares_ranks_by_the_settings(tmp_path: Path) -> None:
    student, teacher = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    for stride, threshold in ((3, 0.1), (1, 0.1), (3, 0.9)):
        loss = LossConfig(distillation=1.0, distillation_form="ordinal", ordinal_stride=stride, ordinal_threshold=threshold)
        run = trainer(dataclasses.replace(with_loss(), loss=loss), tmp_path)
        expected = ordinal_loss(student, teacher, 0.2, threshold, stride)
        assert run.objective.distillation(student, teacher, torch.eye(6, dtype=torch.bool)) == expected


def test_the_matching_head_has_the_recipes_dropout_where_it_learns_and_none_elsewhere(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    save_model(tiny_model(tokenizer, TINY), tokenizer, tmp_path / "start")
    heads = dataclasses.replace(HeadsConfig(), matching_dropout=0.4)
    recipe = dataclasses.replace(RECIPES["both"], model=dataclasses.replace(ModelConfig(), heads=heads), teacher=())
    for train, learns in ((("backbone", "matching_head"), True), (("backbone",), False)):
        model = start_model(dataclasses.replace(recipe, train=train), tmp_path / "start").model
        assert model.config.heads == dataclasses.replace(TINY.heads, matching_dropout=0.4)
        run = trainer(dataclasses.replace(recipe, train=train), tmp_path / str(learns), model)
        step = next(iter(run.plan.steps(0, 1)))
        run.learn(step)
        with torch.no_grad():
            states = model.caption_states(*run.reads.captions(step.whole))
            vectors = [model.matching_head(states) for _ in range(2)]
        assert torch.equal(*vectors) != learns
