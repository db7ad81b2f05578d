"""An encoder's folder as transformers has it to a model folder that search reads, behind a gate on what the graphs give."""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple, get_args

import onnx
import tomli_w

from aladin.config import check_choice, to_table
from aladin.encoder.config import BackboneConfig, EncoderConfig, HeadsConfig, ImageConfig, ModelConfig
from aladin.encoder.folder import FILES, model_config
from aladin.encoder.preprocessing import Preprocessing
from aladin.errors import ConfigError, ModelError
from aladin.exporting.encoders.card import card
from aladin.exporting.encoders.graphs import both_graphs, grid_of
from aladin.exporting.encoders.parity import Example, Outputs, differences, example_of, expected_of
from aladin.exporting.encoders.settings import preprocessing_of
from aladin.exporting.encoders.source import Source
from aladin.exporting.encoders.towers import Towers
from aladin.exporting.export import REMEDY, SMALLER, Precision
from aladin.exporting.int8 import write_graphs
from aladin.files import check_folder, path_of

MAX_DIFFERENCE = 1e-3  # of any number of the fp32 graphs from transformers' own
MIN_COSINE = 0.99  # of a vector or token of smaller graphs with transformers' own
WRITTEN = (*FILES, "model.toml", "README.md")
SHARE = 0.1  # of regions and words in a score, beside the encoder's own cosine; chosen on no data


class Added(NamedTuple):
    """What was made of an encoder's folder."""

    family: str
    licence: str  # as its card states it; empty where it states none
    difference: float  # largest of a number of the fp32 graphs from transformers' own
    cosine: float  # least of a vector or token of the written graphs with transformers' own
    bytes: int  # of the model folder


class Made(NamedTuple):
    """An encoder's graphs in full precision, its settings, and what transformers gives for an example."""

    config: ModelConfig
    graphs: dict[str, onnx.ModelProto]
    example: Example
    expected: list[Outputs]


def add(
    source: str | Path,
    out: str | Path,
    *,
    precision: Precision = "int8",
    name: str = "",
    revision: str = "",
    licence: str = "",
    share: float = SHARE,
) -> Added:
    """Write the encoder of a transformers folder as a model folder `out`, once its graphs have passed the gate.

    Gate, on made-up pictures and texts: every number of the fp32 graphs is within 0.001 of transformers' own, and every vector
    and token of smaller graphs has a cosine of at least 0.99 with it. ModelError with the figure otherwise, and for a source
    that is damaged, of no known family, or whose weights are no safetensors; `out` is then as it was. Nothing of the source is
    ever run. `name` and `revision` are recorded as where it is from (the folder's name unless given), and `licence` in
    place of what its card states. ConfigError where `out` holds something else than an added encoder.
    """
    source, out = path_of("source", source), path_of("out", out)
    check_choice("precision", precision, get_args(Precision))
    if not 0 <= share <= 1:
        raise ConfigError(f"share is {share}; expected 0 to 1")
    _check_out(source, out)
    opened = Source.open(source)
    origin = {"name": name or source.resolve().name, "licence": licence or opened.licence, "revision": revision}
    beside = out.resolve().parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".aladin-encoder-", dir=beside) as temporary:
        draft = Path(temporary) / "draft"
        draft.mkdir()
        shutil.copyfile(source / "tokenizer.json", draft / "tokenizer.json")
        made = _made(opened, share)
        difference, cosine = _write_gated(draft, made, precision)
        tables = to_table(made.config) | {"origin": {key: text for key, text in origin.items() if text}}
        (draft / "model.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
        size = sum(file.stat().st_size for file in draft.iterdir())
        added = Added(made.config.encoder.family, origin["licence"], difference, cosine, size)
        text = card(made.config, origin, added, precision)
        (draft / "README.md").write_text(text, encoding="utf-8")
        _take_place(draft, out.resolve(), Path(temporary) / "before")
    return added


def _made(source: Source, share: float) -> Made:
    """The source's graphs and settings, and what they are held against; its network is gone after that."""
    towers = source.load()
    preprocessing = preprocessing_of(source, towers)
    example = example_of(source, preprocessing)
    expected = expected_of(towers, preprocessing, example)
    return Made(_config(towers, preprocessing, expected[0], share), both_graphs(towers, preprocessing), example, expected)


def _write_gated(draft: Path, made: Made, precision: Precision) -> tuple[float, float]:
    """Write the graphs; the largest difference of the fp32 ones, and the least cosine of the written ones."""
    smaller = {name: SMALLER[precision](graph) for name, graph in made.graphs.items()} if precision in SMALLER else {}
    write_graphs(made.graphs, draft)
    difference, cosine = differences(draft, made.example, made.expected)
    if not difference <= MAX_DIFFERENCE:  # so that a number that is none does not pass
        found = f"the fp32 graphs differ from transformers by {difference:.2g}, expected {MAX_DIFFERENCE} or less"
        raise ModelError(f"not added: {found}")
    if smaller:
        write_graphs(smaller, draft)
        _, cosine = differences(draft, made.example, made.expected)
    if not cosine >= MIN_COSINE:
        found = f"the least cosine of {precision} graphs with transformers is {cosine:.4f}, expected {MIN_COSINE} or more"
        raise ModelError(f"not added: {found}; {REMEDY[precision]}")
    return difference, cosine


def _config(towers: Towers, preprocessing: Preprocessing, images: Outputs, share: float) -> ModelConfig:
    """What model.toml states of an encoder that gives such outputs of images."""
    dim, token_dim = (rows.shape[1] for rows in images)
    return ModelConfig(
        encoder=EncoderConfig(towers.family, dim, share, **towers.probability._asdict()),
        backbone=BackboneConfig(positions=towers.positions),
        heads=HeadsConfig(pooling="MrAVGw", token_dim=token_dim),
        image=ImageConfig(grid=grid_of(towers)),
        preprocessing=preprocessing,
    )


def _check_out(source: Path, out: Path) -> None:
    """ConfigError unless `out` can be made, or holds an encoder that was added before and nothing else."""
    check_folder("out", out)
    if out.resolve() == source.resolve():
        raise ConfigError(f"out is {out}, the encoder's own folder, which stays as it is; give another folder")
    others = sorted(file.name for file in out.iterdir() if file.name not in WRITTEN) if out.is_dir() else []
    if others or ((out / "model.toml").is_file() and not model_config(out).encoder.family):
        raise ConfigError(f"out is {out}, which holds {others[0] if others else 'another model'}; give a new folder")


def _take_place(draft: Path, out: Path, before: Path) -> None:
    """Put the folder where `out` is: whole, or as it was."""
    if out.is_dir():
        out.rename(before)
    try:
        draft.rename(out)
    except OSError:
        if before.is_dir():
            before.rename(out)
        raise
