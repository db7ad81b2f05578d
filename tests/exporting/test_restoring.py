"""Exported folders that learn again."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.numpy_helper import from_array, to_array
from torch.testing import assert_close

from aladin.datasets import read_dataset
from aladin.encoder.folder import ModelFolder, shipped_model
from aladin.errors import ModelError
from aladin.evaluation.evaluate import Stages
from aladin.exporting.export import Precision, Validation, export_model
from aladin.exporting.int8 import STEPS, _scaled
from aladin.exporting.restoring import model_that_learns, restored_model
from aladin.network.checkpoints import load_model, named_model, save_model
from aladin.network.grid import grid_network
from aladin.network.hubs import HubCorrection
from aladin.network.model import NEVER_LEARNED, Aladin
from aladin.training.recipe import Recipe
from aladin.training.trainer import start_model
from tests.tiny_learning import TINY, tiny_model, write_pictures, write_tokenizer


def exported(folder: Path, precision: Precision, model: Aladin) -> Path:
    tokenizer = write_tokenizer(folder)
    save_model(model, tokenizer, folder / "trained")
    data = Validation(read_dataset(write_pictures(folder / "pictures", 8)), "pictures")
    export_model(folder / "trained", folder / "out", data, precision, "", folder / "cache", Stages())
    return folder / "out"


def learned(folder: Path, **heads: int) -> Aladin:
    """A tiny transformer behind the image network that its package has; no weight is as it began, or equal to another."""
    model = tiny_model(write_tokenizer(folder), dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, **heads)))
    model.image_network = grid_network(TINY.image.networks)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith(NEVER_LEARNED):
                weight.add_(torch.randn_like(weight), alpha=0.01)
    return model.eval()


@pytest.mark.parametrize(("precision", "hubs"), [("fp32", False), ("fp16", False), ("int8", True)])
def test_an_exported_model_is_restored_as_well_as_its_weights_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, hubs: bool
) -> None:
    monkeypatch.setattr("aladin.exporting.export.MAX_RSUM_LOSS", 600.0)  # eight pictures say nothing of rsum
    model = learned(tmp_path, hub_centres=4 if hubs else 0)
    restored = restored_model(exported(tmp_path, precision, model))
    assert restored.config == dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, hub_centres=0))
    original = {name: weight for name, weight in model.state_dict().items() if not name.startswith("hub_correction.")}
    assert restored.state_dict().keys() == original.keys()
    for name, weight in restored.state_dict().items():
        exact = precision == "fp32" or name.startswith(NEVER_LEARNED) or not weight.is_floating_point()
        # Evening channels out multiplies and divides, which costs the last bits.
        step = 1e-5 if exact else 0.02 * float(original[name].abs().max())
        assert_close(weight, original[name], atol=step, rtol=1e-5)


def test_the_model_that_comes_with_the_package_can_be_trained_on(tmp_path: Path) -> None:
    recipe = Recipe(train=("backbone",))
    begin = start_model(recipe, shipped_model())
    assert begin.origins["start"] == {"name": "lite", "fingerprint": ModelFolder.open(shipped_model()).fingerprint}
    assert begin.model.config.heads.hub_centres == 0
    assert not any(isinstance(module, HubCorrection) for module in begin.model.modules())
    save_model(begin.model, begin.tokenizer, tmp_path / "lite")
    again = load_model(tmp_path / "lite").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in begin.model.state_dict().items())


def test_what_a_restored_model_learns_survives_the_next_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a step, everywhere: rounded to the steps on which the model stood, all of it would be lost."""
    monkeypatch.setattr("aladin.exporting.export.MAX_RSUM_LOSS", 600.0)
    restored = restored_model(exported(tmp_path, "int8", learned(tmp_path)))
    matrix = restored.backbone.layers[0].intermediate.weight.detach().numpy().T
    step = np.abs(matrix).max(axis=0).min() / STEPS
    before, after = (_stored(matrix + learned_since) for learned_since in (0, step / 5))
    assert 0.1 * step < float((after - before).mean()) < 0.3 * step


def _stored(matrix: np.ndarray) -> np.ndarray:
    small, scale = (to_array(part) for part in _scaled(from_array(matrix.astype(np.float32), "matrix"), 1, STEPS))
    return small * scale


def test_a_folder_that_learns_is_loaded_and_not_restored(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    model = tiny_model(tokenizer)
    save_model(model, tokenizer, tmp_path / "trained")
    found = model_that_learns(tmp_path / "trained").state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in model.state_dict().items())
    assert named_model(tmp_path / "trained")["name"] == "trained"


def test_what_the_graphs_do_not_tell_is_named(tmp_path: Path) -> None:
    out = exported(tmp_path, "fp32", learned(tmp_path, token_dim=8))
    with pytest.raises(ModelError, match=r"out does not tell its alignment_head\.projection\.weight; give the folder that it"):
        restored_model(out)
