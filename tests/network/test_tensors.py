import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.network.tensors import Tokens, concatenate, pad_tokens
from tests.strategies import DIM, padded
from tests.tiny_learning import few_examples

lengths = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=3)


def real(tokens: Tokens) -> list[torch.Tensor]:
    return [states[mask] for states, mask in zip(tokens.states, tokens.mask, strict=True)]


@few_examples
@given(lengths=lengths, seed=st.integers(0, 999))
def test_concatenating_parts_keeps_every_real_token_in_order(lengths: list[list[int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [[random.normal(size=(n, DIM)).astype(np.float32) for n in part] for part in lengths]
    whole = concatenate([padded(part) for part in parts])
    rows = [row for part in parts for row in part]
    assert len(whole) == len(rows)
    for actual, row in zip(real(whole), rows, strict=True):
        assert_close(actual, torch.from_numpy(row))


def test_rows_are_chosen_with_their_masks() -> None:
    tokens = padded([np.full((n, DIM), n, dtype=np.float32) for n in (1, 3, 2)])
    chosen = tokens[torch.tensor([2, 0])]
    assert [len(row) for row in real(chosen)] == [2, 1]
    assert torch.equal(tokens[1:].states, tokens.states[1:])


def test_padding_appends_cells_that_are_not_real_and_never_cuts() -> None:
    tokens = padded([np.ones((2, DIM), dtype=np.float32)])
    longer = pad_tokens(tokens, 5)
    assert longer.mask.tolist() == [[True, True, False, False, False]]
    assert torch.equal(longer.states[:, :2], tokens.states)
    with pytest.raises(AssertionError, match="never cuts"):
        pad_tokens(tokens, 1)
