from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aladin.encoder.encoder import Encoder
from aladin.pictures.boxes import Box
from aladin.search.drawing import COLOURS as FRAMES
from aladin.search.drawing import LINE, MARGIN, PANEL, SHOWN_WORDS, drawn
from aladin.search.encoding import encode_query
from aladin.search.explain import Explanation, Share, explain, explain_file
from aladin.search.query import ImagePart, Query, TextPart
from tests.conftest import paint
from tests.tiny_model import COLOURS


@settings(max_examples=5)
@given(
    width=st.integers(1, 400), height=st.integers(1, 400), words=st.lists(st.sampled_from([*COLOURS, "\u202ex"]), min_size=1)
)
def test_a_drawing_shows_the_whole_picture(encoder_once: Encoder, width: int, height: int, words: list[str]) -> None:
    query = encode_query(Query((TextPart(" ".join(words)),)), encoder_once)
    regions = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    sheet = drawn(
        Image.new("RGB", (width, height), "red"), explain(query, regions, Box(0, 0, width, height).cells(2), 8), "a title"
    )
    assert sheet.width > 900 * width / max(width, height)
    assert sheet.height >= 900 * height / max(width, height)


@pytest.fixture(scope="module")
def encoder_once(model_path: Path) -> Encoder:
    return Encoder.load(model_path, threads=1)


def test_a_drawing_frames_the_chosen_regions(encoder: Encoder, tmp_path: Path) -> None:
    path = paint(tmp_path / "both.png", "red", "blue", size=(90, 45))
    query = encode_query(Query((TextPart("red blue"),)), encoder)
    with Image.open(path) as image:
        sheet = np.asarray(drawn(image, explain_file(query, path, encoder), "red blue")).astype(int)
        plain = np.asarray(image.convert("RGB").resize((900, 450), Image.Resampling.LANCZOS)).astype(int)
    changed = np.abs(sheet[16:466, 16:916] - plain).sum(axis=2) > 60
    assert changed[0, :450].all() or changed[224, :450].all()
    assert changed[:, 450:].any()
    assert not changed[100:200, 200:400].any()


def test_of_an_image_query_the_agreeing_regions_stay_light(encoder: Encoder, tmp_path: Path) -> None:
    path, red = paint(tmp_path / "both.png", "red", "blue"), paint(tmp_path / "red.png", "red")
    explanation = explain_file(encode_query(Query((ImagePart(red, box=Box(0, 0, 30, 20)),)), encoder), path, encoder)
    assert {share.box.x for share in explanation.shares} == {0}
    with Image.open(path) as image:
        sheet = np.asarray(drawn(image, explanation, "red"))
    assert sheet[100:200, 100:300].mean() > 1.5 * sheet[100:200, 600:800].mean()


# Drawings of explanations that are given, on a picture of 90 x 90 px with nine regions.

CELLS = Box(0, 0, 90, 90).cells(3)


def explained(*words: tuple[str, int, float]) -> Explanation:
    """Each word, its region and what it adds."""
    shares = tuple(Share("a text", word, None, CELLS[region], region, 0.5, adds) for word, region, adds in words)
    return Explanation(sum(share.contribution for share in shares), 0.0, shares)


def sheet_of(explanation: Explanation, title: str = "a title") -> np.ndarray:
    return np.asarray(drawn(Image.new("RGB", (90, 90), "grey"), explanation, title)).astype(int)


def pixels_of(sheet: np.ndarray, colour: str, rows: slice = slice(None), columns: slice = slice(None)) -> int:
    """How many pixels have exactly this colour."""
    rgb = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return int((sheet[rows, columns] == rgb).all(axis=2).sum())


def bars(sheet: np.ndarray, words: int) -> Sequence[int]:
    """How many pixels of its colour each word has in the list beside the picture."""
    return [pixels_of(sheet, FRAMES[word], columns=slice(900 + 2 * MARGIN, None)) for word in range(words)]


def test_words_have_frames_and_bars_of_one_colour_each_the_strongest_first() -> None:
    sheet = sheet_of(explained(("weak", 8, 0.1), ("strong", 0, 0.4)))
    top_left, bottom_right = slice(MARGIN, MARGIN + 300), slice(MARGIN + 600, MARGIN + 900)
    assert pixels_of(sheet, FRAMES[0], top_left, top_left) > 4000
    assert pixels_of(sheet, FRAMES[1], bottom_right, bottom_right) > 4000
    assert pixels_of(sheet, FRAMES[0], bottom_right, bottom_right) == 0


def test_a_bar_is_as_long_as_what_its_word_adds() -> None:
    strong, half = bars(sheet_of(explained(("strong", 0, 0.4), ("half", 4, 0.2))), 2)
    assert half == pytest.approx(strong / 2, rel=0.05)


def test_what_takes_away_has_an_empty_bar() -> None:
    adds, takes = bars(sheet_of(explained(("adds", 0, 0.3), ("takes", 4, -0.3))), 2)
    assert 0 < takes < adds / 2


def test_words_that_share_a_region_have_one_frame() -> None:
    one = sheet_of(explained(("dog", 4, 0.4), ("snow", 4, 0.3)))
    photograph = slice(MARGIN, MARGIN + 900)
    assert pixels_of(one, FRAMES[0], photograph, photograph) > 4000
    assert pixels_of(one, FRAMES[1], photograph, photograph) == 0


def test_of_many_words_the_strongest_are_listed() -> None:
    words = [(f"word {place}", place % 9, 0.01 * (place + 1)) for place in range(SHOWN_WORDS + 30)]
    under_the_score = slice(MARGIN + 2 * LINE, None)
    every, strongest = (sheet_of(explained(*some))[under_the_score] for some in (words, words[-SHOWN_WORDS:]))
    np.testing.assert_array_equal(every[:, 900 + 2 * MARGIN :], strongest[:, 900 + 2 * MARGIN :])


def test_characters_that_turn_or_break_a_line_are_drawn_as_blanks() -> None:
    evil, plain = "a\u202eb\nc\x1bd", "a b c d"
    np.testing.assert_array_equal(sheet_of(explained((evil, 0, 0.3)), evil), sheet_of(explained((plain, 0, 0.3)), plain))


def test_the_sheet_has_room_for_picture_and_list() -> None:
    sheet = sheet_of(explained(("dog", 0, 0.4)))
    assert sheet.shape == (900 + 2 * MARGIN, 900 + PANEL + 3 * MARGIN, 3)


def test_what_adds_nothing_can_be_drawn() -> None:
    assert sheet_of(explained(("dog", 0, 0.0))).shape[2] == 3
    alike = Explanation(0.0, 0.0, tuple(Share("x", None, CELLS[0], CELLS[n], n, 0.5, 0.1) for n in range(9)))
    assert sheet_of(alike)[MARGIN + 10, MARGIN + 10].tolist() == [128, 128, 128]  # equal regions stay light
