import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.errors import DataError
from aladin.network.principal_axes import principal_axes
from tests.strategies import DIM, padded
from tests.tiny_learning import few_examples


@st.composite
def sequences(draw: st.DrawFn) -> list[np.ndarray]:
    """4 to 6 sequences of tokens with a mean far from 0, longer in some directions than in others."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(2, 5), min_size=4, max_size=6))
    return [((random.normal(size=(n, DIM)) + 1) * 2.0 ** np.arange(DIM)).astype(np.float32) for n in lengths]


@pytest.mark.slow
@few_examples
@given(rows=sequences(), extra=st.integers(0, 3), count=st.integers(1, DIM))
def test_axes_are_the_first_right_singular_vectors_of_all_real_tokens(rows: list[np.ndarray], extra: int, count: int) -> None:
    axes = principal_axes([padded(rows[:2], extra), padded(rows[2:])], count)
    expected = np.linalg.svd(np.concatenate(rows).astype(np.float64), full_matrices=False)[2][:count]
    assert axes.shape == (count, DIM)
    assert_close(axes @ axes.T, torch.eye(count), atol=1e-5, rtol=0)
    # Equal but for their signs, which cosines do not depend on.
    assert_close((axes.double() * torch.from_numpy(expected)).sum(dim=1).abs(), torch.ones(count).double(), atol=1e-4, rtol=0)


def test_fewer_tokens_than_axes_are_refused() -> None:
    tokens = padded([np.ones((3, DIM), dtype=np.float32)], 4)
    assert principal_axes([tokens], 3).shape == (3, DIM)
    with pytest.raises(DataError, match="there are 3 tokens to find 4 principal axes of; expected at least as many"):
        principal_axes([tokens], 4)
    with pytest.raises(DataError, match="there are 0 tokens"):
        principal_axes([], 1)
