"""Exported folders that learn again."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.numpy_helper import from_array, to_array
from torch.testing import assert_close

import aladin
from aladin.encoder.config import HeadsConfig
from aladin.encoder.folder import ModelFolder, shipped_model
from aladin.errors import ModelError
from aladin.exporting.export import Precision
from aladin.exporting.int8 import STEPS, _scaled
from aladin.exporting.restoring import model_that_learns, restored_model
from aladin.exporting.weight_names import FILE
from aladin.network.checkpoints import load_model, named_model, save_model
from aladin.network.hubs import HubCorrection
from aladin.network.model import Aladin
from aladin.network.variants import as_trained
from aladin.training.recipe import Recipe
from aladin.training.start import start_model
from tests.tiny_learning import TINY, tiny_model, write_pictures, write_tokenizer

pytestmark = pytest.mark.slow

HUBS = dataclasses.replace(TINY.heads, hub_centres=4)
NARROW = dataclasses.replace(TINY.heads, token_dim=8)
KINDS: dict[Precision, HeadsConfig] = {"fp32": NARROW, "fp16": TINY.heads, "int8": HUBS}


@dataclass(frozen=True)
class Exported:
    model: Aladin
    folder: Path


Models = Callable[[Precision], Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models by the name of their precision, each exported once for all tests."""

    @functools.cache
    def of(precision: Precision) -> Exported:
        folder = tmp_path_factory.mktemp(precision)
        tokenizer = write_tokenizer(folder)
        model = learned(tokenizer, KINDS[precision])
        save_model(model, tokenizer, folder / "trained")
        data = write_pictures(folder / "pictures", 8)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aladin.exporting.export.MAX_RSUM_LOSS", 600.0)  # eight pictures say nothing of rsum
            aladin.export(folder / "trained", folder / "out", data, precision=precision, cache=folder / "cache")
        return Exported(model, folder / "out")

    return of


def learned(tokenizer: Path, heads: HeadsConfig) -> Aladin:
    """A tiny transformer behind the image network that its package has; no weight is as it began, or equal to another."""
    model = tiny_model(tokenizer, dataclasses.replace(TINY, heads=heads))
    model.backbone.restart_never_learned()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith(model.never_learned):
                weight.add_(torch.randn_like(weight), alpha=0.01)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_is_restored_as_well_as_its_weights_were_kept(exported: Models, kind: Precision) -> None:
    model = exported(kind).model
    restored = restored_model(exported(kind).folder)
    assert restored.config == as_trained(model).config
    original = {name: weight for name, weight in model.state_dict().items() if not name.startswith("hub_correction.")}
    assert restored.state_dict().keys() == original.keys()
    for name, weight in restored.state_dict().items():
        exact = kind == "fp32" or name.startswith(model.never_learned) or not weight.is_floating_point()
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


def test_what_a_restored_model_learns_survives_the_next_export(exported: Models) -> None:
    """A fifth of a step, everywhere: rounded to the steps on which the model stood, all of it would be lost."""
    restored = restored_model(exported("int8").folder)
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


def edited(source: Path, folder: Path, names: dict[str, object] | None) -> Path:
    """A copy of an exported folder with these contents of weights.json, or without the file."""
    shutil.copytree(source, folder)
    (folder / FILE).unlink()
    if names is not None:
        (folder / FILE).write_text(json.dumps(names))
    return folder


def test_what_the_graphs_do_not_tell_is_named(exported: Models, tmp_path: Path) -> None:
    source = exported("fp32").folder
    names = json.loads((source / FILE).read_text())
    del names["matching_head.layers.0.linear1.bias"]
    with pytest.raises(
        ModelError, match=r"out does not tell its matching_head\.layers\.0\.linear1\.bias; give the folder that"
    ):
        restored_model(edited(source, tmp_path / "out", names))


def test_a_folder_without_the_names_of_its_weights_says_what_to_do(exported: Models, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"out has no weights\.json, so nobody knows .*; export the model again, or give the"):
        restored_model(edited(exported("fp32").folder, tmp_path / "out", None))


def test_damaged_names_are_reported(exported: Models, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights\.json cannot be read: .*; copy the model folder again"):
        restored_model(edited(exported("fp32").folder, tmp_path / "out", {"a": {"place": 1}}))


def test_the_names_of_weights_are_no_part_of_a_models_fingerprint(exported: Models, tmp_path: Path) -> None:
    source = exported("fp32").folder
    assert ModelFolder.open(edited(source, tmp_path / "out", None)).fingerprint == ModelFolder.open(source).fingerprint


def test_the_shipped_model_keeps_the_fingerprint_that_collections_remember() -> None:
    assert ModelFolder.open(shipped_model()).fingerprint.startswith("313f1584e2a26494")
