"""Models of a detector's regions, exported."""

import copy
import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import aladin
from aladin.datasets import read_dataset
from aladin.encoder.config import BackboneConfig, HeadsConfig, ImageConfig, LimitsConfig, ModelConfig, QuirksConfig
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.region_encoder import RegionEncoder
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import AladinError, ModelError
from aladin.evaluation.encoding import encode_dataset
from aladin.exporting.conversion import bert_tokenizer
from aladin.exporting.export import SMALLER, Precision
from aladin.exporting.graphs import both_graphs
from aladin.exporting.int8 import write_graphs
from aladin.exporting.restoring import restored_model
from aladin.exporting.smoothing import smoothed
from aladin.network.backbones import new_backbone
from aladin.network.checkpoints import fingerprint, load_model, provenance, save_model
from aladin.network.detections import DetectionReader
from aladin.network.model import Aladin
from aladin.network.official import RELEASED
from aladin.network.run import Run
from aladin.progress import SILENT
from tests.tiny_official import VOCABULARY, Image, random_images, write_features

pytestmark = pytest.mark.slow

BACKBONE = BackboneConfig(
    vocabulary=len(VOCABULARY), positions=16, dim=16, layers=2, heads=2, feed_forward=24, region_features=8, region_geometry=6
)
HEADS = HeadsConfig("MrSw", token_dim=16, matching_layers=1, matching_heads=2, matching_feed_forward=16)
CONFIG = ModelConfig(
    BACKBONE,
    HEADS,
    LimitsConfig(regions=4, object_pieces=10),
    ImageConfig(source="detector"),
    RELEASED,
    Preprocessing(caption_pieces=12),
)
OWN = dataclasses.replace(
    CONFIG,
    quirks=QuirksConfig(),
    backbone=dataclasses.replace(BACKBONE, region_geometry=0),
    heads=dataclasses.replace(HEADS, token_dim=8),
)
DEEP = dataclasses.replace(
    CONFIG,
    heads=dataclasses.replace(HEADS, matching_depth="gated", alignment_depth="gated", alignment_layers=1, pooling="symm"),
)
ORIGINAL = "original"
KINDS = {ORIGINAL: CONFIG, "own-without-boxes": OWN, "deep": DEEP}
COUNTS = [3, 1, 6, 2, 4, 5]  # the limit is 4


