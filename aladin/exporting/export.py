"""A trained model as the two ONNX files that search runs, quantised behind a parity gate."""

import copy
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import tomli_w

from aladin import __version__
from aladin.config import check_choice, to_table
from aladin.datasets import Data, Dataset, dataset_of
from aladin.encoder.folder import model_config
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ModelError
from aladin.evaluation.encoding import EncodedData, encode_dataset
from aladin.evaluation.heads import evaluate_heads
from aladin.evaluation.scoring import MEMORY
from aladin.exporting.graphs import both_graphs
from aladin.exporting.int8 import halved, quantized, write_graphs
from aladin.exporting.model_card import Parity, model_card
from aladin.exporting.smoothing import smoothed
from aladin.exporting.weight_names import stored_weights, write_names
from aladin.files import kept_or_temporary, path_of
from aladin.measures.protocols import digest
from aladin.measures.report import Report, Subject, head_figures, rsum_loss
from aladin.network.checkpoints import check_out, fingerprint, load_model, provenance
from aladin.network.run import Run, chosen_device
from aladin.progress import SILENT, Steps, TimedSteps

Precision = Literal["int8", "fp16", "fp32"]
SMALLER = {"int8": quantized, "fp16": halved}
REMEDY = {"int8": "use fp16 or fp32", "fp16": "use fp32", "fp32": "measure on more images"}
MAX_RSUM_LOSS = 0.5  # of the written graphs against PyTorch, for each head, on the validation data
FEW_IMAGES = 200  # with fewer, a single image found or missed at one recall is worth more than that loss
MIN_COSINE = 0.999  # between the vectors of the fp32 graphs and PyTorch's
NO_NOTES = "Trained with aladin; its maker left no notes on the training data."
RERANK = 100  # the k of two-stage in the card


class Exported(NamedTuple):
    """What was measured of an exported model."""

    report: Report
    parity: Parity


def export(
    model: str | Path,
    out: str | Path,
    data: Data,
    *,
    precision: Precision = "int8",
    notes: str = NO_NOTES,
    cache: str | Path | None = None,
    device: str = "auto",
    progress: Steps = SILENT,
) -> Exported:
    """Write the searching half of a model folder to `out`, once the graphs have passed the gate on validation data.

    Gate: vectors of the fp32 graphs have a cosine of at least 0.999 with PyTorch's, and the written graphs lose at most 0.5
    of either head's rsum. ModelError with the figure otherwise; `out` is then left as it was. `notes` (Markdown) become part
    of the card, and where the model is from, part of card and model.toml. Image features are kept in `cache`; the trained
    model encodes on `device`. ConfigError where `out` is `model`, and for another precision than these, before anything is read
    or written.
    """
    model, out = path_of("model", model), path_of("out", out)
    check_choice("precision", precision, get_args(Precision))
    check_model(model, out)
    run = Run(device=chosen_device(device))
    with kept_or_temporary(cache) as folder:
        return _exported(model, out, dataset_of(data), precision, notes, folder, run, progress)


def check_model(model: Path, out: Path) -> None:
    """An error unless the folder `model` is a model's, and `out` one that an export can be written to."""
    check_out(model, out)
    model_config(model)


def _exported(
    source: Path, out: Path, data: Dataset, precision: Precision, notes: str, cache: Path, run: Run, progress: Steps
) -> Exported:
    model, origin = load_model(source), provenance(source)
    trained = encode_dataset(source, data, run, cache, progress)
    with progress.step("graphs"):
        model = smoothed(model, WordPieces.of(source / "tokenizer.json", model.config.preprocessing))
        graphs = both_graphs(model)
    beside = out.resolve().parent  # a file that is moved within one file system is never seen half written
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".aladin-export-", dir=beside) as name:
        draft = Path(name) / out.resolve().name
        draft.mkdir()
        shutil.copyfile(source / "tokenizer.json", draft / "tokenizer.json")
        (draft / "model.toml").write_text(tomli_w.dumps(to_table(model.config) | origin), encoding="utf-8")
        write_names(stored_weights(model, graphs), draft)
        write_graphs(copy.deepcopy(graphs), draft)
        cosine = _least_cosine(trained, encode_dataset(draft, data, run, cache, SILENT))
        _gate(cosine >= MIN_COSINE, f"the fp32 graphs differ from PyTorch: cosine {cosine:.6f}, expected {MIN_COSINE} or more")
        if precision in SMALLER:
            write_graphs({name: SMALLER[precision](graph) for name, graph in graphs.items()}, draft)
        report, parity = _measured(draft, data, trained, precision, cosine, run, progress)
        (draft / "README.md").write_text(model_card(report, parity, data, origin, notes), encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for file in draft.iterdir():
            file.replace(out / file.name)
    return Exported(report, parity)


def _measured(
    draft: Path, data: Dataset, trained: EncodedData, precision: Precision, cosine: float, run: Run, progress: Steps
) -> tuple[Report, Parity]:
    """The figures of the written graphs, and what they lose; ModelError where that is too much."""
    captions = [len(example.captions) for example in data.examples]
    reference = evaluate_heads(trained, 0, MEMORY, TimedSteps())
    timed = TimedSteps(progress)
    written = evaluate_heads(encode_dataset(draft, data, run, draft, timed), RERANK, MEMORY, timed)
    losses = {head: rsum_loss(ranks, written.ranks[head], captions) for head, ranks in reference.ranks.items()}
    parity = Parity(cosine, losses, _few_images(len(data)))
    worst = max(loss.value for loss in losses.values())
    found = f"{precision} loses {worst:.2f} of rsum, expected {MAX_RSUM_LOSS} or less ({parity.losses})"
    _gate(worst <= MAX_RSUM_LOSS, f"{found}; {REMEDY[precision]}")
    subject = Subject(draft.name, data.name, data.split or None, len(data), data.caption_count, RERANK, precision)
    subject = replace(subject, aladin=__version__, digest=digest(data), fingerprint=fingerprint(draft))
    figures = {head: head_figures(ranks, captions) for head, ranks in written.ranks.items()}
    return Report(subject, figures, written.seconds), parity


def _few_images(count: int) -> str:
    """What is to be known of a gate of so few images; nothing where they are enough."""
    if count >= FEW_IMAGES:
        return ""
    return (
        f"{count} images are few for this gate: one of them found or missed at one recall is {100 / count:.1f} of rsum, and "
        f"{MAX_RSUM_LOSS} decides; measure on {FEW_IMAGES} or more"
    )


def _gate(passed: bool, failure: str) -> None:
    if not passed:
        raise ModelError(f"not exported: {failure}")


def _least_cosine(one: EncodedData, other: EncodedData) -> float:
    sides = ((one.images, other.images), (one.captions, other.captions))
    return min(float((a.vectors * b.vectors).sum(dim=1).min()) for a, b in sides)
