import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

import aladin.network.scores
from aladin.collection.tokens import QuantizedTokens, token_blob, tokens_from_blobs
from aladin.encoder.config import Pooling
from aladin.encoder.pooling import MUTUAL, POOLINGS, SEARCHABLE
from aladin.network.tensors import Tokens
from aladin.search.alignment import alignment_scores, best_regions, token_similarity
from tests.reference import alignment, mutual_alignment

ASKED = {**{name: POOLINGS[name] for name in SEARCHABLE}, "mutual": MUTUAL}  # those that a search asks by
counts = st.lists(st.integers(1, 5), min_size=1, max_size=4)
queries = st.integers(1, 6).flatmap(lambda words: arrays(np.float32, (words, 3), elements=st.floats(-1, 1, width=32)))


def image_tokens(lengths: list[int], seed: int = 0) -> QuantizedTokens:
    random = np.random.default_rng(seed)
    sets = [random.normal(size=(length, 3)).astype(np.float32) for length in lengths]
    return tokens_from_blobs([token_blob(tokens) for tokens in sets], dim=3)


def slow_score(regions: np.ndarray, words: np.ndarray, pooling: str) -> float:
    return mutual_alignment(regions, words) if pooling == "mutual" else alignment(regions, words, pooling)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", SEARCHABLE)
@given(lengths=counts, words=queries)
def test_scores_without_pytorch_equal_those_with_it(lengths: list[int], words: np.ndarray, pooling: Pooling) -> None:
    tokens = image_tokens(lengths)
    regions = Tokens(torch.from_numpy(tokens.restored()), torch.from_numpy(tokens.mask))
    caption = Tokens(torch.from_numpy(words)[None], torch.ones(1, len(words), dtype=torch.bool))
    expected = aladin.network.scores.alignment_scores(regions, caption, pooling)[:, 0].numpy()
    assert_allclose(
        alignment_scores(token_similarity(tokens.restored(), words), tokens.mask, POOLINGS[pooling]), expected, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ASKED)
@given(lengths=counts, words=queries)
def test_scores_equal_the_slow_ones(lengths: list[int], words: np.ndarray, pooling: str) -> None:
    tokens = image_tokens(lengths)
    scores = alignment_scores(token_similarity(tokens.restored(), words), tokens.mask, ASKED[pooling])
    for row, score in enumerate(scores):
        assert score == pytest.approx(slow_score(tokens.restored()[row][tokens.mask[row]], words, pooling), abs=1e-5)


@pytest.mark.parametrize("pooling", ASKED)
@given(lengths=counts, words=queries, padding=st.integers(0, 3))
def test_padded_regions_change_no_score(lengths: list[int], words: np.ndarray, padding: int, pooling: str) -> None:
    tokens = image_tokens(lengths)
    similarity = token_similarity(tokens.restored(), words)
    padded = np.pad(similarity, ((0, 0), (0, padding), (0, 0)), constant_values=9)
    mask = np.pad(tokens.mask, ((0, 0), (0, padding)))
    assert_allclose(
        alignment_scores(padded, mask, ASKED[pooling]), alignment_scores(similarity, tokens.mask, ASKED[pooling]), atol=1e-6
    )


@given(first=st.integers(1, 5), second=st.integers(1, 5), seed=st.integers(0, 1000))
def test_two_images_are_as_alike_from_either_side(first: int, second: int, seed: int) -> None:
    a, b = image_tokens([first], seed), image_tokens([second], seed + 1)
    there = alignment_scores(token_similarity(a.restored(), b.restored()[0]), a.mask, MUTUAL)
    back = alignment_scores(token_similarity(b.restored(), a.restored()[0]), b.mask, MUTUAL)
    assert_allclose(there, back, atol=1e-5)


@pytest.mark.parametrize("pooling", SEARCHABLE)
def test_an_image_without_regions_comes_last_and_a_query_without_words_scores_zero(pooling: Pooling) -> None:
    mask = np.array([[True], [False]])
    assert alignment_scores(np.ones((2, 1, 3), np.float32), mask, POOLINGS[pooling])[1] == -np.inf
    assert alignment_scores(np.ones((2, 1, 0), np.float32), mask, POOLINGS[pooling]).tolist() == [0, 0]


@pytest.mark.parametrize("pooling", ASKED)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=1), words=queries)
def test_what_words_and_regions_add_makes_up_the_score(lengths: list[int], words: np.ndarray, pooling: str) -> None:
    tokens = image_tokens(lengths)
    mode, similarity = ASKED[pooling], token_similarity(tokens.restored(), words)
    _, of_words = best_regions(similarity[0])
    _, of_regions = best_regions(np.ascontiguousarray(similarity[0].T))
    total = mode.per_word(len(words)) * of_words.sum() + mode.per_region(lengths[0]) * of_regions.sum()
    assert_allclose(alignment_scores(similarity, tokens.mask, mode), [total], atol=1e-5)


@given(words=st.integers(0, 30), images=st.integers(1, 3))
def test_words_are_multiplied_in_portions_without_a_trace(words: int, images: int) -> None:
    random = np.random.default_rng(words)
    regions, every = (random.normal(size=shape).astype(np.float32) for shape in ((images, 49, 384), (words, 384)))
    expected = np.einsum("ird,wd->irw", regions.astype(np.float64), every.astype(np.float64))
    assert_allclose(token_similarity(regions, every), expected, atol=1e-3)
