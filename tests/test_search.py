import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

import aladin.collection
import aladin.scores
from aladin.collection import Collection, default_place
from aladin.collection_writer import CollectionWriter, FileState, Photograph
from aladin.encode import Encoder
from aladin.errors import ConfigError, DataError, IndexMismatch, ModelError
from aladin.indexing import index_folder
from aladin.quantized import QuantizedTokens, token_blob, tokens_from_blobs
from aladin.search import (
    ImageQuery,
    QueryPooling,
    SearchConfig,
    TextQuery,
    alignment_of,
    alignment_scores,
    encode_query,
    nearest,
    search,
    token_similarity,
)
from aladin.tensors import Tokens
from tests.conftest import fill, paint
from tests.tiny_model import COLOURS, build_tiny_model

POOLINGS: list[QueryPooling] = ["MrSw", "MrAVGw", "mutual"]
counts = st.lists(st.integers(1, 5), min_size=1, max_size=4)
queries = st.integers(1, 6).flatmap(lambda words: arrays(np.float32, (words, 3), elements=st.floats(-1, 1, width=32)))


def image_tokens(lengths: list[int], seed: int = 0) -> QuantizedTokens:
    random = np.random.default_rng(seed)
    sets = [random.normal(size=(length, 3)).astype(np.float32) for length in lengths]
    return tokens_from_blobs([token_blob(tokens) for tokens in sets], dim=3)


def restored(tokens: QuantizedTokens) -> np.ndarray:
    return tokens.values * tokens.scales[:, :, None]


def slow_score(regions: np.ndarray, words: np.ndarray, pooling: QueryPooling) -> float:
    cosines = [[float(np.dot(region, word)) for region in regions] for word in words]
    best_regions = [max(row) for row in cosines]
    best_words = [max(row[place] for row in cosines) for place in range(len(regions))]
    if pooling == "MrSw":
        return sum(best_regions)
    mean = sum(best_regions) / len(best_regions)
    return mean if pooling == "MrAVGw" else (mean + sum(best_words) / len(best_words)) / 2


# Scores.


