"""A trained model as the two ONNX files that search runs, quantised behind a parity gate."""

import copy
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import tomli_w
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from aladin.checkpoints import load_model
from aladin.config import to_table
from aladin.datasets import Dataset
from aladin.errors import ModelError
from aladin.evaluation import MEMORY, EncodedData, Stages, encode_dataset, evaluate
from aladin.grid import top_classes
from aladin.model import Aladin
from aladin.onnx_graph import to_onnx
from aladin.report import Report, Subject, head_figures, to_markdown

Precision = Literal["fp32", "int8"]
MAX_RSUM_LOSS = 0.5  # of the int8 graphs against PyTorch, for each head, on the validation data
MIN_COSINE = 0.999  # between the vectors of the fp32 graphs and PyTorch's
RERANK = 100  # the k of two-stage in the card
WEIGHTS = "weights.bin"
MIN_QUANTIZED_BYTES = 16384  # smaller weights stay as they are
# For each operation: which input is the weight, and along which axis its int8 form has scales (None: stored as fp16). The
# exporter writes a linear layer as MatMul by in x out, or as Gemm by out x in.
SCALED_AXIS: dict[str, tuple[int, int | None]] = {"MatMul": (1, 1), "Gemm": (1, 0), "Gather": (0, 0), "Conv": (1, None)}
MIN_SHARED_BYTES = 1024  # smaller weights stay in their graph
ALIGNMENT = 4096  # a page, so that weights can be mapped into memory


@dataclass(frozen=True)
class Parity:
    """How far the exported graphs are from PyTorch, on validation data."""

    cosine: float  # least cosine between a vector of the fp32 graphs and PyTorch's
    rsum_loss: dict[str, float]  # PyTorch's rsum less the written graphs', for each head; negative where they gained


