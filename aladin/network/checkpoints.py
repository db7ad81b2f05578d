"""Model folders of learning: model.toml and model.safetensors beside the tokenizer, and where a model is from."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from aladin.config import read_toml, to_table
from aladin.encoder.config import ModelConfig
from aladin.encoder.folder import ModelFolder, is_exported, model_config
from aladin.errors import ConfigError, ModelError
from aladin.files import check_folder, write_whole
from aladin.network.backbones import new_backbone
from aladin.network.model import Aladin
from aladin.network.weights import fill, read_weights, save_weights, weights_fingerprint
from aladin.old_names import SETTINGS

ADDED = ("global_head", "hub_correction")  # tables of a model.toml on what was added after training


def save_model(model: Aladin, tokenizer: Path, folder: Path, details: Mapping[str, object] | None = None) -> None:
    """Write model.safetensors, model.toml (the architecture, and `details` such as the training data) and tokenizer.json.

    ModelError if the folder holds an exported model: its graphs would then be of another model than its settings.
    """
    check_not_exported(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer.resolve() != (folder / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, folder / "tokenizer.json")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_weights(state, folder / "model.safetensors")
    write_whole(folder / "model.toml", tomli_w.dumps({**to_table(model.config), **(details or {})}))


def load_model(folder: Path) -> Aladin:
    """The model of a folder, every parameter from its file; ModelError names what is missing or too many."""
    config = model_config(folder)
    path = folder / "model.safetensors"
    state = read_weights(path)
    try:
        model = Aladin(config, new_backbone(config))
    except ConfigError as error:
        raise ModelError(f"{folder / 'model.toml'} describes no model: {error}") from None
    fill(model, state, str(path))
    return model.eval()


def provenance(folder: Path) -> dict[str, Any]:
    """Where the model of a folder is from: the tables of its model.toml beside those of the architecture.

    `aladin train` writes [training], `average` [average], `convert` [origin]; `add-global-head` adds [global_head], and
    `correct-hubs` [hub_correction], to those of the model that they add to. Empty where the folder says nothing.
    [calibration] says what scores mean, so it is none of it.
    """
    model_config(folder)  # says what is wrong with a folder that is no model's
    others = {section.name for section in dataclasses.fields(ModelConfig)} | {"calibration"}
    written = read_toml(folder / "model.toml")
    return {SETTINGS.get(name, name): table for name, table in written.items() if name not in others}


def provenance_as_trained(folder: Path) -> dict[str, Any]:
    """The same without what was added after training, of which `model.as_trained` rids the model."""
    return {name: table for name, table in provenance(folder).items() if name not in ADDED}


def check_not_exported(folder: Path) -> None:
    """ModelError for a folder in which a trained model cannot be written, since it has an exported one."""
    if is_exported(folder):
        raise ModelError(f"{folder} holds an exported model, which nothing replaces but another export; give another folder")


def check_out(model: Path, out: Path) -> None:
    """ConfigError unless `out` can be the folder for what is made of the model of a folder; that one itself it cannot be."""
    check_folder("out", out)
    if out.resolve() == model.resolve():
        raise ConfigError(f"out is {out}, the folder of the model itself, which stays as it is; give another folder")


def fingerprint(folder: Path) -> str:
    """The SHA-256 of a trained model's weights; of an exported one the fingerprint that collections remember."""
    if is_exported(folder):
        return ModelFolder.open(folder).fingerprint
    return weights_fingerprint(folder / "model.safetensors")


def named_model(folder: Path) -> dict[str, str]:
    """How a record of training names the model of a folder: without the machine's path, but with its run, as in align/best."""
    parts = folder.resolve().parts
    name = "/".join(parts[-2:]) if parts[-1] == "best" else parts[-1]
    return {"name": name, "fingerprint": fingerprint(folder)}
