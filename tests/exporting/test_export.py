import copy
import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tomli_w
import torch
from click.testing import CliRunner

import aladin
from aladin.cli import main
from aladin.cli.export import export
from aladin.config import to_table
from aladin.datasets import Dataset, read_dataset
from aladin.encoder.config import HUB_DIMS
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.encoder.hub_terms import as_queries
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import DataError, ModelError
from aladin.evaluation.encoding import encode_dataset
from aladin.evaluation.heads import evaluate_heads
from aladin.evaluation.scoring import MEMORY
from aladin.exporting.graphs import ImageGraph, TextGraph, image_graph, text_graph
from aladin.exporting.int8 import halved, quantized, write_graphs
from aladin.exporting.model_card import Parity, model_card
from aladin.measures.report import Report, Subject, head_figures, rsum_loss
from aladin.network.checkpoints import provenance, save_model
from aladin.network.model import Aladin
from aladin.network.run import Run
from aladin.network.variants import with_hub_correction
from aladin.progress import SILENT, TimedSteps
from tests.tiny_learning import PAIRS, TINY, captions, picture, tiny_model, write_pictures, write_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder, random weights in it."""
    path = tmp_path_factory.mktemp("trained")
    tokenizer = write_tokenizer(path)
    save_model(tiny_model(tokenizer), tokenizer, path, ORIGIN)
    return path


# As `aladin train` and `correct-hubs` leave it.
ORIGIN = {
    "training": {
        "epoch": 7,
        "commit": "0123456789" * 4,
        "start": {"name": "align/best", "fingerprint": "ab" * 32},
        "recipe": {"epochs": 9, "seed": 3, "train": ["backbone"], "loss": {"alignment": 1.0, "matching": 0.0}},
    },
    "hub_correction": {"data": "train.zip", "images": 5996},
}


def pictures(folder: Path) -> Path:
    return write_pictures(folder / "pictures", 8)


@pytest.fixture(scope="module")
def model(folder: Path) -> Aladin:
    return tiny_model(folder / "tokenizer.json").eval()


@pytest.fixture(scope="module")
def graphs(model: Aladin) -> dict[str, onnx.ModelProto]:
    return {"text.onnx": text_graph(model), "image.onnx": image_graph(model)}


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tiny"
    data = pictures(tmp_path_factory.mktemp("data"))
    cache = tmp_path_factory.mktemp("cache")
    report, parity = aladin.export(folder, out, data, precision="fp32", notes="Made for a test.", cache=cache)
    assert parity.cosine > 0.9999
    assert set(report.heads) == {"matching", "alignment", "two-stage k=100"}
    return out


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_exported_graphs_encode_as_the_model_does_whatever_the_batch(exported: Path, model: Aladin, count: int) -> None:
    encoder = Encoder.load(exported, threads=1)
    pixels = np.stack([picture(number) for number in range(count)])
    texts = [captions(number % len(PAIRS))[number % 2] for number in range(count)]
    pieces = WordPieces.of(exported / "tokenizer.json", TINY.preprocessing).encode(texts)
    with torch.no_grad():
        vectors, regions = ImageGraph(model)(torch.from_numpy(pixels))
        text_vectors, words, mask = TextGraph(model)(torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask))
    images, sentences = encoder.encode_images(pixels), encoder.encode_texts(texts)
    np.testing.assert_allclose(images.vectors, vectors.numpy(), atol=1e-4)
    np.testing.assert_allclose(images.regions, regions.numpy(), atol=1e-4)
    np.testing.assert_allclose(sentences.vectors, text_vectors.numpy(), atol=1e-4)
    np.testing.assert_array_equal(sentences.word_mask, mask.numpy())
    np.testing.assert_allclose(sentences.words[mask.numpy()], words.numpy()[mask.numpy()], atol=1e-4)


def test_a_correction_of_hubs_is_in_the_exported_graphs(folder: Path, model: Aladin, tmp_path: Path) -> None:
    bank = torch.nn.functional.normalize(torch.randn(6, TINY.backbone.dim, generator=torch.Generator().manual_seed(0)), dim=1)
    heads = dataclasses.replace(TINY.heads, hub_centres=4)
    corrected = with_hub_correction(copy.deepcopy(model), heads, bank, bank.flip(1))
    save_model(corrected, folder / "tokenizer.json", tmp_path / "corrected")
    data = pictures(tmp_path)
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert aladin.export(tmp_path / "corrected", out, data, precision="fp32", cache=cache).parity.cosine > 0.9999
    pixels = np.stack([picture(number) for number in range(3)])
    with torch.no_grad():
        vectors, regions = ImageGraph(corrected.eval())(torch.from_numpy(pixels))
    encoder = Encoder.load(out, threads=1)
    images = encoder.encode_images(pixels)
    assert images.regions.shape[2] == TINY.heads.token_dim + HUB_DIMS
    np.testing.assert_allclose(images.vectors, vectors.numpy(), atol=1e-4)
    np.testing.assert_allclose(images.regions, regions.numpy(), atol=1e-4)
    found, asked = encoder.encode_texts(captions(1)), encoder.encode_queries(captions(1))
    pieces = found.word_mask.sum(axis=1)
    np.testing.assert_array_equal(asked.vectors, as_queries(found.vectors, pieces, heads))
    np.testing.assert_array_equal(asked.words, as_queries(found.words, pieces, heads))


def test_weights_that_both_graphs_need_are_stored_once(exported: Path, model: Aladin) -> None:
    layer = model.backbone.layers[0].output.weight.detach().numpy()
    stored = (exported / "weights.bin").read_bytes()
    # The exporter may have transposed a matrix; in one of the two orders it stands there, and once.
    assert stored.count(layer.tobytes()) + stored.count(np.ascontiguousarray(layer.T).tobytes()) == 1


def test_int8_graphs_are_less_than_half_the_size_and_still_point_the_same_way(
    graphs: dict[str, onnx.ModelProto], exported: Path, tmp_path: Path
) -> None:
    for name in ("model.toml", "tokenizer.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    write_graphs({name: quantized(graph) for name, graph in graphs.items()}, tmp_path)
    assert (tmp_path / "weights.bin").stat().st_size < 0.55 * (exported / "weights.bin").stat().st_size
    pixels = np.stack([picture(number) for number in range(4)])
    small, full = (Encoder.load(path, threads=1).encode_images(pixels).vectors for path in (tmp_path, exported))
    assert (small * full).sum(axis=1).min() > 0.95


def test_fp16_graphs_are_half_the_size_and_compute_as_full_ones_do(
    graphs: dict[str, onnx.ModelProto], exported: Path, tmp_path: Path
) -> None:
    for name in ("model.toml", "tokenizer.json"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    write_graphs({name: halved(graph) for name, graph in graphs.items()}, tmp_path)
    assert (tmp_path / "weights.bin").stat().st_size < 0.52 * (exported / "weights.bin").stat().st_size
    pixels = np.stack([picture(number) for number in range(4)])
    half, full = (Encoder.load(path, threads=1) for path in (tmp_path, exported))
    np.testing.assert_allclose(half.encode_images(pixels).vectors, full.encode_images(pixels).vectors, atol=2e-2)
    np.testing.assert_allclose(half.encode_texts(captions(1)).words, full.encode_texts(captions(1)).words, atol=2e-2)


def test_the_card_names_the_data_the_figures_and_the_command(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for expected in ("Made for a test.", "aladin evaluate tiny pictures", "two-stage k=100", "Recall@1", "cosine"):
        assert expected in card


def test_the_card_and_model_toml_say_where_the_model_is_from(exported: Path, folder: Path) -> None:
    assert provenance(exported) == provenance(folder) == ORIGIN
    card = (exported / "README.md").read_text()
    recipe = "recipe (train (backbone), epochs 9, seed 3, losses (alignment 1.0))"
    start = "start (align/best, fingerprint abababababab)"
    assert f"\n- training: epoch 7, commit 012345678901, {start}, {recipe}\n" in card
    assert "\n- hub correction: data train.zip, images 5996\n" in card


def test_the_card_of_a_mean_has_a_line_for_each_model() -> None:
    models = [{"name": f"align-{seed}/best", "training": {"commit": "c" * 40, "recipe": {"seed": seed}}} for seed in (0, 1)]
    report = Report(Subject("mean", "pictures", None, 8, 16, 100, "fp16"), {}, {})
    card = model_card(report, Parity(1.0, {}), Dataset((), name="pictures"), {"average": {"models": models}}, "")
    expected = [f"  - align-{seed}/best, training (commit {'c' * 12}, recipe (seed {seed}))" for seed in (0, 1)]
    assert card.splitlines()[4:8] == ["## Where it is from", "- average: of these models", *expected]
    assert "Weights are stored in fp16; everything is computed in fp32." in card


def test_where_a_model_is_from_does_not_change_what_a_collection_takes_it_for(exported: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(exported, bare)
    (bare / "model.toml").write_text(tomli_w.dumps(to_table(ModelFolder.open(exported).config)))
    assert provenance(bare) == {}
    assert ModelFolder.open(bare).fingerprint == ModelFolder.open(exported).fingerprint


def test_the_command_on_the_card_prints_its_figures(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported, tmp_path / "my tiny")
    data = write_pictures(tmp_path / "pictures", 8)
    lines = (data / "captions.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"split": "val" if number < 6 else "test"} for number, line in enumerate(lines)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    validation = read_dataset(tmp_path / "rows.jsonl", "val", data)
    encoded = encode_dataset(exported, validation, Run(), tmp_path, SILENT)
    found = {head: head_figures(ranks) for head, ranks in evaluate_heads(encoded, 100, MEMORY, TimedSteps()).ranks.items()}
    subject = Subject("my tiny", validation.name, "val", 6, 12, 100, "fp32")
    card = model_card(Report(subject, found, {}), Parity(1.0, {}), validation, {}, "")
    (command,) = (line for line in card.splitlines() if line.startswith("`aladin evaluate"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(command.strip("`."))[1:], "--json"])
    assert stop.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["subject"]["split"], report["subject"]["images"]) == ("val", 6)
    assert {head: figures["rsum"]["value"] for head, figures in report["heads"].items()} == {
        head: figures.rsum.value for head, figures in found.items()
    }


def test_the_loss_of_rsum_has_an_interval_by_drawn_images() -> None:
    """One of ten images loses its first place and the captions of another one gain it: often drawn, or not at all."""
    before = {
        direction: np.ones(10 * count, dtype=np.int64) for direction, count in (("image_to_text", 1), ("text_to_image", 2))
    }
    now = {direction: ranks.copy() for direction, ranks in before.items()}
    now["image_to_text"][0] = 2
    before["text_to_image"][2:4] = 6
    loss = rsum_loss(before, now, [2] * 10)
    assert loss.value == pytest.approx(10 - 20)
    random = np.random.default_rng(1)
    counts = np.stack([np.bincount(random.integers(10, size=10), minlength=10) for _ in range(4000)])
    low, high = np.percentile(counts[:, 0] * 10 - counts[:, 1] * 20, [2.5, 97.5])
    assert (loss.low, loss.high) == pytest.approx((low, high), abs=5)


def test_a_gate_of_few_images_says_what_one_of_them_is_worth(exported: Path) -> None:
    card = " ".join((exported / "README.md").read_text().split())
    assert "Mind that 8 images are few for this gate: one of them found or missed at one recall is 12.5 of rsum" in card
    assert "with 95 % bootstrap intervals (images drawn again): matching +0.00 (+0.00 to +0.00), alignment" in card


def test_a_model_that_loses_too_much_in_int8_is_not_exported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aladin.exporting.export.MAX_RSUM_LOSS", -1.0)
    data = pictures(tmp_path)
    with pytest.raises(ModelError, match=r"not exported: int8 loses .* of rsum, expected -1\.0 or less"):
        aladin.export(folder, tmp_path / "out", data, precision="int8", cache=tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_folder_and_says_its_size(folder: Path, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", 9)
    (data / "8.png").write_bytes(b"no picture")
    notes = tmp_path / "notes.md"
    notes.write_text("Trained on two colours.")
    arguments = [str(folder), str(tmp_path / "out"), "--val", str(data), "--precision", "fp32", "--notes", str(notes)]
    refused = CliRunner().invoke(export, arguments)
    assert isinstance(refused.exception, DataError)
    assert str(refused.exception).startswith(f"{data / 'captions.jsonl'}, line 9: image '8.png' is not an image")
    arguments.append("--skip-bad")
    result = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert " MB; rsum on pictures: matching " in result.stdout
    assert f"{data}: 1 rows skipped: the image is not an image of a known format" in result.stderr
    assert "aladin: 8 images are few for this gate" in result.stderr
    assert "rsum lost (below 0: gained): matching +0.00 (+0.00 to +0.00)" in result.stderr
    assert "Trained on two colours." in (tmp_path / "out" / "README.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "image.onnx", "model.toml", "text.onnx", "tokenizer.json", "weights.bin", "weights.json",
    }  # fmt: skip


def test_more_caption_pieces_than_the_text_graph_has_positions_for_are_named(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    settings = copy / "model.toml"
    settings.write_text(settings.read_text().replace("caption_pieces = 12", "caption_pieces = 30"))
    encoder = Encoder.load(copy)
    assert len(encoder.encode_texts(["red " * 14]).vectors) == 1  # as long as it goes
    with pytest.raises(ModelError) as caught:
        encoder.encode_texts(["red " * 15])
    assert str(caught.value) == (
        f"caption_pieces in [preprocessing] of {settings} is 30, but text.onnx has positions for 16 pieces; "
        "set it to at most 16"
    )


def test_an_export_over_a_model_in_use_leaves_the_files_that_are_open_alone(
    exported: Path, folder: Path, tmp_path: Path
) -> None:
    data = pictures(tmp_path)
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    (out / "weights.bin").write_bytes(b"of an older export")
    with (out / "weights.bin").open("rb") as in_use:
        aladin.export(folder, out, data, precision="fp32", cache=tmp_path / "cache")
        assert in_use.read() == b"of an older export"
    assert (out / "weights.bin").read_bytes() == (exported / "weights.bin").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "out", "cache"}
