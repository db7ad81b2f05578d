"""The paper's recipes, each at the size of the tests, on synthetic regions in the true layout of its files."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from aladin.datasets import read_dataset
from aladin.encoder.config import BackboneConfig, HeadsConfig, ImageConfig, LimitsConfig, ModelConfig
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError
from aladin.network.model import Aladin, new_model
from aladin.network.official import RELEASED
from aladin.network.run import Run
from aladin.network.scores import alignment_scores
from aladin.training.learning_set import learning_set
from aladin.training.recipe import LossConfig, OptimizerConfig, Recipe, read_recipe
from aladin.training.start import Start
from aladin.training.trainer import Trainer
from tests import tiny_learning
from tests.tiny_learning import Recorder, losses, write_tokenizer
from tests.tiny_official import random_images, write_features

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
COUNTS = [3, 5, 2, 6, 4, 4, 1, 5]  # regions of each image
FEATURES = 14
SIZES = ModelConfig(
    BackboneConfig(
        vocabulary=len(tiny_learning.VOCABULARY),
        positions=32,
        dim=16,
        layers=2,
        heads=2,
        feed_forward=32,
        region_features=FEATURES - 6,
        dropout=0.1,
    ),
    HeadsConfig("MrSw", token_dim=16, matching_layers=1, matching_heads=2, matching_feed_forward=16),
    LimitsConfig(regions=5, object_pieces=16),
    ImageConfig(source="detector"),
    RELEASED,
    preprocessing=Preprocessing(caption_pieces=12),
)
PARTS = {"backbone": "backbone.", "matching_head": "matching_head."}


def recipe(name: str) -> Recipe:
    """The recipe, faster and shorter; its losses and what it trains are as it says."""
    full = read_recipe(RECIPES / f"{name}.toml")
    rates = dataclasses.replace(full.optimizer, learning_rate=2e-3, new_learning_rate=5e-3)
    return dataclasses.replace(full, epochs=15, batch_images=4, validate_every=15, optimizer=rates)


def run_of(recipe: Recipe, folder: Path, run: Run | None = None) -> Trainer:
    images = random_images(COUNTS, FEATURES)
    features = write_features(folder / "features", images)
    rows = [
        {"image": image.id, "captions": tiny_learning.captions(number), "split": "train"} for number, image in enumerate(images)
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    model = new_model(SIZES, WordPieces.of(tokenizer, SIZES.preprocessing), pretrained=False)
    dataset = read_dataset(folder / "captions.jsonl", images=features)
    data = learning_set(dataset, model, tokenizer, folder / "cache", recipe.views)
    return Trainer(recipe, Start(model, tokenizer), data, data, folder / "run", run=run)


def weights(model: Aladin) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_the_five_recipes_and_the_sixth_are_there() -> None:
    assert NAMES == [
        "alignment-and-matching-distill",
        "alignment-and-matching-triplet0.1-plus-distill",
        "alignment-triplet",
        "matching-distill-finetune",
        "matching-triplet-e2e",
        "matching-triplet-finetune",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_papers_sizes_and_settings(name: str) -> None:
    full = read_recipe(RECIPES / f"{name}.toml")
    backbone, heads, limits = full.model.backbone, full.model.heads, full.model.limits
    assert (backbone.layers, backbone.dim, backbone.heads, backbone.feed_forward) == (12, 768, 12, 3072)
    assert backbone.region_features + backbone.region_geometry == 2054
    assert (heads.pooling, heads.matching_layers, heads.matching_heads, heads.matching_feed_forward) == ("MrSw", 2, 4, 768)
    assert heads.depth == HeadsConfig().depth
    assert (full.model.preprocessing.caption_pieces, limits.object_pieces, limits.regions) == (50, 50, 34)
    assert (full.epochs, full.captions, full.captions_per_image) == (20, "each", 1)
    assert full.optimizer.step_epochs == (10 if name.endswith("finetune") else 15)
    assert (full.validate_every, full.validate_steps, full.best_by) == (1, 7000, "both")
    assert (backbone.dropout, backbone.attention_dropout, full.frozen_dropout) == (0.1, 0.1, True)
    assert full.model.quirks == RELEASED
    assert (full.batch_images, full.seed, full.loss.margin) == (32, 88, 0.2)
    assert (full.optimizer.learning_rate, full.optimizer.clip_norm, full.optimizer.weight_decay) == (1e-5, 2.0, 0.0)
    assert ("backbone" in full.train) != name.endswith("finetune")
    if "distill" in name:
        assert (full.loss.teacher_scale, full.loss.student_scale) == (1.0, 6.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_and_what_is_frozen_stays(name: str, tmp_path: Path) -> None:
    run = run_of(recipe(name), tmp_path)
    before = weights(run.model)
    reporter = Recorder()
    run.run(reporter)
    totals = [record["loss"] for record in losses(run.folder.path).values()]
    assert len(totals) == 60
    assert sum(totals[-4:]) < 0.98 * sum(totals[:4])
    changed = {name for name, weight in run.model.state_dict().items() if not torch.equal(weight, before[name])}
    for part, prefix in PARTS.items():
        assert any(parameter.startswith(prefix) for parameter in changed) == (part in run.recipe.train), part
    assert f"{run.judged_head} rsum" in reporter.epochs[-1][1]


@pytest.mark.parametrize("forgets", [False, True])
def test_a_frozen_alignment_head_scores_the_same_every_time_unless_it_forgets_as_the_originals(
    tmp_path: Path, forgets: bool
) -> None:
    run = run_of(dataclasses.replace(recipe("matching-distill-finetune"), epochs=1, frozen_dropout=forgets), tmp_path)
    step = next(iter(run.plan.steps(0, 1)))
    scores = []
    for seed in (1, 2):
        run.learn(step)
        torch.manual_seed(seed)
        images, captions = run.reads.states(step.whole)
        model = run.model
        scores.append(alignment_scores(model.alignment_head.regions(images), model.alignment_head.words(captions), "MrSw"))
    assert torch.equal(scores[0], scores[1]) != forgets


def test_the_best_model_is_judged_within_epochs_too_and_by_both_heads(tmp_path: Path) -> None:
    settings = recipe("alignment-and-matching-distill")
    run = run_of(dataclasses.replace(settings, epochs=2, validate_every=2, validate_steps=3), tmp_path)
    reporter = Recorder()
    run.run(reporter)
    records = [json.loads(line) for line in (run.folder.path / "log.jsonl").read_text().splitlines()]
    judged = [record for record in records if "matching and alignment rsum" in record]
    last = run.total_steps - 1
    assert [record["step"] for record in judged] == sorted({*range(2, last, 3), last})
    for record in judged:
        assert record["matching and alignment rsum"] == record["matching rsum"] + record["alignment rsum"]
    assert run.best_rsum == max(record["matching and alignment rsum"] for record in judged)


def test_the_log_tells_losses_with_and_without_their_weights(tmp_path: Path) -> None:
    settings = recipe("alignment-and-matching-triplet0.1-plus-distill")
    run = run_of(dataclasses.replace(settings, epochs=1), tmp_path)
    record = run.learn(next(iter(run.plan.steps(0, 1))))
    weights = settings.weights
    assert set(weights) == {name.removeprefix("unweighed loss ") for name in record if name.startswith("unweighed")}
    for name, weight in weights.items():
        assert record[f"loss {name}"] == pytest.approx(weight * record[f"unweighed loss {name}"])


def test_rates_fall_to_a_tenth_after_each_step(tmp_path: Path) -> None:
    rates = OptimizerConfig(warmup_steps=0, step_epochs=2)
    run = run_of(dataclasses.replace(recipe("alignment-triplet"), epochs=5, optimizer=rates), tmp_path)
    run.run(Recorder())
    seen = [json.loads(line) for line in (run.folder.path / "log.jsonl").read_text().splitlines()]
    by_epoch = {record["epoch"]: record["rate"] for record in seen if "rate" in record}
    assert by_epoch == pytest.approx({0: 1.0, 1: 1.0, 2: 0.1, 3: 0.1, 4: 0.01})


def test_losses_that_weigh_themselves_learn_their_weights_and_a_resumed_run_keeps_them(tmp_path: Path) -> None:
    everything = LossConfig(alignment_form="hinge", matching=1.0, distillation=1.0, hidden_l1=1.0, learned_weights=True)
    both = dataclasses.replace(recipe("alignment-and-matching-distill"), loss=everything, epochs=3)
    run = run_of(both, tmp_path)
    before = run.objective.log_variances.detach().clone()
    run.run(Recorder())
    assert run.objective.names == ("alignment", "matching", "distillation", "hidden_l1")
    assert (run.objective.log_variances != before).all()
    again = Trainer(both, Start(run.model, run.start.tokenizer), run.train_set, run.val_set, run.folder.path)
    again.run(Recorder())
    assert torch.equal(again.objective.log_variances, run.objective.log_variances)


def test_distillation_waits_for_its_epoch(tmp_path: Path) -> None:
    later = dataclasses.replace(recipe("alignment-and-matching-distill").loss, distillation_from_epoch=2)
    run = run_of(dataclasses.replace(recipe("alignment-and-matching-distill"), loss=later, epochs=3), tmp_path)
    run.run(Recorder())
    named = [set(record) for record in losses(run.folder.path).values()]
    assert [("loss distillation" in names) for names in named] == [False] * 8 + [True] * 4


def test_a_detectors_regions_have_no_image_network_to_train(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this model reads a detector's regions; leave it out"):
        run_of(dataclasses.replace(recipe("alignment-triplet"), train=("backbone", "image_network")), tmp_path)
