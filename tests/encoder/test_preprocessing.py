"""[preprocessing] of model.toml: its old places, what it means to a fingerprint, and that a network agrees with it."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aladin.config import from_table, to_table
from aladin.encoder.config import ModelConfig
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder, model_config
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError, ModelError
from aladin.network.backbones import new_backbone
from tests.tiny_learning import TINY, write_tokenizer
from tests.tiny_model import LIMIT, SIZE, build_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_tiny_model(tmp_path / "model")


def rewritten(folder: Path, before: str, after: str) -> Path:
    """A copy of the folder with another model.toml."""
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    text = (copy / "model.toml").read_text()
    assert before in text
    (copy / "model.toml").write_text(text.replace(before, after))
    return copy


def test_a_folder_from_before_the_table_reads_as_the_values_of_then(folder: Path) -> None:
    assert "[preprocessing]" not in (folder / "model.toml").read_text()
    assert model_config(folder).preprocessing == Preprocessing(size=SIZE, caption_pieces=LIMIT)


def test_a_model_has_the_same_fingerprint_under_the_table_as_before_it(folder: Path) -> None:
    today = rewritten(folder, f"size = {SIZE}\n", "")
    (today / "model.toml").write_text(
        (today / "model.toml").read_text().replace(f"[limits]\ncaption_pieces = {LIMIT}\n", "")
        + f"[preprocessing]\nsize = {SIZE}\ncaption_pieces = {LIMIT}\n"
    )
    assert ModelFolder.open(today).config == ModelFolder.open(folder).config
    assert ModelFolder.open(today).fingerprint == ModelFolder.open(folder).fingerprint


def test_other_pieces_around_a_text_make_another_model(folder: Path) -> None:
    other = rewritten(folder, "[card]", '[preprocessing]\nlast_piece = "[PAD]"\n[card]')
    assert ModelFolder.open(other).fingerprint != ModelFolder.open(folder).fingerprint


def test_a_setting_in_both_places_is_refused(folder: Path) -> None:
    both = rewritten(folder, "[card]", "[preprocessing]\nsize = 32\n[card]")
    with pytest.raises(
        ModelError, match=r"'size' in \[image\], its old place, and in \[preprocessing\]; leave the old one out"
    ):
        model_config(both)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size": 0}, "size is 0; expected at least 1"),
        ({"size": 4097}, "size is 4097; expected at most 4096"),
        ({"caption_pieces": 1}, "caption_pieces is 1; expected at least 2"),
        ({"caption_pieces": 10**9}, "caption_pieces is 1000000000; expected at most 4096"),
        ({"mean": (127.0, 127.0)}, r"mean is \[127\.0, 127\.0\]; expected three finite numbers, of red, green and blue"),
        ({"mean": (127.0, 127.0, float("nan"))}, r"mean is \[.*nan\]; expected three finite numbers"),
        ({"deviation": ()}, r"deviation is \[\]; expected three finite numbers"),
        ({"deviation": (128.0, float("inf"), 128.0)}, r"deviation is \[.*inf.*\]; expected three finite numbers"),
        ({"deviation": (128.0, 0.0, 128.0)}, r"deviation is \[128\.0, 0\.0, 128\.0\]; expected three numbers of more than 0"),
        ({"first_piece": " "}, r"first_piece is ' '; expected a piece of the tokenizer, such as \[CLS\]"),
        ({"last_piece": " "}, "last_piece is ' '; expected a piece of the tokenizer"),
        ({"first_piece": "", "last_piece": ""}, "first_piece, last_piece and pad_to are all left empty, so a text could be"),
        (
            {"pad_to": 49, "pad_piece": "[PAD]"},
            "pad_to is 49, caption_pieces 50 .* no fewer than the pieces of a text",
        ),
        ({"pad_to": 64}, "pad_piece ''; expected .* the piece that fills it up"),
        ({"pad_to": 4097, "pad_piece": "[PAD]"}, "pad_to is 4097; expected at most 4096"),
    ],
)
def test_what_no_network_can_read_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Preprocessing(**change)


@pytest.mark.parametrize("name", ["first_piece", "last_piece"])
def test_a_model_of_aladins_own_needs_both_pieces_around_a_text(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is ''; expected a piece of the tokenizer, such as \[CLS\]"):
        ModelConfig(preprocessing=Preprocessing(**{name: ""}))  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["mean = [0.0, 0.0, 0.0]", "deviation = [128.0, 128.0, 1.0]"])
def test_an_exported_model_of_another_mean_or_deviation_than_its_graph_is_not_opened(folder: Path, setting: str) -> None:
    other = rewritten(folder, "[card]", f"[preprocessing]\n{setting}\n[card]")
    with pytest.raises(
        ModelError,
        match=r"model\.toml describes another model than its graphs are: mean and deviation in \[preprocessing\] are .*, but "
        r"the image networks were trained with 127\.0 and 128\.0 for every colour; set them to these, or leave them out$",
    ):
        ModelFolder.open(other)


@pytest.mark.parametrize("table", ["[preprocessing]\nsize = 32", "[preprocesing]\nsize = 16", "[other]"])
def test_a_size_that_the_graph_does_not_take_is_named_with_the_one_that_it_takes(folder: Path, table: str) -> None:
    other = rewritten(folder, f"size = {SIZE}\n", "")
    settings = other / "model.toml"
    settings.write_text(settings.read_text() + f"{table}\n")
    size = model_config(other).preprocessing.size
    with pytest.raises(ModelError) as caught:
        Encoder.load(other).encode_images(np.zeros((1, size, size, 3), dtype=np.uint8))
    assert str(caught.value) == (
        f"size in [preprocessing] of {settings} is {size} px, 224 if it is left out, but image.onnx takes pictures of "
        f"{SIZE} x {SIZE} px; write size = {SIZE} there"
    )
    settings.write_text(settings.read_text().replace(table, f"[preprocessing]\nsize = {SIZE}"))  # as it says
    assert len(Encoder.load(other).encode_images(np.ones((1, SIZE, SIZE, 3), dtype=np.uint8)).vectors) == 1


@pytest.mark.parametrize(("key", "value"), [("fit", "pad"), ("resampling", "nearest")])
def test_what_is_not_implemented_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} in .* is '{value}'; expected one of"):
        from_table(ModelConfig, {"preprocessing": {key: value}})


def test_a_table_is_read_back_as_it_was_written() -> None:
    config = dataclasses.replace(TINY, preprocessing=Preprocessing(64, mean=(1.0, 2.0, 3.0), first_piece="<s>"))
    assert from_table(ModelConfig, to_table(config)) == config


def test_a_text_stands_between_the_pieces_that_are_named(tmp_path: Path) -> None:
    preprocessing = Preprocessing(first_piece="[UNK]", last_piece="[PAD]", caption_pieces=4)
    pieces = WordPieces.of(write_tokenizer(tmp_path), preprocessing).encode(["red green blue"])
    assert pieces.words == (("[UNK]", "red", "green", "[PAD]"),)
    assert pieces.truncated == (True,)


def test_image_networks_take_no_pixels_of_another_mean() -> None:
    other = dataclasses.replace(TINY, preprocessing=dataclasses.replace(TINY.preprocessing, mean=(0.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match=r"mean and deviation in .* are \[0\.0, 0\.0, 0\.0\] .* trained with 127"):
        new_backbone(other)
