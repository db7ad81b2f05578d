"""A trained model as the two ONNX files that search runs, quantised behind a parity gate."""

import copy
import hashlib
import logging
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from jaxtyping import Bool, Float, Int, UInt8
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from aladin.errors import ModelError
from aladin.grid import top_classes
from aladin.model import Aladin
from aladin.onnx_graph import to_onnx

Precision = Literal["fp32", "int8"]
MIN_COSINE = 0.999  # between the vectors of the fp32 graphs and PyTorch's
WEIGHTS = "weights.bin"
MIN_SHARED_BYTES = 1024  # smaller weights stay in their graph
ALIGNMENT = 4096  # a page, so that weights can be mapped into memory


class TextGraph(nn.Module):
    """Word pieces to the matching vector and the alignment head's words (positions 1.. of the input)."""

    def __init__(self, model: Aladin) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]
    ) -> tuple[Float[Tensor, "captions dim"], Float[Tensor, "captions inner token_dim"], Bool[Tensor, "captions inner"]]:
        encoded = self.model.encoded_captions(self.model.caption_states(pieces, mask))
        return encoded.vectors, encoded.tokens.states, encoded.tokens.mask


class ImageGraph(nn.Module):
    """Pixels to the matching vector and the alignment head's regions; tags are found on the way."""

    def __init__(self, model: Aladin) -> None:
        super().__init__()
        assert model.image_network is not None
        self.model = _with_tag_vocabulary(model)
        self.network = model.image_network

    def forward(
        self, pixels: UInt8[Tensor, "images height width 3"]
    ) -> tuple[Float[Tensor, "images dim"], Float[Tensor, "images regions token_dim"]]:
        maps = self.network.maps(pixels)
        classes = top_classes(self.network.class_logits(maps), self.model.config.limits.tags)
        encoded = self.model.encoded_images(self.model.image_states(maps, classes))
        return encoded.vectors, encoded.tokens.states


def text_graph(model: Aladin) -> onnx.ModelProto:
    """text.onnx in full precision: `pieces`, `mask` -> `vector`, `words`, `word_mask`."""
    pieces = torch.zeros(2, 7, dtype=torch.int64)
    inputs = {"pieces": pieces, "mask": torch.ones(2, 7, dtype=torch.bool)}
    axes = {0: "captions", 1: "words"}
    return to_onnx(TextGraph(model), inputs, ["vector", "words", "word_mask"], {"pieces": axes, "mask": axes})


def image_graph(model: Aladin) -> onnx.ModelProto:
    """image.onnx in full precision: `pixels` -> `vector`, `regions`."""
    size = model.config.image.size
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return to_onnx(ImageGraph(model), {"pixels": pixels}, ["vector", "regions"], {"pixels": {0: "images"}})


def _with_tag_vocabulary(model: Aladin) -> Aladin:
    """The model with word embeddings for class names only, which are some 1,500 of 30,522 pieces."""
    small = copy.deepcopy(model)
    used, places = torch.cat([model.name_pieces.flatten(), model.special_pieces]).unique(return_inverse=True)
    small.name_pieces.copy_(places[:-2].view_as(model.name_pieces))
    small.special_pieces.copy_(places[-2:])
    embeddings = small.backbone.embeddings
    embeddings.word_embeddings = nn.Embedding.from_pretrained(model.backbone.embeddings.word_embeddings.weight[used])
    return small


def quantized(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Matrices and embeddings as int8 with a scale per column, convolutions stored as fp16.

    Matrix products run in int8 with the activations' scale found for each call; convolutions run in fp32.
    """
    result = _int8_matrices(graph)
    _store_convolutions_in_half(result.graph)
    return result


def write_graphs(graphs: dict[str, onnx.ModelProto], folder: Path) -> None:
    """Each graph as `folder`/name, all their large weights once in weights.bin: text and images share a transformer."""
    places: dict[bytes, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for graph in graphs.values():
            for tensor in graph.graph.initializer:
                if len(tensor.raw_data) >= MIN_SHARED_BYTES:
                    key = hashlib.sha256(tensor.raw_data).digest()
                    if key not in places:
                        file.write(bytes(-file.tell() % ALIGNMENT))
                        places[key] = (file.tell(), len(tensor.raw_data))
                        file.write(tensor.raw_data)
                    _refer(tensor, *places[key])
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph.SerializeToString())


def _refer(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    """Point an initializer to its bytes in weights.bin."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", WEIGHTS), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def _int8_matrices(graph: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "fp32.onnx", Path(name) / "int8.onnx"
        onnx.save(graph, source)
        logging.getLogger().disabled = True  # the quantiser advises on the root logger, whatever it is given
        try:
            quantize_dynamic(
                source, target, op_types_to_quantize=["MatMul", "Gemm", "Gather"], per_channel=True, weight_type=QuantType.QInt8
            )
        finally:
            logging.getLogger().disabled = False
        return onnx.load(target)


def _store_convolutions_in_half(graph: onnx.GraphProto) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    casts = []
    for name in {node.input[1] for node in graph.node if node.op_type == "Conv" and node.input[1] in weights}:
        tensor = weights[name]
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
