import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import aladin.encoder.folder
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import FILES, ModelFolder, shipped_model
from aladin.errors import ModelError
from tests.tiny_model import COLOURS, DIM, GRID, LIMIT, SIZE, TOKEN_DIM

sentences = st.lists(st.sampled_from([*COLOURS, "and", "picture", "pictures", "zebra"]), min_size=1, max_size=20).map(" ".join)


def solid(*colours: str) -> np.ndarray:
    shades = np.array([COLOURS[colour] for colour in colours]) * 255
    return np.broadcast_to(shades.round().astype(np.uint8)[:, None, None], (len(colours), SIZE, SIZE, 3)).copy()


@pytest.mark.slow
@given(texts=st.lists(sentences, min_size=1, max_size=5))
def test_a_text_is_encoded_alike_whatever_stands_beside_it(model_path: Path, texts: list[str]) -> None:
    encoder = Encoder.load(model_path, threads=1)
    together = encoder.encode_texts(texts)
    for row, text in enumerate(texts):
        alone = encoder.encode_texts([text])
        assert_allclose(together.vectors[row], alone.vectors[0], atol=1e-6)
        assert_allclose(together.words[row][together.word_mask[row]], alone.words[0][alone.word_mask[0]], atol=1e-6)
        assert together.truncated[row] == alone.truncated[0]


def test_words_are_the_pieces_without_the_special_ones(encoder: Encoder) -> None:
    encoded = encoder.encode_texts(["red pictures", "blue"])
    assert encoded.word_mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert encoded.words.shape == (2, 4, TOKEN_DIM)
    assert encoded.vectors.shape == (2, DIM)


def test_vectors_and_tokens_have_length_one(encoder: Encoder) -> None:
    texts, images = encoder.encode_texts(["red and blue"]), encoder.encode_images(solid("red", "pink"))
    for rows in (texts.vectors, texts.words[texts.word_mask], images.vectors, images.regions):
        assert_allclose(np.linalg.norm(rows, axis=-1), 1, atol=1e-5)
    assert images.regions.shape == (2, GRID**2, TOKEN_DIM)


def test_a_colour_is_nearest_to_its_own_name(encoder: Encoder) -> None:
    names = list(COLOURS)
    similarity = encoder.encode_images(solid(*names)).vectors @ encoder.encode_texts(names).vectors.T
    assert similarity.argmax(axis=0).tolist() == list(range(len(names)))


def test_batch_size_and_threads_do_not_change_an_image(model_path: Path) -> None:
    pixels = solid(*COLOURS, *COLOURS)
    together = Encoder.load(model_path, threads=2).encode_images(pixels)
    alone = [Encoder.load(model_path, threads=1).encode_images(pixels[row : row + 1]) for row in range(len(pixels))]
    assert_allclose(together.vectors, np.concatenate([row.vectors for row in alone]), atol=1e-6)
    assert_allclose(together.regions, np.concatenate([row.regions for row in alone]), atol=1e-6)


def test_an_image_without_a_finite_vector_is_marked_and_spoils_no_other(encoder: Encoder) -> None:
    pixels = solid("red", "blue", "green")
    pixels[1] = 0
    assert encoder.encode_images(pixels).usable.tolist() == [True, False, True]


@pytest.mark.parametrize(("words", "truncated"), [(LIMIT - 2, False), (LIMIT - 1, True)])
def test_a_text_over_the_limit_is_told_apart(encoder: Encoder, words: int, truncated: bool) -> None:
    assert encoder.encode_texts(["red " * words]).truncated == (truncated,)


@pytest.mark.parametrize("text", ["red " * 300_000, "\U0001f600" * 1_000_000, "r" * 1_000_000, " " * 1_000_000 + "red " * 20])
def test_a_megabyte_of_text_is_cut_and_said_to_be(encoder: Encoder, text: str) -> None:
    assert encoder.encode_texts([text]).truncated == (True,)


@pytest.mark.parametrize("text", ["\0", "\udcff", "\u202e red", "red\nblue", "\ud800\udc00"])
def test_odd_characters_are_no_failure(encoder: Encoder, text: str) -> None:
    assert np.isfinite(encoder.encode_texts([text]).vectors).all()


