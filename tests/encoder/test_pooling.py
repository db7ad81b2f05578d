from typing import get_args

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from aladin.encoder.config import Pooling
from aladin.encoder.pooling import OTHER_FORM, POOLINGS, SEARCHABLE, searchable
from aladin.errors import ModelError
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens


def test_every_pooling_that_a_model_can_have_is_in_the_table() -> None:
    assert set(POOLINGS) == set(get_args(Pooling))


@pytest.mark.parametrize("pooling", [name for name, mode in POOLINGS.items() if mode is not OTHER_FORM])
def test_the_two_weights_of_a_pooling_give_the_networks_score(pooling: Pooling) -> None:
    random = np.random.default_rng(0)
    regions, words = (random.normal(size=(count, 3)).astype(np.float32) for count in (4, 5))
    cells, mode = regions @ words.T, POOLINGS[pooling]
    expected = mode.per_word(5) * cells.max(axis=0).sum() + mode.per_region(4) * cells.max(axis=1).sum()
    image, caption = (Tokens(torch.from_numpy(t)[None], torch.ones(1, len(t), dtype=torch.bool)) for t in (regions, words))
    assert_allclose(alignment_scores(image, caption, pooling).item(), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_search_knows_the_poolings_in_which_words_add(pooling: Pooling) -> None:
    if pooling in SEARCHABLE:
        assert searchable(pooling).words_add
    else:
        with pytest.raises(ModelError, match=rf"scores by {pooling}, and search knows MrSw and MrAVGw; train one of those"):
            searchable(pooling)
