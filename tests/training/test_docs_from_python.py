"""The Python that docs/training.md shows, run from the first line to the last, with small pictures, model and recipe."""

import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aladin
from aladin.encoder.folder import ModelFolder
from aladin.network.checkpoints import save_model
from aladin.training import calibrate
from tests.test_docs import ROOT, blocks
from tests.tiny_learning import tiny_model, write_tokenizer

SHORT = """
train = ["backbone", "matching_head"]
epochs = 1
batch_images = 30
views = 1

[loss]
distillation = 1.0
"""
# A start that takes seconds, and too few pictures for what these are otherwise.
SMALLER = {
    '"runs/both"': 'start="start"',
    '"runs/whole", "train"': "dim=4, epochs=1",
    '"runs/corrected", "train"': "centres=4",
}
THINGS = ("dog", "horse", "river", "city", "beach", "tree")  # ten pictures of each: `calibrate` asks for words of that many


def write_data(folder: Path, first: int) -> None:
    """Sixty pictures, each with two captions that name what it is of."""
    folder.mkdir()
    rows, random = [], np.random.default_rng(first)
    for number in range(first, first + 60):
        thing = THINGS[number % len(THINGS)]
        Image.fromarray(random.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "captions": [f"a {thing}", f"one {thing} and more of it"]}) + "\n")
    (folder / "captions.jsonl").write_text("".join(rows))


@pytest.mark.slow
def test_every_line_of_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aladin.exporting.export.MAX_RSUM_LOSS", 600.0)  # such pictures say nothing of rsum
    block = "".join(blocks(ROOT / "docs" / "training.md", "python"))
    for name in re.findall(r"\w+\.zip", block):
        block = block.replace(name, name.removesuffix(".zip"))
    for ending, settings in SMALLER.items():
        assert block.count(f"{ending})") == 1
        block = block.replace(f"{ending})", f"{ending}, {settings})")
    write_data(tmp_path / "train", 0)
    write_data(tmp_path / "val", 60)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "start")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "both.toml").write_text(SHORT)
    exec(block, {})
    model = ModelFolder.open(tmp_path / "my-model")
    assert model.config.heads.hub_centres == 4
    assert "calibration" in (tmp_path / "my-model" / "model.toml").read_text()
    assert aladin.Aladin.load(tmp_path / "my-model").text_vector("a dog").shape == (model.config.vector_dim,)
    example = doctest.testmod(calibrate, extraglobs={"model": "my-model", "data": "val"})
    assert (example.attempted, example.failed) == (4, 0)