@pytest.fixture
def model_copy(model_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_path, tmp_path / "copy"))


def test_a_text_needs_no_image_network(model_copy: Path) -> None:
    (model_copy / "image.onnx").write_bytes(b"damaged")
    encoder = Encoder.load(model_copy)
    encoder.encode_texts(["red"])
    with pytest.raises(ModelError, match=r"image\.onnx cannot be loaded: .*; copy the model folder again"):
        encoder.encode_images(solid("red"))


@pytest.mark.parametrize("name", ["model.toml", *FILES])
def test_a_missing_file_is_named(model_copy: Path, name: str) -> None:
    (model_copy / name).unlink()
    with pytest.raises(ModelError, match=f"it has no {name}"):
        Encoder.load(model_copy)


@pytest.mark.parametrize("content", ["dim = [", "[backbone]\nwidth = 3", "[backbone]\ndim = 'six'"])
def test_a_damaged_model_toml_is_a_model_error(model_copy: Path, content: str) -> None:
    (model_copy / "model.toml").write_text(content)
    with pytest.raises(ModelError, match=r"model\.toml"):
        Encoder.load(model_copy)


def test_a_damaged_tokenizer_is_named(model_copy: Path) -> None:
    (model_copy / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer"):
        Encoder.load(model_copy).encode_texts(["red"])


def test_a_graph_of_another_contract_is_refused(model_copy: Path) -> None:
    shutil.copy(model_copy / "text.onnx", model_copy / "image.onnx")
    with pytest.raises(ModelError, match="disagrees with this version on mask, pieces, pixels, regions"):
        Encoder.load(model_copy).encode_images(solid("red"))


def test_pixels_of_another_size_are_a_model_error(encoder: Encoder) -> None:
    with pytest.raises(ModelError, match=r"image\.onnx failed"):
        encoder.encode_images(np.zeros((1, SIZE + 1, SIZE + 1, 3), dtype=np.uint8))


def test_regions_that_contradict_model_toml_are_refused(model_copy: Path) -> None:
    settings = model_copy / "model.toml"
    settings.write_text(settings.read_text().replace(f"grid = {GRID}", "grid = 3"))
    with pytest.raises(ModelError, match=r"regions of shape \(4, 8\) and model\.toml says \(9, 8\)"):
        Encoder.load(model_copy).encode_images(solid("red"))


def test_a_copied_folder_has_the_same_fingerprint_whatever_its_card_says(model_path: Path, model_copy: Path) -> None:
    with (model_copy / "model.toml").open("a") as settings:
        settings.write('[training_data]\nname = "none"\n')
    assert ModelFolder.open(model_copy).fingerprint == ModelFolder.open(model_path).fingerprint


@pytest.mark.parametrize("change", [*FILES, "token_dim", "caption_pieces", "size", "grid"])
def test_every_part_that_vectors_depend_on_changes_fingerprint_and_stamp(model_copy: Path, change: str) -> None:
    before = ModelFolder.open(model_copy)
    fingerprint, stamp = before.fingerprint, before.stamp
    if change in FILES:
        (model_copy / change).write_bytes((model_copy / change).read_bytes() + b" ")
    else:
        settings = model_copy / "model.toml"
        settings.write_text(settings.read_text().replace(f"\n{change} = ", f"\n{change} = 1"))
    after = ModelFolder.open(model_copy)
    assert after.fingerprint != fingerprint
    assert after.stamp != stamp


def test_a_file_replaced_behind_its_old_size_and_time_changes_the_stamp(model_copy: Path) -> None:
    before, graph = ModelFolder.open(model_copy).stamp, model_copy / "image.onnx"
    times, content = graph.stat(), graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(graph, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert ModelFolder.open(model_copy).stamp != before


def test_a_package_without_its_model_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aladin.encoder.folder, "SHIPPED", tmp_path / "none")
    with pytest.raises(ModelError, match="give a model folder with --model"):
        shipped_model()


@pytest.mark.slow
def test_searching_loads_neither_torch_nor_the_tools_of_training() -> None:
    script = "import sys, aladin.cli.search; sys.exit(bool({'torch', 'safetensors', 'pyarrow', 'onnx'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