@pytest.mark.parametrize("pooling", ["MrSw", "MrAVGw"])
@given(lengths=counts, words=queries)
def test_scores_without_pytorch_equal_those_with_it(lengths: list[int], words: np.ndarray, pooling: QueryPooling) -> None:
    tokens = image_tokens(lengths)
    regions = Tokens(torch.from_numpy(restored(tokens)), torch.from_numpy(tokens.mask))
    caption = Tokens(torch.from_numpy(words)[None], torch.ones(1, len(words), dtype=torch.bool))
    expected = aladin.scores.alignment_scores(regions, caption, pooling)[:, 0].numpy()
    assert_allclose(alignment_scores(token_similarity(tokens, words), tokens.mask, pooling), expected, atol=1e-5)
    assert_allclose(alignment_scores(token_similarity(restored(tokens), words), tokens.mask, pooling), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(lengths=counts, words=queries)
def test_scores_equal_the_slow_ones(lengths: list[int], words: np.ndarray, pooling: QueryPooling) -> None:
    tokens = image_tokens(lengths)
    scores = alignment_scores(token_similarity(tokens, words), tokens.mask, pooling)
    for row, score in enumerate(scores):
        assert score == pytest.approx(slow_score(restored(tokens)[row][tokens.mask[row]], words, pooling), abs=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@given(lengths=counts, words=queries, padding=st.integers(0, 3))
def test_padded_regions_change_no_score(lengths: list[int], words: np.ndarray, padding: int, pooling: QueryPooling) -> None:
    tokens = image_tokens(lengths)
    similarity = token_similarity(tokens, words)
    padded = np.pad(similarity, ((0, 0), (0, padding), (0, 0)), constant_values=9)
    mask = np.pad(tokens.mask, ((0, 0), (0, padding)))
    assert_allclose(alignment_scores(padded, mask, pooling), alignment_scores(similarity, tokens.mask, pooling), atol=1e-6)


@given(first=st.integers(1, 5), second=st.integers(1, 5), seed=st.integers(0, 1000))
def test_two_images_are_as_alike_from_either_side(first: int, second: int, seed: int) -> None:
    a, b = image_tokens([first], seed), image_tokens([second], seed + 1)
    there = alignment_scores(token_similarity(a, restored(b)[0]), a.mask, "mutual")
    back = alignment_scores(token_similarity(b, restored(a)[0]), b.mask, "mutual")
    assert_allclose(there, back, atol=1e-5)


@pytest.mark.parametrize("pooling", ["MrSw", "MrAVGw"])
def test_an_image_without_regions_comes_last_and_a_query_without_words_scores_zero(pooling: QueryPooling) -> None:
    mask = np.array([[True], [False]])
    assert alignment_scores(np.ones((2, 1, 3), np.float32), mask, pooling)[1] == -np.inf
    assert alignment_scores(np.ones((2, 1, 0), np.float32), mask, pooling).tolist() == [0, 0]


# The two stages.


@pytest.fixture
def rows(encoder: Encoder, tmp_path: Path) -> Iterator[CollectionWriter]:
    with CollectionWriter.create(tmp_path / "rows.sqlite", tmp_path) as collection:
        fill(collection, encoder.model, 50)
        yield collection


def test_the_nearest_are_those_of_a_full_sort(rows: CollectionWriter, encoder: Encoder) -> None:
    query = encode_query(TextQuery("red and blue"), encoder, rows)
    vectors = np.concatenate([block for _, block in rows.vector_blocks()]).astype(np.float64)
    expected = np.argsort(-(vectors @ query.vector), kind="stable") + 1
    for count in (1, 7, 50, 80):
        numbers, scores, searched = nearest(rows, query, count)
        assert numbers.tolist() == expected[:count].tolist()
        assert (np.diff(scores) <= 0).all()
        assert searched == 50


@pytest.mark.parametrize("block", [1, 7, 50])
def test_block_size_does_not_change_the_nearest(
    rows: CollectionWriter, encoder: Encoder, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = encode_query(TextQuery("red and blue"), encoder, rows)
    whole = nearest(rows, query, 20)
    monkeypatch.setattr(aladin.collection, "BLOCK_ROWS", block)
    for found, expected in zip(nearest(rows, query, 20), whole, strict=True):
        assert_array_equal(found, expected)


@pytest.mark.parametrize("query", [TextQuery("red and a blue picture"), TextQuery("pink")])
def test_two_stages_over_everything_equal_exhaustive_alignment(
    rows: CollectionWriter, encoder: Encoder, query: TextQuery
) -> None:
    words = encode_query(query, encoder, rows).tokens
    tokens = restored(rows.tokens(range(1, 51)))
    scores = [slow_score(regions, words, "MrSw") for regions in tokens]
    expected = sorted(range(1, 51), key=lambda number: (-scores[number - 1], number))
    results = search(rows, encoder, query, SearchConfig(top=50, rerank=50))
    assert [hit.id for hit in results.hits] == expected
    assert_allclose([hit.score for hit in results.hits], sorted(scores, reverse=True), atol=1e-5)


def test_re_ranking_only_orders_the_nearest(rows: CollectionWriter, encoder: Encoder) -> None:
    query = TextQuery("green")
    matching = search(rows, encoder, query, SearchConfig(top=20, rerank=0))
    both = search(rows, encoder, query, SearchConfig(top=20, rerank=20))
    assert {hit.id for hit in both.hits} == {hit.id for hit in matching.hits}
    assert [hit.score for hit in matching.hits] == [hit.matching_score for hit in matching.hits]
    assert {hit.alignment_score for hit in matching.hits} == {None}
    assert [hit.score for hit in both.hits] == [hit.alignment_score for hit in both.hits]
    assert [hit.rank for hit in both.hits] == list(range(1, 21))


def test_no_fewer_are_re_ranked_than_asked_for(rows: CollectionWriter, encoder: Encoder) -> None:
    hits = search(rows, encoder, TextQuery("green"), SearchConfig(top=30, rerank=5)).hits
    assert len(hits) == 30
    assert None not in {hit.alignment_score for hit in hits}


@pytest.mark.parametrize("top", [1, 5, 49, 50, 500])
def test_asking_for_fewer_hits_gives_the_first_of_more(rows: CollectionWriter, encoder: Encoder, top: int) -> None:
    all_hits = search(rows, encoder, TextQuery("red"), SearchConfig(top=50, rerank=50)).hits
    assert search(rows, encoder, TextQuery("red"), SearchConfig(top=top, rerank=50)).hits == all_hits[:top]


@pytest.mark.parametrize("rerank", [0, 100])
@pytest.mark.parametrize("count", [3, 64, 257])
def test_equal_scores_are_ordered_by_id(encoder: Encoder, tmp_path: Path, rerank: int, count: int) -> None:
    with CollectionWriter.create(tmp_path / "ties.sqlite", tmp_path) as collection:
        vector, tokens = (np.random.default_rng(5).normal(size=shape).astype(np.float32) for shape in ((1, 6), (1, 4, 8)))
        collection.use_model(encoder.model)
        with collection.transaction():
            photographs = [Photograph(FileState(f"{row}.png", 1, 1), b"", 1, 1, None) for row in range(count)]
            collection.add(photographs, vector.repeat(count, 0), tokens.repeat(count, 0))
        hits = search(collection, encoder, TextQuery("red"), SearchConfig(top=count, rerank=rerank)).hits
    assert [hit.id for hit in hits] == list(range(1, count + 1))


def test_blocks_of_re_ranking_change_no_score(
    rows: CollectionWriter, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, numbers = encode_query(TextQuery("red"), encoder, rows), np.arange(50, 0, -1)
    whole = alignment_of(rows, query, numbers)
    monkeypatch.setattr("aladin.search.BLOCK_TOKEN_SETS", 7)
    assert_array_equal(alignment_of(rows, query, numbers), whole)


def test_an_empty_collection_has_no_hits(encoder: Encoder, tmp_path: Path) -> None:
    with CollectionWriter.create(tmp_path / "empty.sqlite", tmp_path) as collection:
        results = search(collection, encoder, TextQuery("red"))
    assert (results.hits, results.searched) == ((), 0)


# Photographs.


@pytest.fixture
def indexed(photos: Path, encoder: Encoder) -> Iterator[Collection]:
    with CollectionWriter.create(default_place(photos), photos) as collection:
        index_folder(collection, encoder)
    with Collection.open(default_place(photos)) as collection:
        yield collection


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("rerank", [0, 100])
def test_a_picture_is_found_by_its_colour(indexed: Collection, encoder: Encoder, colour: str, rerank: int) -> None:
    hits = search(indexed, encoder, TextQuery(f"{colour} picture"), SearchConfig(rerank=rerank)).hits
    assert hits[0].path == f"{colour}.png"
    assert (hits[0].width, hits[0].height) == (32, 24)


def test_alignment_finds_both_halves_where_one_vector_sees_a_mixture(photos: Path, encoder: Encoder) -> None:
    paint(photos / "red blue.png", "red", "blue")
    with CollectionWriter.create(default_place(photos), photos) as collection:
        index_folder(collection, encoder)
        assert search(collection, encoder, TextQuery("red and blue")).hits[0].path == "red blue.png"


def test_files_that_are_gone_or_unreadable_are_no_hits(photos: Path, encoder: Encoder) -> None:
    with CollectionWriter.create(default_place(photos), photos) as collection:
        index_folder(collection, encoder)
        (photos / "red.png").unlink()
        (photos / "blue.png").write_bytes(b"")
        index_folder(collection, encoder)
        results = search(collection, encoder, TextQuery("red and blue"))
    assert {hit.path for hit in results.hits} == {f"{colour}.png" for colour in COLOURS} - {"red.png", "blue.png"}
    assert results.searched == len(COLOURS) - 2


def test_a_query_image_of_the_collection_is_no_hit_of_its_own(indexed: Collection, encoder: Encoder, photos: Path) -> None:
    results = search(indexed, encoder, ImageQuery(photos / "red.png"))
    assert [hit.path for hit in results.hits][:1] == ["pink.png"]
    assert len(results.hits) == results.searched == len(COLOURS) - 1


def test_a_copy_elsewhere_finds_its_original(indexed: Collection, encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    hit = search(indexed, encoder, ImageQuery(Path(shutil.copy(photos / "red.png", tmp_path / "copy.png")))).hits[0]
    assert hit.path == "red.png"
    assert hit.score == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (lambda folder: TextQuery(" \n"), "the query is empty"),
        (lambda folder: TextQuery("\0"), "has no word that the model can read"),
        (lambda folder: ImageQuery(folder / "none.png"), "there is no image file .*none.png"),
        (lambda folder: ImageQuery(folder), "there is no image file"),
        (lambda folder: ImageQuery(folder / ".aladin" / "collection.sqlite"), "known format|cannot be decoded"),
    ],
)
def test_a_query_that_asks_for_nothing_is_refused(
    indexed: Collection, encoder: Encoder, photos: Path, query: Callable[[Path], TextQuery | ImageQuery], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        search(indexed, encoder, query(photos))


def test_a_long_query_is_searched_and_said_to_be_cut(indexed: Collection, encoder: Encoder) -> None:
    results = search(indexed, encoder, TextQuery("red " * 50))
    assert results.truncated
    assert results.hits[0].path == "red.png"
    assert not search(indexed, encoder, TextQuery("red")).truncated


def test_another_model_is_refused(indexed: Collection, other_model_path: Path) -> None:
    with pytest.raises(IndexMismatch):
        search(indexed, Encoder.load(other_model_path), TextQuery("red"))


@pytest.mark.parametrize(("pooling", "per_word"), [("MrSw", False), ("MrAVGw", True)])
def test_the_model_says_how_words_are_pooled(photos: Path, tmp_path: Path, pooling: str, per_word: bool) -> None:
    encoder = Encoder.load(build_tiny_model(tmp_path / "model", pooling))
    with CollectionWriter.create(tmp_path / "c.sqlite", photos) as collection:
        index_folder(collection, encoder)
        once, twice = (search(collection, encoder, TextQuery(text)).hits[0].score for text in ("red", "red red"))
    assert twice == pytest.approx(once if per_word else 2 * once, rel=1e-4)


def test_a_model_of_another_pooling_is_refused(photos: Path, tmp_path: Path) -> None:
    encoder = Encoder.load(build_tiny_model(tmp_path / "model", "symm"))
    with (
        CollectionWriter.create(tmp_path / "c.sqlite", photos) as collection,
        pytest.raises(ModelError, match="scores by symm"),
    ):
        search(collection, encoder, TextQuery("red"))


@pytest.mark.parametrize(("top", "rerank"), [(0, 1), (1, -1)])
def test_impossible_numbers_are_refused(top: int, rerank: int) -> None:
    with pytest.raises(ConfigError, match="expected at least 1 and 0"):
        SearchConfig(top, rerank)
