import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from aladin.collection.indexing import index_folder
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.pooling import POOLINGS
from aladin.errors import AladinError, ConfigError, DataError, ModelError
from aladin.pictures.boxes import Box
from aladin.search.encoding import encode_query
from aladin.search.query import ImagePart, Query, TextPart
from tests.conftest import paint
from tests.tiny_model import build_tiny_model


@pytest.fixture
def indexed(photos: Path, encoder: Encoder) -> Iterator[Collection]:
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        yield collection


def test_weights_are_shares_of_what_is_wanted(encoder: Encoder) -> None:
    query = Query((TextPart("red", 1.0), TextPart("blue", 3.0)), without=("green",))
    encoded = encode_query(query, encoder)
    assert [part.name for part in encoded.parts] == ["red", "blue", "green"]
    assert [part.weight for part in encoded.parts] == [0.25, 0.75, -1]
    vectors = encoder.encode_texts(["red", "blue", "green"]).vectors
    assert_allclose(encoded.vector, 0.25 * vectors[0] + 0.75 * vectors[1] - vectors[2], atol=1e-6)


@given(scale=st.floats(0.01, 100))
@settings(max_examples=20)
def test_only_the_proportion_of_weights_counts(encoder_once: Encoder, scale: float) -> None:
    one = encode_query(Query((TextPart("red", 1.0), TextPart("blue", 2.0)), ("pink",)), encoder_once)
    other = encode_query(Query((TextPart("red", scale), TextPart("blue", 2 * scale)), ("pink",)), encoder_once)
    assert_allclose(other.vector, one.vector, atol=1e-6)


@pytest.fixture(scope="module")
def encoder_once(model_path: Path) -> Encoder:
    return Encoder.load(model_path, threads=1)


def test_words_are_told_as_they_were_typed(encoder: Encoder) -> None:
    (part,) = encode_query(Query((TextPart("  Red pictures,  and BLUE "),)), encoder).parts
    assert [word.text for word in part.words] == ["Red", "pictures,", "and", "BLUE"]
    assert sorted(piece for word in part.words for piece in word.pieces) == list(range(len(part.tokens)))


@pytest.mark.slow
@given(text=st.text(max_size=60))
@settings(max_examples=60)
def test_every_piece_belongs_to_one_typed_word(encoder_once: Encoder, text: str) -> None:
    try:
        (part,) = encode_query(Query((TextPart(text),)), encoder_once).parts
    except DataError:
        return
    assert [piece for word in part.words for piece in word.pieces] == list(range(len(part.tokens)))
    assert all(word.text in text for word in part.words)


@pytest.mark.parametrize(
    ("text", "truncated"),
    [
        ("r", False),
        ("the of and", False),
        ("\u202ered\u202c", False),
        ("red\ud800", False),
        ("red\0blue", False),
        ("red " * 300_000, True),
        ("\U0001f600" * 1_000_000, True),
        ("r" * 1_000_000, True),
    ],
    ids=["one character", "stop words", "direction", "surrogate", "nul", "megabyte", "emoji", "one long word"],
)
def test_whatever_is_typed_has_a_defined_answer(encoder: Encoder, text: str, truncated: bool) -> None:
    encoded = encode_query(Query((TextPart(text),)), encoder)
    assert encoded.truncated == truncated
    assert np.isfinite(encoded.vector).all()
    assert [piece for word in encoded.parts[0].words for piece in word.pieces] == list(range(len(encoded.parts[0].tokens)))


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2003"])
@pytest.mark.parametrize("place", ["wanted", "without"])
def test_an_empty_text_is_refused(text: str, place: str) -> None:
    with pytest.raises(DataError, match="the query is empty"):
        Query((TextPart(text),)) if place == "wanted" else Query((TextPart("red"),), (text,))


@pytest.mark.parametrize("text", ["\0", "\u200b", "\u202e\u202c"])
def test_a_text_without_a_word_is_refused(encoder: Encoder, text: str) -> None:
    with pytest.raises(DataError, match="has no word that the model can read"):
        encode_query(Query((TextPart(text),)), encoder)


def test_a_query_that_wants_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="the query is empty"):
        Query((), ("people",))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match="expected a finite number, more than 0"):
        Query((TextPart("red", weight),))


def test_a_condition_is_checked_before_anything_is_done() -> None:
    with pytest.raises(ConfigError, match="there is no column widht; did you mean width"):
        Query((TextPart("red"),), where="widht > 3")


def test_a_query_is_told_in_words(tmp_path: Path) -> None:
    parts = (
        TextPart("a dog"),
        TextPart("snow", 2.0),
        ImagePart(Path("a.jpg"), 0.5, Box(1, 2, 3, 4)),
        ImagePart(7),
        ImagePart(b"x"),
    )
    query = Query(parts, ("people",), "width > 3")
    assert str(query) == "a dog + 2 x snow + 0.5 x a.jpg[1,2,3,4] + image 7 + the given image without people where width > 3"


