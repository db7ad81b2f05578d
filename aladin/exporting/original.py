"""What a checkpoint of the original says of its heads: by its weights, and by the settings and options of its run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from aladin.encoder.config import DepthForm, HeadsConfig, Pooling
from aladin.errors import ModelError

ENCODER = "img_txt_enc."
VINVL = f"{ENCODER}oscar_model."  # an ALADIN checkpoint holds a whole VinVL one under this name
# How names of our weights begin, and of the original's.
HEADS = {
    "matching_head.": f"{ENCODER}final_projection_net.",
    "matching_depth.": f"{ENCODER}depth_aggregator_model_matching.",
    "alignment_depth.earlier.": f"{ENCODER}depth_aggregator_model_alignment.",
    "alignment_depth.weights.0.": f"{ENCODER}feature_fusion.alphas.0.",
    "alignment_depth.weights.2.": f"{ENCODER}feature_fusion.alphas.3.",
    "post_layers.": f"{ENCODER}post_oscar_transformer.",
    "alignment_layers.": f"{ENCODER}transformer_encoder_1.",
    "image_alignment_layers.": f"{ENCODER}transformer_encoder_2.",
}
TRANSFORMER_HEADS = 4  # of every transformer that the original adds to VinVL's: no weight tells


@dataclass(frozen=True)
class Original:
    """A checkpoint's weights under ALADIN's names, and what it says of itself."""

    weights: dict[str, Tensor]
    settings: Any  # the tree of its YAML configuration; None in a VinVL checkpoint
    options: Mapping[str, Any]  # of the command line that began its run; none in a VinVL checkpoint
    epoch: int | None

    @property
    def is_aladin(self) -> bool:
        """Whether there is a matching head, which VinVL's do not have."""
        return self.has("matching_head.")

    def has(self, part: str) -> bool:
        """Whether there are weights of one of the parts of `HEADS`."""
        return any(name.startswith(HEADS[part]) for name in self.weights)

    def layers(self, part: str) -> int:
        """How many layers a transformer among these parts has."""
        start = f"{HEADS[part]}layers."
        return len({name.removeprefix(start).split(".")[0] for name in self.weights if name.startswith(start)})

    def feed_forward(self, part: str) -> int:
        """The size of the inner layers of such a transformer; 0 without one."""
        return self.weights.get(f"{HEADS[part]}layers.0.linear1.bias", torch.empty(0)).numel()

    def stated(self, name: str) -> Any:
        """What its settings say under a name, wherever they name it; None if nothing."""
        return next((value for key, value in _settings(self.settings) if key.replace("_", "-") == name), None)


def heads_of(original: Original, dim: int, source: Path) -> HeadsConfig:
    """The heads that a checkpoint describes; for VinVL's those of the paper. ModelError where it contradicts itself."""
    layers = original.layers("matching_head.") or 2
    stated = original.stated("tern-layers")
    if original.is_aladin and stated not in (None, layers):
        raise ModelError(
            f"{source} has a matching head of {layers} layers and tern-layers {stated} in its settings; expected the same "
            "number: get the checkpoint again"
        )
    matching, alignment = _matching_depth(original), _alignment_depth(original)
    before = original.layers("alignment_layers.")
    added = {original.feed_forward(part) for part in ("post_layers.", "alignment_layers.", "image_alignment_layers.")} - {0}
    if len(added) > 1:
        raise ModelError(f"{source} has added transformers of inner sizes {sorted(added)}; expected one size: get it again")
    return HeadsConfig(
        pooling=_pooling(original, source),
        token_dim=dim,
        matching_layers=layers,
        matching_heads=TRANSFORMER_HEADS,
        matching_feed_forward=original.feed_forward("matching_head.") or dim,
        matching_depth=matching,
        alignment_depth=alignment,
        post_layers=original.layers("post_layers.") if matching != "last" else 0,
        alignment_layers=before,
        alignment_layers_shared=not original.has("image_alignment_layers."),
        added_feed_forward=added.pop() if added else 0,
    )


def length_of(original: Original, name: str, default: int, source: Path) -> int:
    """A length among the options of the checkpoint's run; the paper's where it does not say."""
    value = original.options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ModelError(f"{source} has {name} {value!r} in its options; expected a number of at least 2: get it again")
    return value


def _pooling(original: Original, source: Path) -> Pooling:
    """The alignment mode of the checkpoint's settings, wherever they name it; the paper's without."""
    found = original.stated("alignment-mode") or "MrSw"
    if found not in get_args(Pooling):
        raise ModelError(f"{source} has alignment-mode {found!r}; expected one of {', '.join(get_args(Pooling))}")
    if found == "mean":
        raise ModelError(
            f"{source} has alignment-mode 'mean', which in the original depends on the padding; expected another mode: use "
            "a checkpoint trained with one"
        )
    return cast(Pooling, found)


def _matching_depth(original: Original) -> DepthForm:
    """What the matching head reads, by the settings or, where they do not say, by the weights; "mean" has none to be seen."""
    for name in ("depth-aggregation-matching", "depth-aggregation"):  # the second is the first one's old name
        if (stated := original.stated(name)) in ("mean", "gated"):
            return cast(DepthForm, stated)
    return "gated" if original.has("matching_depth.") else "last"


def _alignment_depth(original: Original) -> DepthForm:
    """What the alignment head reads, by the settings or, where they do not say, by the weights of gates and fusion."""
    if (stated := original.stated("depth-aggregation-alignment")) in ("mean", "gated"):
        return cast(DepthForm, stated)
    if not original.has("alignment_depth.weights.0."):
        return "last"
    return "gated" if original.has("alignment_depth.earlier.") else "mean"


def _settings(tree: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested dictionaries with its value."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield str(name), value
            yield from _settings(value)
