"""A collection by an encoder that was added: found as its cosine has it, explained, and with its own probability."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from aladin.collection.indexing import index_folder
from aladin.collection.status import status_of
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError
from aladin.search.captions import captions_of, rank_captions
from aladin.search.encoding import encode_query
from aladin.search.explain import explain_file
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import SearchConfig, Searcher
from tests.conftest import fill, paint
from tests.search.test_explain import QUERIES
from tests.tiny_model import GRID, TOKEN_DIM, build_tiny_encoder

EVERY = SearchConfig(top=100, rerank=100, why=True)
SIGMOID = "scale = 8.0\nbias = -4.0\nsigmoid = true\n"


def indexed_by(folder: Path, photos: Path, name: str = "both.png") -> tuple[Encoder, CollectionWriter]:
    paint(photos / name, "red", "blue", size=(60, 40))
    encoder, collection = Encoder.load(folder, threads=1), CollectionWriter.create(default_file(photos), photos)
    index_folder(collection, encoder)
    return encoder, collection


@pytest.fixture(params=[0.0, 0.2, 1.0], ids=str)
def searcher(request: pytest.FixtureRequest, photos: Path, tmp_path: Path) -> Iterator[Searcher]:
    encoder, collection = indexed_by(build_tiny_encoder(tmp_path / "encoder", request.param), photos)
    with collection:
        yield Searcher(collection, encoder)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_what_the_shares_add_is_the_score_at_any_share_of_regions(searcher: Searcher, query: Query) -> None:
    hits = searcher.search(query, EVERY).hits
    assert hits
    for hit in hits:
        found = hit.explanation
        assert found is not None
        assert found.whole + sum(share.contribution for share in found.shares) == pytest.approx(hit.score, abs=1e-5)
        again = searcher.explain(query, hit.id)
        assert (again.score, len(again.shares)) == (pytest.approx(found.score, abs=1e-5), len(found.shares))


def test_a_file_has_the_score_that_a_search_gives_it(searcher: Searcher) -> None:
    query = Query((TextPart("red and blue"),))
    encoded = encode_query(query, searcher.encoder)
    for hit in searcher.search(query, EVERY).hits:
        found = explain_file(encoded, searcher.collection.root / hit.path, searcher.encoder)
        assert found.score == pytest.approx(hit.score, abs=1e-5)


def test_what_is_stored_of_an_image_is_its_vector_and_its_regions_once(searcher: Searcher) -> None:
    assert searcher.collection.tokens([1]).values.shape == (1, GRID**2, TOKEN_DIM)


def test_captions_of_an_image_have_the_scores_of_a_search(searcher: Searcher) -> None:
    said = captions_of(b"red\nblue and red\ngreen", "said", searcher.encoder)
    image = next(image for image in searcher.collection.images() if image.path == "both.png")
    found = rank_captions(ImagePart(searcher.collection.root / "both.png"), said, searcher.encoder)
    for hit in found:
        hits = searcher.search(Query((TextPart(hit.text),)), EVERY).hits
        assert hit.score == pytest.approx(next(other.score for other in hits if other.id == image.id), abs=0.01)


@pytest.mark.parametrize("words", ["red", "red and a blue picture", "pink green"])
def test_without_a_share_of_regions_the_order_is_that_of_the_cosine(tmp_path: Path, words: str) -> None:
    encoder = Encoder.load(build_tiny_encoder(tmp_path / "encoder", 0.0), threads=1)
    query = Query((TextPart(words),))
    with CollectionWriter.create(tmp_path / "rows.sqlite", tmp_path) as collection:
        fill(collection, encoder.model, 300)
        fill(collection, encoder.model, 3, seed=7)
        hits = Searcher(collection, encoder).search(query, SearchConfig(top=303, rerank=303, why=True)).hits
        plain = Searcher(collection, encoder).search(query, SearchConfig(top=303, rerank=0)).hits
        cosines = collection.vectors_of([hit.id for hit in hits]).astype(np.float32) @ encoder.encode_texts([words]).vectors[0]
    assert [hit.id for hit in hits] == [hit.id for hit in plain]
    assert_allclose([hit.score for hit in hits], cosines, atol=1e-6)
    assert all(hit.explanation is not None for hit in hits)


def test_another_share_searches_the_same_collection(photos: Path, tmp_path: Path) -> None:
    _, collection = indexed_by(build_tiny_encoder(tmp_path / "one", 0.0), photos)
    other = Encoder.load(build_tiny_encoder(tmp_path / "other", 1.0), threads=1)
    query = Query((TextPart("red and blue"),))
    with collection:
        hits = Searcher(collection, other).search(query, EVERY).hits
    assert hits[0].path == "both.png"
    assert hits[0].explanation is not None
    assert hits[0].explanation.whole == pytest.approx(0, abs=1e-6)


def test_an_encoder_that_learned_by_a_sigmoid_gives_its_own_probability(photos: Path, tmp_path: Path) -> None:
    encoder, collection = indexed_by(build_tiny_encoder(tmp_path / "encoder", 0.3, encoder=SIGMOID), photos)
    with collection:
        found = Searcher(collection, encoder).search(Query((TextPart("red"),), without=("blue",)), EVERY)
        texts = encoder.encode_texts(["red", "blue"]).vectors
        red, blue = (collection.vectors_of([hit.id for hit in found.hits]).astype(np.float64) @ texts.T).T
        likely = Searcher(collection, encoder).search(Query((TextPart("red"),)), SearchConfig(min_probability=0.9)).hits
    expected = 1 / (1 + np.exp(4 - 8 * red)) * (1 - 1 / (1 + np.exp(4 - 8 * blue)))
    assert_allclose([hit.probability for hit in found.hits], expected, atol=1e-5)
    assert found.answered is None
    assert [hit.path for hit in likely] == ["red.png", "pink.png"]


def test_an_encoder_without_a_sigmoid_gives_no_probability(searcher: Searcher) -> None:
    assert {hit.probability for hit in searcher.search(QUERIES[0]).hits} == {None}
    with pytest.raises(ConfigError, match="no calibration"):
        searcher.search(QUERIES[0], SearchConfig(min_probability=0.5))


def test_a_collection_tells_what_a_cropping_encoder_does_not_see(photos: Path, tmp_path: Path) -> None:
    _, collection = indexed_by(build_tiny_encoder(tmp_path / "encoder", 0.0, 'fit = "crop"'), photos)
    with collection:
        rows = list(collection.images())
    found = status_of(default_file(photos))
    assert found.cropped_share == pytest.approx(np.mean([1 - row.height / row.width for row in rows if row.height]))  # type: ignore[operator]
    assert "26% of an image, on average, lies outside what the model sees" in found.as_text()


def test_a_model_that_squashes_sees_all(searcher: Searcher) -> None:
    assert status_of(searcher.collection.path).cropped_share is None


def test_a_region_of_a_cropped_picture_is_shown_where_it_is(photos: Path, tmp_path: Path) -> None:
    encoder, collection = indexed_by(build_tiny_encoder(tmp_path / "encoder", 1.0, 'fit = "crop"'), photos)
    with collection:
        hits = Searcher(collection, encoder).search(Query((TextPart("red and blue"),)), EVERY).hits
    (both,) = (hit for hit in hits if hit.path == "both.png")
    assert both.explanation is not None
    boxes = {share.word: share.box for share in both.explanation.shares}
    assert (boxes["red"].x, boxes["blue"].x, boxes["blue"].width) == (10, 30, 20)