def trained(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """A model's folder, random weights in it."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCABULARY))
    bert_tokenizer(folder / "vocab.txt", len(VOCABULARY)).save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    model = Aladin(config, new_backbone(config))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    save_model(model, folder / "tokenizer.json", folder, {"training": {"epoch": 7, "commit": "0123456789" * 4}})
    return folder


def data(folder: Path, config: ModelConfig) -> Path:
    """A feature folder with captions."""
    numbers = config.backbone.region_features + config.backbone.region_geometry
    images = [cut(image, numbers) for image in random_images(COUNTS)]
    write_features(folder, images)
    texts = [
        [f"a {image.classes[0]} {letter}.", f"{letter} red and blue"] for letter, image in zip("bcdefg", images, strict=True)
    ]
    texts[0][1] = "b"  # as short as a caption can be
    rows = [{"image": image.id, "captions": some} for image, some in zip(images, texts, strict=True)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def cut(image: Image, numbers: int) -> Image:
    return dataclasses.replace(image, boxes=image.boxes[:, :numbers])


Graphs = Callable[[str], dict[str, onnx.ModelProto]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model of each kind and its data."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind, config in KINDS.items():
        trained(folder / kind, config)
        data(folder / f"{kind} data", config)
    return folder


@pytest.fixture(scope="module")
def graphs(folder: Path) -> Graphs:
    """The graphs of each kind, made once."""

    @functools.cache
    def of(kind: str) -> dict[str, onnx.ModelProto]:
        model = load_model(folder / kind)
        pieces = WordPieces.of(folder / kind / "tokenizer.json", model.config.preprocessing)
        return both_graphs(smoothed(model, pieces))

    return of


def written(graphs: dict[str, onnx.ModelProto], model: Path, out: Path) -> Path:
    """An exported folder of these graphs."""
    out.mkdir()
    write_graphs(copy.deepcopy(graphs), out)
    for name in ("model.toml", "tokenizer.json"):
        shutil.copyfile(model / name, out / name)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_encodes_regions_and_captions_as_the_trained_one_does(
    folder: Path, graphs: Graphs, tmp_path: Path, kind: str
) -> None:
    dataset, out = read_dataset(folder / f"{kind} data"), written(graphs(kind), folder / kind, tmp_path / "out")
    found, expected = (encode_dataset(model, dataset, Run(), tmp_path, SILENT) for model in (out, folder / kind))
    for one, other in ((found.images, expected.images), (found.captions, expected.captions)):
        np.testing.assert_allclose(one.vectors.numpy(), other.vectors.numpy(), atol=1e-4)
        mask = other.tokens.mask
        width = mask.shape[1]
        assert not one.tokens.mask[:, width:].any()
        np.testing.assert_array_equal(one.tokens.mask[:, :width].numpy(), mask.numpy())
        np.testing.assert_allclose(one.tokens.states[:, :width][mask].numpy(), other.tokens.states[mask].numpy(), atol=1e-4)
    np.testing.assert_allclose(found.alignment_scores(), expected.alignment_scores(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_takes_any_number_of_images_regions_and_tags(folder: Path, graphs: Graphs, tmp_path: Path, kind: str) -> None:
    model = load_model(folder / kind)
    session = onnxruntime.InferenceSession(graphs(kind)["region.onnx"].SerializeToString())
    reader = DetectionReader(folder / kind / "tokenizer.json", model.config)
    read = reader.read(read_dataset(folder / f"{kind} data"), 1, tmp_path)
    inputs = {value.name for value in session.get_inputs()}
    assert ("boxes" in inputs) == (model.config.backbone.region_geometry > 0)
    for rows in ([0], [1], [0, 1, 2], [5, 1]):
        images = model.backbone.batch(read, np.array(rows))
        feed = {"tags": images.tags, "tag_mask": images.tag_mask, "features": images.regions.features}
        feed |= {"boxes": images.regions.boxes, "region_mask": images.regions.mask}
        vectors, states, mask = session.run(None, {name: feed[name].numpy() for name in inputs})
        with torch.no_grad():
            expected = model.images(images)
        np.testing.assert_allclose(vectors, expected.vectors.numpy(), atol=1e-4)
        np.testing.assert_array_equal(mask, expected.tokens.mask.numpy())
        np.testing.assert_allclose(states[mask], expected.tokens.states.numpy()[mask], atol=1e-4)


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.9), ("fp16", 0.9999)])
def test_smaller_weights_still_point_the_same_way(
    folder: Path, graphs: Graphs, tmp_path: Path, precision: Precision, least: float
) -> None:
    model, dataset = folder / ORIGINAL, read_dataset(folder / f"{ORIGINAL} data")
    out = written({name: SMALLER[precision](graph) for name, graph in graphs(ORIGINAL).items()}, model, tmp_path / "out")
    small, full = (encode_dataset(some, dataset, Run(), tmp_path, SILENT) for some in (out, model))
    assert (small.images.vectors * full.images.vectors).sum(dim=1).min() > least
    assert (small.captions.vectors * full.captions.vectors).sum(dim=1).min() > least


@pytest.fixture(scope="module")
def kind(folder: Path) -> Path:
    """A folder with a trained model, its data and its export in fp32."""
    for name, source in (("trained", ORIGINAL), ("data", f"{ORIGINAL} data")):
        shutil.copytree(folder / source, folder / "whole" / name)
    whole = folder / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aladin.exporting.export.MAX_RSUM_LOSS", 600.0)  # six images say nothing of rsum
        aladin.export(whole / "trained", whole / "fp32", whole / "data", precision="fp32", notes="Made for a test.")
    return whole


def test_it_is_evaluated_scored_and_encoded_as_the_trained_one(kind: Path) -> None:
    reports = [aladin.evaluate(kind / name, kind / "data").report for name in ("fp32", "trained")]
    found, expected = ({head: figures.rsum.value for head, figures in report.heads.items()} for report in reports)
    assert found == expected
    texts = ["a red picture.", "blue"]
    pairs = zip(*(aladin.score(kind / name, "107", texts, features=kind / "data") for name in ("fp32", "trained")), strict=True)
    for one, other in pairs:
        assert (one.matching, one.alignment) == pytest.approx((other.matching, other.alignment), abs=1e-4)
    vectors = [aladin.encode(kind / name, kind / "data") for name in ("fp32", "trained")]
    np.testing.assert_allclose(vectors[0].image_vectors, vectors[1].image_vectors, atol=1e-4)
    np.testing.assert_allclose(vectors[0].caption_vectors, vectors[1].caption_vectors, atol=1e-4)


def test_the_folder_the_card_and_the_fingerprint_are_like_any_exported_models(kind: Path) -> None:
    folder = kind / "fp32"
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "region.onnx", "model.toml", "text.onnx", "tokenizer.json", "weights.bin", "weights.json",
    }  # fmt: skip
    card = (folder / "README.md").read_text()
    for expected in (
        "Made for a test.",
        "aladin evaluate fp32 data",
        "two-stage k=100",
        "Recall@1",
        "cosine",
        "- training: epoch 7",
    ):
        assert expected in card
    assert provenance(folder) == provenance(kind / "trained")
    opened = ModelFolder.open(folder)
    assert fingerprint(folder) == opened.fingerprint
    assert opened.parts.keys() >= {"region.onnx", "text.onnx", "weights.bin", "[limits] regions"}


def test_a_setting_outside_the_graphs_makes_another_fingerprint(kind: Path, tmp_path: Path) -> None:
    found = set()
    for change in (("regions = 4", "regions = 4"), ("regions = 4", "regions = 3"), ("object_pieces = 10", "object_pieces = 9")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for file in (kind / "fp32").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        text = (folder / "model.toml").read_text()
        assert change[0] in text
        (folder / "model.toml").write_text(text.replace(*change))
        found.add(ModelFolder.open(folder).fingerprint)
    assert len(found) == 3
    assert ModelFolder.open(kind / "fp32").fingerprint in found


def test_it_can_be_trained_on(kind: Path) -> None:
    model, restored = load_model(kind / "trained"), restored_model(kind / "fp32")
    assert restored.config == model.config
    for name, weight in restored.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], atol=1e-5, rtol=1e-5)


def test_who_needs_photographs_says_why_it_refuses(kind: Path) -> None:
    for name in ("fp32", "trained"):
        with pytest.raises(ModelError) as caught:
            Encoder.load(kind / name)
        assert str(caught.value) == (
            f"{kind / name} reads a detector's regions, and a photograph has none until a detector looks at it; give a "
            "model of photographs, or use `aladin score`, `encode` and `evaluate` with the detector's features"
        )


def test_a_model_of_photographs_encodes_no_regions(model_path: Path) -> None:
    with pytest.raises(ModelError, match="reads photographs; give a model that reads a detector's regions"):
        RegionEncoder.load(model_path)


def test_regions_and_texts_are_encoded_without_pytorch(kind: Path) -> None:
    script = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from aladin.datasets.vinvl import open_features
from aladin.encoder.region_encoder import RegionEncoder
folder = Path(sys.argv[1])
encoder = RegionEncoder.load(folder / "fp32")
image = open_features(folder / "data").find("107").detections()
regions = encoder.encode_regions([image.objects.names], [image.boxes])
print((regions.vectors @ encoder.encode_texts(["a red picture."]).vectors.T).item())
"""
    result = subprocess.run([sys.executable, "-c", script, str(kind)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    (pair,) = aladin.score(kind / "trained", "107", ["a red picture."], features=kind / "data")
    assert float(result.stdout) == pytest.approx(pair.matching, abs=1e-4)


def replaced(folder: Path, old: str, new: str) -> None:
    text = (folder / "model.toml").read_text()
    assert old in text
    (folder / "model.toml").write_text(text.replace(old, new))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no graph of regions": (lambda folder: (folder / "region.onnx").unlink(), "is not a model folder: it has no region.onnx"),
    "an empty graph": (lambda folder: (folder / "region.onnx").write_bytes(b""), "cannot be loaded: "),
    "the graph of texts": (
        lambda folder: (folder / "region.onnx").write_bytes((folder / "text.onnx").read_bytes()),
        "disagrees with this version on boxes, features, mask, pieces, region_mask",
    ),
    "half of the weights": (
        lambda folder: (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:999]),
        "cannot be loaded: ",
    ),
    "other sizes": (
        lambda folder: replaced(folder, "region_features = 8", "region_features = 7"),
        "14 numbers a box; expected 13",
    ),
    "no geometry": (
        lambda folder: replaced(folder, "region_geometry = 6", "region_geometry = 0"),
        "14 numbers a box; expected 8",
    ),
    "photographs": (lambda folder: replaced(folder, 'source = "detector"', 'source = "photograph"'), "it has no image.onnx"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_sentence(kind: Path, tmp_path: Path, damage: str) -> None:
    change, expected = DAMAGES[damage]
    folder = Path(shutil.copytree(kind / "fp32", tmp_path / "copy"))
    change(folder)
    with pytest.raises(AladinError) as caught:
        aladin.score(folder, "107", ["red"], features=kind / "data")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
