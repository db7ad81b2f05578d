from pathlib import Path

import numpy as np
import pytest

import aladin.search.captions
from aladin.collection.indexing import index_folder
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import DataError, ModelError
from aladin.pictures.boxes import Box
from aladin.search.captions import CaptionHit, captions_of, rank_captions, read_captions
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import SearchConfig, Searcher
from tests.conftest import paint
from tests.tiny_model import COLOURS, build_tiny_model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "captions.txt"
    path.write_text("\n".join([*COLOURS, "", "red and blue", "  red ", "a zebra", "\u200b"]) + "\n")
    return path


def ranked(encoder: Encoder, file: Path, picture: Path, config: SearchConfig | None = None) -> list[CaptionHit]:
    return rank_captions(ImagePart(picture), read_captions(file, encoder), encoder, config)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("rerank", [0, 100])
def test_a_picture_finds_the_name_of_its_colour(encoder: Encoder, file: Path, photos: Path, colour: str, rerank: int) -> None:
    hits = ranked(encoder, file, photos / f"{colour}.png", SearchConfig(rerank=rerank))
    assert colour in [hit.text for hit in hits][:2]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_texts_score_is_what_a_search_for_it_gives(encoder: Encoder, file: Path, photos: Path) -> None:
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        for hit in ranked(encoder, file, photos / "pink.png"):
            found = Searcher(collection, encoder).search(Query((TextPart(hit.text),)))
            (there,) = (image for image in found.hits if image.path == "pink.png")
            assert hit.score == pytest.approx(there.score, abs=0.02)  # here the words are in int8, there the regions
            assert hit.matching_score == pytest.approx(there.matching_score, abs=0.002)


def test_lines_are_read_once_and_keep_their_number(encoder: Encoder, file: Path) -> None:
    captions = read_captions(file, encoder)
    assert captions.texts == (*COLOURS, "red and blue", "a zebra")
    assert captions.lines == (1, 2, 3, 4, 5, 6, 8, 10)


def test_explanations_add_up_and_point_into_the_picture(encoder: Encoder, file: Path, tmp_path: Path) -> None:
    picture = paint(tmp_path / "both.png", "red", "blue", size=(60, 40))
    hits = ranked(encoder, file, picture, SearchConfig(why=True))
    (both,) = (hit for hit in hits if hit.text == "red and blue")
    assert both.explanation is not None
    assert both.explanation.score == pytest.approx(both.score, abs=0.02)
    assert [(share.word, share.box.x) for share in both.explanation.shares if share.word != "and"] == [("red", 0), ("blue", 30)]
    right_half = ImagePart(picture, box=Box(30, 0, 30, 40))
    for hit in rank_captions(right_half, read_captions(file, encoder), encoder, SearchConfig(why=True)):
        assert hit.explanation is not None
        assert all(share.box.x >= 30 for share in hit.explanation.shares)


def test_texts_are_encoded_once(encoder: Encoder, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    first = read_captions(file, encoder, lambda done, total: told.append((done, total)))
    assert told[-1] == (9, 9)
    monkeypatch.setattr(aladin.search.captions, "_encoded", None)
    second = read_captions(file, encoder)
    assert first.texts == second.texts
    assert first.words == second.words
    assert np.array_equal(first.vectors, second.vectors)


def test_another_content_or_model_is_encoded_anew(encoder: Encoder, other_model_path: Path, file: Path) -> None:
    before = read_captions(file, encoder)
    file.write_text("green\nblue\n")
    assert read_captions(file, encoder).texts == ("green", "blue")
    assert len(list((file.parent / ".aladin").iterdir())) == 1
    other = read_captions(file, Encoder.load(other_model_path))
    assert not np.allclose(other.vectors[0], before.vectors[1])


@pytest.mark.parametrize("damage", [b"", b"PK", b"nothing"])
def test_a_damaged_cache_is_made_again(encoder: Encoder, file: Path, damage: bytes) -> None:
    expected = read_captions(file, encoder)
    (kept,) = (file.parent / ".aladin").iterdir()
    kept.write_bytes(damage)
    assert read_captions(file, encoder).words == expected.words
    assert kept.read_bytes() != damage


def test_where_nothing_can_be_kept_texts_are_read_all_the_same(encoder: Encoder, file: Path) -> None:
    (file.parent / ".aladin").write_text("in the way")
    assert len(read_captions(file, encoder).texts) == len(COLOURS) + 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no text; write one text a line"),
        (b" \n\n", "has no text"),
        ("\u200b\n".encode(), "has no text that the model"),
    ],
)
def test_a_file_without_texts_is_named(encoder: Encoder, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "empty.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / "empty.txt", encoder)


def test_a_file_that_is_not_there_is_named(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt cannot be read \(No such file"):
        read_captions(tmp_path / "none.txt", encoder)


@pytest.mark.parametrize(
    ("content", "wrong"), [(b"red caf\xe9\r\nblue\r\n", 7), (b"\xff\xd8\xff\xe0\x00", 0), ("red\n".encode("utf-16-le"), 1)]
)
def test_what_is_no_text_in_utf_8_is_refused(
    encoder: Encoder, photos: Path, tmp_path: Path, content: bytes, wrong: int
) -> None:
    (tmp_path / "latin.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"latin\.txt is no text in UTF-8 \(see its byte {wrong}\); give a text file"):
        read_captions(tmp_path / "latin.txt", encoder)


def test_a_mark_of_byte_order_is_no_part_of_the_first_text(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes("\ufeffred\nblue\n".encode())
    assert read_captions(tmp_path / "marked.txt", encoder).texts == ("red", "blue")
    assert captions_of(b"\xef\xbb\xbfred", "stdin", encoder).texts == ("red",)


def test_a_model_of_another_pooling_is_refused(tmp_path: Path, file: Path, photos: Path) -> None:
    encoder = Encoder.load(build_tiny_model(tmp_path / "model", "symm"))
    with pytest.raises(ModelError, match="scores by symm"):
        ranked(encoder, file, photos / "red.png")
