"""Features in SCAN's form, as a model without boxes learns from them and is measured on them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import aladin
from aladin.cli import main
from aladin.datasets import read_dataset
from aladin.encoder.config import QuirksConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.network.checkpoints import load_model, save_model
from aladin.network.model import new_model
from aladin.training.recipe import LossConfig, OptimizerConfig, Recipe
from tests.datasets.test_precomputed import FEATURES, features, write_part
from tests.tiny_learning import write_tokenizer
from tests.training.test_paper_recipes import SIZES

CONFIG = dataclasses.replace(
    SIZES,
    quirks=QuirksConfig(),
    backbone=dataclasses.replace(SIZES.backbone, region_features=FEATURES, region_geometry=0, dropout=0.0),
)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["regions", "vectors"])
def test_a_model_learns_from_them_without_boxes_and_is_measured_on_them(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny_precomp"
    for seed, (part, count) in enumerate({"train": 8, "dev": 4, "testall": 5}.items()):
        write_part(folder, part, features(count, seed, form))
    tokenizer = write_tokenizer(tmp_path)
    torch.manual_seed(0)
    model = new_model(CONFIG, WordPieces.of(tokenizer, CONFIG.preprocessing), pretrained=False)
    save_model(model, tokenizer, tmp_path / "start")
    losses = LossConfig(alignment=1.0, matching=1.0)
    recipe = Recipe(
        train=("backbone", "matching_head"),
        epochs=3,
        batch_images=4,
        model=CONFIG,
        loss=losses,
        optimizer=OptimizerConfig(learning_rate=2e-3, new_learning_rate=5e-3),
    )
    train, val = (read_dataset(folder, split) for split in ("train", "val"))
    aladin.train(recipe, train, val, tmp_path / "run", start=tmp_path / "start", device="cpu")
    best = tmp_path / "run" / "best"
    learned = load_model(best)
    assert learned.config.backbone.region_geometry == 0
    assert not torch.equal(learned.backbone.region_embedding.linear.weight, model.backbone.region_embedding.linear.weight)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(best), str(folder), "--split", "test", "--json"])
    assert stop.value.code == 0
    subject = json.loads(capsys.readouterr().out)["subject"]
    assert (subject["images"], subject["captions"], subject["split"]) == (5, 25, "test")
    assert len(aladin.score(best, "testall/3", ["a red picture"], features=folder)) == 1
