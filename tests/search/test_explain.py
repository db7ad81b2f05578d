from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from PIL import Image

from aladin.collection.indexing import index_folder
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.tokens import token_blob, tokens_from_blobs
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.pooling import MUTUAL, POOLINGS, SEARCHABLE, PoolingMode
from aladin.encoder.word_pieces import TypedWord
from aladin.errors import DataError
from aladin.pictures.boxes import Box
from aladin.search.alignment import alignment_scores, token_similarity
from aladin.search.encoding import EncodedPart, EncodedQuery, encode_query
from aladin.search.explain import by_region, explain, explain_file
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import SearchConfig, Searcher
from tests.conftest import paint


@pytest.fixture
def indexed(photos: Path, encoder: Encoder) -> Iterator[Collection]:
    paint(photos / "both.png", "red", "blue", size=(60, 40))
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        yield collection


QUERIES = [
    Query((TextPart("a red picture and blue pictures"),)),
    Query((TextPart("red", 1.0), TextPart("green and white", 2.5)), without=("blue", "a pink picture")),
    Query((ImagePart(1),)),
    Query((ImagePart(2), TextPart("white")), without=("red",)),
    Query((ImagePart(3, box=Box(0, 0, 9, 9)),)),
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_what_the_shares_add_is_the_score(indexed: Collection, encoder: Encoder, query: Query) -> None:
    searcher = Searcher(indexed, encoder)
    hits = searcher.search(query, SearchConfig(why=True)).hits
    assert hits
    for hit in hits:
        found = hit.explanation
        assert found is not None
        assert found.whole + sum(share.contribution for share in found.shares) == pytest.approx(hit.score, abs=1e-5)
        assert found.score == pytest.approx(hit.score, abs=1e-5)
        assert searcher.explain(query, hit.id) == found


def part(name: str, random: np.random.Generator, tokens: int, weight: float, pooling: PoolingMode) -> EncodedPart:
    states = random.normal(size=(tokens, 5)).astype(np.float32)
    if pooling.regions_choose:
        return EncodedPart(name, weight, states[0], states, pooling, boxes=tuple(Box(n, 0, 1, 1) for n in range(tokens)))
    cuts = sorted({0, *random.integers(0, tokens, 3).tolist()})
    words = [tuple(range(start, end)) for start, end in zip(cuts, [*cuts[1:], tokens], strict=True)]
    return EncodedPart(name, weight, states[0], states, pooling, words=tuple(TypedWord(str(w), w) for w in words))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    poolings=st.lists(st.sampled_from([*(POOLINGS[name] for name in SEARCHABLE), MUTUAL]), min_size=4, max_size=4),
    token_dim=st.sampled_from([3, 5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_shares_and_what_the_picture_adds_as_a_whole_add_up_for_any_tokens(
    sizes: list[int], poolings: list[PoolingMode], token_dim: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    parts = tuple(
        part(f"part {place}", random, size, float(random.normal()), pooling)
        for place, (size, pooling) in enumerate(zip(sizes, poolings, strict=False))
    )
    regions = random.normal(size=(4, 5)).astype(np.float32)
    for tokens in (regions, *(part.tokens for part in parts)):
        tokens[:, token_dim:] = tokens[0, token_dim:]  # the same in all tokens of one item, but for what int8 makes of them
    regions = tokens_from_blobs([token_blob(regions)], 5).restored()[0]
    expected = sum(
        float(alignment_scores(token_similarity(regions[None], p.tokens), np.ones((1, 4), dtype=bool), p.pooling)[0]) * p.weight
        for p in parts
    )
    explanation = explain(EncodedQuery(parts), regions, Box(0, 0, 10, 10).cells(2), token_dim)
    assert explanation.score == pytest.approx(expected, abs=1e-5)
    assert sum(by_region(explanation).values()) + explanation.whole == pytest.approx(expected, abs=1e-5)
    assert (explanation.whole == 0) == (token_dim == 5)
    for share in explanation.shares:
        assert share.box == Box(0, 0, 10, 10).cells(2)[share.region]


def test_a_word_points_at_what_it_names(encoder: Encoder, tmp_path: Path) -> None:
    path = paint(tmp_path / "both.png", "red", "blue", size=(60, 40))
    query = encode_query(Query((TextPart("Red pictures and BLUE"),)), encoder)
    shares = {share.word: share for share in explain_file(query, path, encoder).shares}
    assert list(shares) == ["Red", "pictures", "and", "BLUE"]
    assert shares["Red"].box.x == 0
    assert shares["BLUE"].box.x == 30
    assert (shares["Red"].box.width, shares["Red"].box.height) == (30, 20)
    assert shares["Red"].similarity > 0.9 > 0.5 > abs(shares["and"].similarity)


def test_unwanted_words_take_away(encoder: Encoder, tmp_path: Path) -> None:
    path = paint(tmp_path / "both.png", "red", "blue")
    shares = explain_file(encode_query(Query((TextPart("red"),), ("blue",)), encoder), path, encoder).shares
    assert [share.word for share in shares] == ["red", "blue"]
    assert shares[0].contribution > 0.9
    assert shares[1].contribution < -0.9


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_are_in_the_coordinates_that_a_viewer_shows(encoder: Encoder, tmp_path: Path, orientation: int) -> None:
    upright = Image.open(paint(tmp_path / "both.png", "red", "blue", size=(60, 40)))
    undo = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    turned = upright if undo is None else upright.transpose(undo)
    exif = turned.getexif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "turned.png", exif=exif)
    query = encode_query(Query((TextPart("red blue"),)), encoder)
    expected, found = (explain_file(query, tmp_path / name, encoder) for name in ("both.png", "turned.png"))
    assert [share.box for share in found.shares] == [share.box for share in expected.shares]
    assert_allclose(found.score, expected.score, atol=1e-6)


def test_a_file_is_explained_as_in_a_collection(indexed: Collection, encoder: Encoder, photos: Path) -> None:
    query = Query((TextPart("red and blue"),))
    row = indexed.row_at("both.png")
    assert row is not None
    assert explain_file(encode_query(query, encoder), photos / "both.png", encoder) == Searcher(indexed, encoder).explain(
        query, row.id
    )


@pytest.mark.parametrize("name", ["none.png", ".", "broken.png"])
def test_a_file_that_is_no_image_is_named(encoder: Encoder, tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"there is no image file|is not an image of a known format"):
        explain_file(encode_query(Query((TextPart("red"),)), encoder), tmp_path / name, encoder)


def test_an_unknown_id_is_a_key_error(indexed: Collection, encoder: Encoder) -> None:
    with pytest.raises(KeyError):
        Searcher(indexed, encoder).explain(Query((TextPart("red"),)), 99)
