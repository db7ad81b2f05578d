import copy
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from aladin.checkpoints import save_model
from aladin.cli.export import export
from aladin.config import HUB_DIMS
from aladin.datasets import read_dataset
from aladin.encode import Encoder
from aladin.errors import ModelError
from aladin.evaluation import Stages
from aladin.export import ImageGraph, TextGraph, export_model, image_graph, text_graph
from aladin.hub_terms import as_queries
from aladin.int8_graph import quantized, write_graphs
from aladin.model import Aladin, with_hub_correction
from aladin.text import WordPieces
from tests.tiny_learning import PAIRS, TINY, captions, picture, tiny_model, write_pictures, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model's folder, random weights in it."""
    path = tmp_path_factory.mktemp("trained")
    tokenizer = write_tokenizer(path)
    save_model(tiny_model(tokenizer), tokenizer, path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Aladin:
    return tiny_model(folder / "tokenizer.json").eval()


@pytest.fixture(scope="module")
def graphs(model: Aladin) -> dict[str, onnx.ModelProto]:
    return {"text.onnx": text_graph(model), "image.onnx": image_graph(model)}


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tiny"
    data = read_dataset(write_pictures(tmp_path_factory.mktemp("data") / "pictures", 8))
    cache = tmp_path_factory.mktemp("cache")
    report, parity = export_model(folder, out, data, "pictures", "fp32", "Made for a test.", cache, Stages())
    assert parity.cosine > 0.9999
    assert set(report.heads) == {"matching", "alignment", "two-stage k=100"}
    return out


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_exported_graphs_encode_as_the_model_does_whatever_the_batch(exported: Path, model: Aladin, count: int) -> None:
    encoder = Encoder.load(exported, threads=1)
    pixels = np.stack([picture(number) for number in range(count)])
    texts = [captions(number % len(PAIRS))[number % 2] for number in range(count)]
    pieces = WordPieces.load(exported / "tokenizer.json", TINY.limits.caption_pieces).encode(texts)
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
    data = read_dataset(write_pictures(tmp_path / "pictures", 8))
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert export_model(tmp_path / "corrected", out, data, "pictures", "fp32", "", cache, Stages())[1].cosine > 0.9999
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


def test_the_card_names_the_data_the_figures_and_the_command(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for expected in ("Made for a test.", "aladin evaluate tiny pictures", "two-stage k=100", "Recall@1", "cosine"):
        assert expected in card


def test_a_model_that_loses_too_much_in_int8_is_not_exported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aladin.export.MAX_RSUM_LOSS", -1.0)
    data = read_dataset(write_pictures(tmp_path / "pictures", 8))
    with pytest.raises(ModelError, match=r"not exported: int8 loses .* of rsum, expected -1\.0 or less"):
        export_model(folder, tmp_path / "out", data, "pictures", "int8", "", tmp_path / "cache", Stages())
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_folder_and_says_its_size(folder: Path, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", 8)
    notes = tmp_path / "notes.md"
    notes.write_text("Trained on two colours.")
    arguments = [str(folder), str(tmp_path / "out"), "--val", str(data), "--precision", "fp32", "--notes", str(notes)]
    result = CliRunner().invoke(export, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert " MB; rsum on pictures: matching " in result.stdout
    assert "Trained on two colours." in (tmp_path / "out" / "README.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "image.onnx", "model.toml", "text.onnx", "tokenizer.json", "weights.bin",
    }  # fmt: skip


def test_an_export_over_a_model_in_use_leaves_the_files_that_are_open_alone(
    exported: Path, folder: Path, tmp_path: Path
) -> None:
    data = read_dataset(write_pictures(tmp_path / "pictures", 8))
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    (out / "weights.bin").write_bytes(b"of an older export")
    with (out / "weights.bin").open("rb") as in_use:
        export_model(folder, out, data, "pictures", "fp32", "", tmp_path / "cache", Stages())
        assert in_use.read() == b"of an older export"
    assert (out / "weights.bin").read_bytes() == (exported / "weights.bin").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "out", "cache"}
