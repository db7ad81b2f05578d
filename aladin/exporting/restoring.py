"""An exported model folder back to a model that learns: the one that comes with the package can then be fine-tuned.

An exported folder has its weights in two graphs, as int8 or fp16. Most stand there under their own names; the matrix of a
linear layer has lost its name and is found by the bias that is added to its product.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import Float
from onnx.numpy_helper import to_array

from aladin.encoder.folder import ModelFolder
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ModelError
from aladin.exporting.int8 import ROW_PRODUCT
from aladin.network.checkpoints import is_exported, load_model
from aladin.network.model import NEVER_LEARNED, Aladin, image_network, new_model
from aladin.network.variants import as_trained

SEED = 0
Weights = dict[str, Float[np.ndarray, "..."]]


def model_that_learns(folder: Path) -> Aladin:
    """The model of a folder that `aladin train` wrote or, restored, of one that was exported."""
    return restored_model(folder) if is_exported(folder) else load_model(folder)


def restored_model(folder: Path) -> Aladin:
    """The model that was exported to `folder`, as well as int8 or fp16 remember its weights, as it was trained.

    So it has no global head, and its hubs are not corrected. What never learns of its image networks is as their packages have
    it. ModelError where the graphs lack a weight, as they do of narrower tokens (token_dim), of a cross-encoder, and of heads
    that never learned, whose equal weights they keep once.
    """
    exported = ModelFolder.open(folder)
    pieces = WordPieces.load(folder / "tokenizer.json", exported.config.limits.caption_pieces)
    model = as_trained(new_model(exported.config, pieces, pretrained=False))
    model.image_network = image_network(exported.config, pretrained=True)
    found = _weights(folder / "text.onnx") | _weights(folder / "image.onnx")
    for name, parameter in model.named_parameters():
        if name.startswith(NEVER_LEARNED):
            continue
        if name not in found or found[name].shape != tuple(parameter.shape):
            raise ModelError(f"{folder} does not tell its {name}; give the folder that it was exported from, which learns")
        parameter.data.copy_(torch.from_numpy(found[name]))
    return model.eval()


def _weights(path: Path) -> Weights:
    """The weights of one graph in fp32, by their names in the model."""
    graph = onnx.load(path).graph
    stored = _in_full({tensor.name: to_array(tensor) for tensor in graph.initializer})
    named = stored | _matrices(graph, stored)
    # The graphs' module has the model as `model`, and its image network a second time as `network`.
    prefixes = {"model.": "", "network.": "image_network."}
    return {
        new + name.removeprefix(old): weight
        for old, new in prefixes.items()
        for name, weight in named.items()
        if name.startswith(old)
    }


def _in_full(stored: Weights) -> Weights:
    """Each weight under the name that it had before it was made small."""
    random = np.random.default_rng(SEED)
    found = {}
    for name, weight in stored.items():
        whole, scale = name.removesuffix(".small"), stored.get(f"{name.removesuffix('.small')}.scale")
        if scale is not None:
            # Anywhere within its step, as it was. On the step itself, the next export would round it back there, and take away
            # what it learns until then, which is mostly less than half a step.
            weight = (weight + random.uniform(-0.5, 0.5, weight.shape)) * scale
        found[whole] = weight.astype(np.float32)
    return found


def _matrices(graph: onnx.GraphProto, stored: Weights) -> Weights:
    """The matrices of linear layers, out x in, by the names that go with their biases."""
    makers = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in graph.node:
        bias = next((name for name in node.input if name.endswith("bias")), None)
        product = next((makers[name] for name in node.input if name in makers), None)
        if node.op_type != "Add" or bias is None or product is None or product.op_type not in (ROW_PRODUCT.name, "MatMul"):
            continue
        matrix = stored[product.input[1].removesuffix(".small")]
        before = makers.get(product.input[0])
        if before is not None and before.op_type == "Mul" and before.input[1] in stored:  # evened out (smoothing.py)
            matrix = matrix * stored[before.input[1]][:, None]
        found[f"{bias.removesuffix('bias')}weight"] = np.ascontiguousarray(matrix.T)
    return found