def export_model(
    source: Path, out: Path, data: Dataset, subject: str, precision: Precision, notes: str, cache: Path, stages: Stages
) -> tuple[Report, Parity]:
    """Write the searching half of a model folder to `out`, once the graphs have passed the gate on `data`.

    Gate: vectors of the fp32 graphs have a cosine of at least 0.999 with PyTorch's, and the written graphs lose at most 0.5
    of either head's rsum. ModelError with the figure otherwise; `out` is then left as it was. `notes` (Markdown) become part
    of the card; `subject` names the data in it.
    """
    model = load_model(source)
    trained = encode_dataset(source, data, "fp32", cache, stages)
    with stages.stage("graphs"):
        graphs = {"text.onnx": text_graph(model), "image.onnx": image_graph(model)}
    with tempfile.TemporaryDirectory() as name:
        draft = Path(name) / out.resolve().name
        draft.mkdir()
        shutil.copyfile(source / "tokenizer.json", draft / "tokenizer.json")
        (draft / "model.toml").write_text(tomli_w.dumps(to_table(model.config)), encoding="utf-8")
        write_graphs(copy.deepcopy(graphs), draft)
        cosine = _least_cosine(trained, encode_dataset(draft, data, "fp32", cache, Stages()))
        _gate(cosine >= MIN_COSINE, f"the fp32 graphs differ from PyTorch: cosine {cosine:.6f}, expected {MIN_COSINE} or more")
        if precision == "int8":
            write_graphs({name: quantized(graph) for name, graph in graphs.items()}, draft)
        reference = evaluate(trained, 0, MEMORY, Stages())
        written = evaluate(encode_dataset(draft, data, "fp32", cache, stages), RERANK, MEMORY, stages)
        loss = {
            head: head_figures(r).rsum.value - head_figures(written.ranks[head]).rsum.value
            for head, r in reference.ranks.items()
        }
        worst = max(loss.values())
        _gate(worst <= MAX_RSUM_LOSS, f"{precision} loses {worst:.2f} of rsum, expected {MAX_RSUM_LOSS} or less; use fp32")
        described = Subject(out.resolve().name, subject, None, len(data), data.caption_count, RERANK, precision)
        report = Report(described, {h: head_figures(r) for h, r in written.ranks.items()}, written.seconds)
        parity = Parity(cosine, loss)
        (draft / "README.md").write_text(model_card(report, parity, notes), encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for file in draft.iterdir():
            shutil.move(file, out / file.name)
    return report, parity


def model_card(report: Report, parity: Parity, notes: str) -> str:
    """The README.md of an exported model folder: what it is, its figures, and how they were measured."""
    subject = report.subject
    losses = ", ".join(f"{head} {loss:+.2f}" for head, loss in parity.rsum_loss.items())
    return "\n".join(
        (
            f"# {subject.model}: an aladin model",
            "",
            notes.strip(),
            "",
            "## Figures",
            "Measured on this folder as it stands, by the command",
            f"`aladin evaluate {subject.model} {subject.data} --rerank {subject.rerank}`.",
            "",
            to_markdown(report),
            "",
            "## Parity with PyTorch",
            f"Least cosine between vectors of the full-precision graphs and PyTorch's: {parity.cosine:.6f}. "
            f"What storing it as {subject.precision} costs of rsum, by head: {losses}.",
            "",
        )
    )


def _gate(passed: bool, failure: str) -> None:
    if not passed:
        raise ModelError(f"not exported: {failure}")


def _least_cosine(one: EncodedData, other: EncodedData) -> float:
    sides = ((one.images, other.images), (one.captions, other.captions))
    return min(float((a.vectors * b.vectors).sum(dim=1).min()) for a, b in sides)


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
    every = torch.cat([model.name_pieces.flatten(), model.special_pieces]).numpy()
    used, places = (torch.from_numpy(found) for found in np.unique(every, return_inverse=True))
    small.name_pieces.copy_(places[:-2].view_as(model.name_pieces))
    small.special_pieces.copy_(places[-2:])
    embeddings = small.backbone.embeddings.word_embeddings
    embeddings.weight = nn.Parameter(embeddings.weight[used], requires_grad=False)
    return small


def quantized(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Matrices and embeddings stored as int8 with a scale for each output (or row of an embedding), convolutions as fp16.

    Only storage changes: ONNX Runtime turns the weights back into fp32 once, when it loads the graph. Activations in int8 as
    well would cost four times the rsum, and an image's vector would depend on what is encoded beside it.
    """
    result = copy.deepcopy(graph)
    weights = {tensor.name: tensor for tensor in result.graph.initializer if _is_large(tensor)}
    stored: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        place, kept_axis = SCALED_AXIS.get(node.op_type, (0, None))
        name = node.input[place] if node.op_type in SCALED_AXIS else ""
        if name in weights and name not in stored:
            result.graph.initializer.remove(weights[name])
            result.graph.initializer.extend(_small(weights[name], kept_axis))
            stored.add(name)
            if node.op_type != "Gather":
                nodes += _restored(name, name, scaled=kept_axis is not None)
        nodes += _restored_rows(node) if node.op_type == "Gather" and name in stored else [node]
    result.graph.ClearField("node")
    result.graph.node.extend(nodes)
    return result


def _is_large(tensor: onnx.TensorProto) -> bool:
    many = len(tensor.raw_data) >= MIN_QUANTIZED_BYTES
    return many and tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2


def _small(tensor: onnx.TensorProto, kept_axis: int | None) -> list[onnx.TensorProto]:
    """What is stored instead of a weight: int8 with scales along `kept_axis`, or fp16 without one."""
    values = onnx.numpy_helper.to_array(tensor)
    if kept_axis is None:
        return [onnx.numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.small")]
    scales = np.abs(values).max(axis=1 - kept_axis, keepdims=True) / np.float32(127)
    integers = np.rint(values / np.where(scales > 0, scales, np.float32(1))).astype(np.int8)
    parts = {"small": integers, "scale": scales}
    return [onnx.numpy_helper.from_array(array, f"{tensor.name}.{part}") for part, array in parts.items()]


def _restored(name: str, output: str, scaled: bool) -> list[onnx.NodeProto]:
    """The nodes that make `output` of the stored form of `name`."""
    if not scaled:
        return [onnx.helper.make_node("Cast", [f"{name}.small"], [output], to=onnx.TensorProto.FLOAT)]
    cast = onnx.helper.make_node("Cast", [f"{name}.small"], [f"{output}.whole"], to=onnx.TensorProto.FLOAT)
    return [cast, onnx.helper.make_node("Mul", [f"{output}.whole", f"{name}.scale"], [output])]


def _restored_rows(gather: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Rows of an embedding restored after they were looked up: restoring all of it would take longer than a search."""
    table, rows = gather.input
    output = gather.output[0]
    looked_up = [
        onnx.helper.make_node("Gather", [f"{table}.{part}", rows], [f"{output}.{part}"], axis=0) for part in ("small", "scale")
    ]
    return looked_up + _restored(output, output, scaled=True)


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
