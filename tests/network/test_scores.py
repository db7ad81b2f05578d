import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.encoder.config import Pooling
from aladin.network.scores import alignment_scores, matching_scores
from aladin.network.tensors import Tokens
from tests import reference
from tests.strategies import DIM, TokenBatch, padded, token_batches, unit_rows

POOLINGS = get_args(Pooling)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
@given(batch=token_batches())
def test_a_score_is_what_its_definition_says(pooling: Pooling, batch: TokenBatch) -> None:
    expected = reference.alignment_matrix(batch.images, batch.captions, pooling)
    actual = alignment_scores(batch.regions, batch.words, pooling)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
@given(batch=token_batches(), extra=st.integers(1, 4))
def test_padding_does_not_change_a_score(pooling: Pooling, batch: TokenBatch, extra: int) -> None:
    longer = alignment_scores(padded(batch.images, extra), padded(batch.captions, extra), pooling)
    assert_close(longer, alignment_scores(batch.regions, batch.words, pooling), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
@given(batch=token_batches(), seed=st.integers(0, 999))
def test_the_order_of_a_batch_does_not_change_a_score(pooling: Pooling, batch: TokenBatch, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(len(batch.images)), random.permutation(len(batch.captions))
    shuffled = alignment_scores(batch.regions[torch.from_numpy(rows)], batch.words[torch.from_numpy(columns)], pooling)
    assert_close(shuffled, alignment_scores(batch.regions, batch.words, pooling)[rows][:, columns], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_caption_without_words_scores_zero(pooling: Pooling) -> None:
    empty = padded([np.empty((0, DIM), dtype=np.float32)])
    regions = padded([unit_rows(np.random.default_rng(0), 3)])
    assert alignment_scores(regions, empty, pooling).item() == 0.0


@pytest.mark.parametrize(("pooling", "expected"), [("MrSw", -math.inf), ("MrAVGw", -math.inf), ("MwSr", 0.0), ("sum", 0.0)])
def test_an_image_without_regions_never_wins(pooling: Pooling, expected: float) -> None:
    empty = padded([np.empty((0, DIM), dtype=np.float32)])
    words = padded([unit_rows(np.random.default_rng(0), 3)])
    assert alignment_scores(empty, words, pooling).item() == expected


def test_a_word_that_disagrees_with_every_region_lowers_the_score_even_when_regions_are_padded() -> None:
    against = torch.zeros(1, 1, DIM)
    against[0, 0, 0] = 1.0
    regions = Tokens(torch.cat([-against, torch.zeros(1, 1, DIM)], dim=1), torch.tensor([[True, False]]))
    assert alignment_scores(regions, Tokens(against, torch.tensor([[True]]))).item() == -1.0


def test_matching_scores_are_the_dot_products_of_all_pairs() -> None:
    images, captions = torch.eye(3), torch.tensor([[0.6, 0.8, 0.0]])
    assert_close(matching_scores(images, captions), torch.tensor([[0.6], [0.8], [0.0]]))