# Images.


def test_an_image_is_the_same_by_path_content_and_id(indexed: Collection, encoder: Encoder, photos: Path) -> None:
    row = indexed.row_at("red.png")
    assert row is not None
    by_path, by_content, by_id = (
        encode_query(Query((ImagePart(source),)), encoder, indexed)
        for source in (photos / "red.png", (photos / "red.png").read_bytes(), row.id)
    )
    assert_array_equal(by_path.vector, by_content.vector)
    assert_allclose(by_id.vector, by_path.vector, atol=1e-3)
    assert_allclose(by_id.parts[0].tokens, by_path.parts[0].tokens, atol=1e-2)
    assert by_id.parts[0].boxes == by_path.parts[0].boxes == Box(0, 0, 32, 24).cells(2)
    assert by_id.excluded == by_path.excluded == {row.id}
    assert by_content.excluded == frozenset()


def test_an_image_that_is_offline_can_still_be_asked_by_its_id(indexed: Collection, encoder: Encoder, photos: Path) -> None:
    row = indexed.row_at("red.png")
    assert row is not None
    (photos / "red.png").unlink()
    assert encode_query(Query((ImagePart(row.id),)), encoder, indexed).parts[0].tokens.shape == (4, 8)
    with pytest.raises(DataError, match=r"there is no image file .*red\.png"):
        encode_query(Query((ImagePart(row.id, box=Box(0, 0, 5, 5)),)), encoder, indexed)


def test_a_box_asks_for_what_it_cuts_out(encoder: Encoder, tmp_path: Path) -> None:
    path = paint(tmp_path / "both.png", "red", "blue")
    (part,) = encode_query(Query((ImagePart(path, box=Box(0, 0, 14, 24)),)), encoder).parts
    red = encoder.encode_texts(["red"]).vectors[0]
    assert part.vector @ red > 0.97
    assert part.boxes == Box(0, 0, 14, 24).cells(2)
    assert part.pooling == POOLINGS["MrAVGw"]


def test_a_box_is_in_displayed_coordinates(encoder: Encoder, tmp_path: Path) -> None:
    upright = Image.open(paint(tmp_path / "both.png", "red", "blue"))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # the viewer turns it back
    turned.save(tmp_path / "turned.png", exif=exif)
    one, other = (
        encode_query(Query((ImagePart(tmp_path / name, box=Box(17, 1, 12, 20)),)), encoder)
        for name in ("both.png", "turned.png")
    )
    assert_allclose(other.vector, one.vector, atol=1e-6)
    assert other.parts[0].boxes == one.parts[0].boxes


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda folder: ImagePart(folder / "none.png"), "there is no image file .*none.png"),
        (lambda folder: ImagePart(folder), "there is no image file"),
        (lambda folder: ImagePart(b"no image"), "the given image is not an image of a known format"),
        (lambda folder: ImagePart(b""), "the given image"),
        (lambda folder: ImagePart(99), "the collection has no image 99"),
        (lambda folder: ImagePart(99, box=Box(0, 0, 1, 1)), "the collection has no image 99"),
        (lambda folder: ImagePart(folder / "red.png", box=Box(50, 0, 5, 5)), "is outside the picture, which has 32 x 24 px"),
    ],
)
def test_an_image_that_cannot_be_asked_is_named(
    indexed: Collection, encoder: Encoder, photos: Path, part: object, message: str
) -> None:
    with pytest.raises(AladinError, match=message):
        encode_query(Query((part(photos),)), encoder, indexed)  # type: ignore[operator]


def test_an_image_without_a_vector_is_named(indexed: Collection, encoder: Encoder, photos: Path) -> None:
    (photos / "red.png").write_bytes(b"")
    index_folder(indexed, encoder)  # type: ignore[arg-type]
    row = indexed.row_at("red.png")
    assert row is not None
    with pytest.raises(DataError, match=f"has no vector of image {row.id}, which is failed"):
        encode_query(Query((ImagePart(row.id),)), encoder, indexed)


def test_an_id_needs_a_collection(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="only within a collection"):
        encode_query(Query((ImagePart(1),)), encoder)


def test_a_black_image_has_no_direction(encoder: Encoder, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "black.png")
    with pytest.raises(DataError, match=r"the model has no finite vector for .*black.png"):
        encode_query(Query((ImagePart(tmp_path / "black.png"),)), encoder)


def test_a_model_of_another_pooling_is_refused(tmp_path: Path) -> None:
    encoder = Encoder.load(build_tiny_model(tmp_path / "model", "symm"))
    with pytest.raises(ModelError, match="scores by symm"):
        encode_query(Query((TextPart("red"),)), encoder)


def test_a_copy_is_not_the_image_itself(indexed: Collection, encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(photos / "red.png", tmp_path / "copy.png"))
    assert encode_query(Query((ImagePart(copy),)), encoder, indexed).excluded == frozenset()
