"""An exported model folder back to a model that learns: the one that comes with the package can then be fine-tuned.

An exported folder has its weights in two graphs, as int8 or fp16, and weights.json says where each stands.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import Float
from onnx.numpy_helper import to_array

from aladin.encoder.folder import ModelFolder, is_exported
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ModelError
from aladin.exporting.weight_names import StoredWeight, read_names
from aladin.network.checkpoints import load_model
from aladin.network.model import Aladin, new_model
from aladin.network.variants import as_trained

SEED = 0
Weights = dict[str, Float[np.ndarray, "..."]]


def model_that_learns(folder: Path) -> Aladin:
    """The model of a folder that `aladin train` wrote or, restored, of one that was exported."""
    return restored_model(folder) if is_exported(folder) else load_model(folder)


def restored_model(folder: Path) -> Aladin:
    """The model that was exported to `folder`, as well as int8 or fp16 remember its weights, as it was trained.

    So it has no global head, and its hubs are not corrected. What never learns of its image networks is as their packages have
    it. ModelError where the graphs lack a weight, as they do of a cross-encoder.
    """
    exported = ModelFolder.open(folder)
    names = read_names(folder)
    pieces = WordPieces.of(folder / "tokenizer.json", exported.config.preprocessing)
    model = as_trained(new_model(exported.config, pieces, pretrained=False))
    model.backbone.restart_never_learned()
    stored = {graph: _in_full(folder / graph) for graph in exported.graphs}
    for name, parameter in model.named_parameters():
        if name.startswith(model.never_learned):
            continue
        weight = _weight(names.get(name), stored)
        if weight is None or weight.shape != tuple(parameter.shape):
            raise ModelError(f"{folder} does not tell its {name}; give the folder that it was exported from, which learns")
        parameter.data.copy_(torch.from_numpy(weight))
    return model.eval()


def _weight(name: StoredWeight | None, stored: Mapping[str, Weights]) -> Float[np.ndarray, "..."] | None:
    """A weight as the model has it, or None where the graphs do not."""
    weights = stored.get(name.graph, {}) if name else {}
    if name is None or name.initializer not in weights or (name.times and name.times not in weights):
        return None
    weight = weights[name.initializer]
    weight = weight.T if name.transposed else weight
    return np.ascontiguousarray(weight * weights[name.times] if name.times else weight)


def _in_full(path: Path) -> Weights:
    """Each weight of a graph in fp32, under the name that it had before it was made small."""
    random, found = np.random.default_rng(SEED), {}
    stored = {tensor.name: to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for name, weight in stored.items():
        whole, scale = name.removesuffix(".small"), stored.get(f"{name.removesuffix('.small')}.scale")
        if scale is not None:
            # Anywhere within its step, as it was. On the step itself, the next export would round it back there, and take away
            # what it learns until then, which is mostly less than half a step.
            weight = (weight + random.uniform(-0.5, 0.5, weight.shape)) * scale
        found[whole] = weight.astype(np.float32)
    return found
