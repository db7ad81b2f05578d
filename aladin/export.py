"""A trained model as the two ONNX files that search runs, quantised behind a parity gate."""

import copy
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from aladin.int8_graph import quantized, write_graphs
from aladin.model import Aladin
from aladin.onnx_graph import to_onnx
from aladin.report import Report, Subject, head_figures, to_markdown
from aladin.smoothing import smoothed

Precision = Literal["fp32", "int8"]
MAX_RSUM_LOSS = 0.5  # of the int8 graphs against PyTorch, for each head, on the validation data
MIN_COSINE = 0.999  # between the vectors of the fp32 graphs and PyTorch's
RERANK = 100  # the k of two-stage in the card


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
    if model.image_network is None:
        raise ModelError(
            f"{source} reads a detector's regions and search reads photographs, so it cannot be exported; evaluate it"
        )
    trained = encode_dataset(source, data, "fp32", cache, stages)
    with stages.stage("graphs"):
        model = smoothed(model)
        graphs = {"text.onnx": text_graph(model), "image.onnx": image_graph(model)}
    beside = out.resolve().parent  # a file that is moved within one file system is never seen half written
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".aladin-export-", dir=beside) as name:
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
        captions = [len(example.captions) for example in data.examples]
        report = Report(described, {h: head_figures(r, captions) for h, r in written.ranks.items()}, written.seconds)
        parity = Parity(cosine, loss)
        (draft / "README.md").write_text(model_card(report, parity, notes), encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for file in draft.iterdir():
            file.replace(out / file.name)
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
        self.model = model
        self.network = model.image_network

    def forward(
        self, pixels: UInt8[Tensor, "images height width 3"]
    ) -> tuple[Float[Tensor, "images dim"], Float[Tensor, "images regions token_dim"]]:
        maps = self.network.maps(pixels)
        classes = top_classes(self.network.class_logits(maps), self.model.config.limits.tags)
        encoded = self.model.encoded_images(self.model.image_states(self.model.image_input(maps, classes)))
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
