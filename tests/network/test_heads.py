import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from aladin.encoder.config import HeadsConfig
from aladin.network.heads import AlignmentHead, MatchingHead
from aladin.network.tensors import Tokens
from tests.strategies import DIM, padded
from tests.tiny_learning import few_examples

CONFIG = HeadsConfig(token_dim=DIM, matching_layers=2, matching_heads=2, matching_feed_forward=12)
NARROW = HeadsConfig(token_dim=3, matching_layers=2, matching_heads=2, matching_feed_forward=12)


@st.composite
def encoded_rows(draw: st.DrawFn) -> list[np.ndarray]:
    """States of 1 to 4 sequences with their special tokens, 2 to 7 long."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [random.normal(size=(n, DIM)).astype(np.float32) for n in draw(st.lists(st.integers(2, 7), min_size=1, max_size=4))]


@pytest.fixture(scope="module")
def matching_head() -> MatchingHead:
    torch.manual_seed(0)
    head = MatchingHead(CONFIG, DIM)
    for parameter in head.parameters():  # biases and norms too, which start at 0 and 1
        nn.init.normal_(parameter, std=0.5)
    return head.eval()


def kept(tokens: Tokens) -> list[torch.Tensor]:
    return [states[mask] for states, mask in zip(tokens.states, tokens.mask, strict=True)]


@few_examples
@given(rows=encoded_rows(), extra=st.integers(0, 3))
def test_words_are_a_caption_without_its_special_tokens_whatever_the_padding(rows: list[np.ndarray], extra: int) -> None:
    words = kept(AlignmentHead(CONFIG, DIM).words(padded(rows, extra)))
    for actual, row in zip(words, rows, strict=True):
        inner = row[1:-1]
        np.testing.assert_allclose(actual.numpy(), inner / np.linalg.norm(inner, axis=1, keepdims=True), atol=1e-6)


@few_examples
@given(rows=encoded_rows(), extra=st.integers(0, 3))
def test_regions_are_an_image_without_cls_whatever_the_padding(rows: list[np.ndarray], extra: int) -> None:
    regions = kept(AlignmentHead(CONFIG, DIM).regions(padded(rows, extra)))
    for actual, row in zip(regions, rows, strict=True):
        np.testing.assert_allclose(actual.numpy(), row[1:] / np.linalg.norm(row[1:], axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("extra", [0, 2])
def test_a_caption_has_as_many_words_as_pieces_between_the_special_ones(count: int, extra: int) -> None:
    words = AlignmentHead(CONFIG, DIM).words(padded([np.ones((count + 2, DIM), dtype=np.float32)], extra))
    assert words.mask.sum().item() == count
    assert words.mask[0, :count].all()


def test_a_caption_cut_down_to_cls_alone_has_no_words() -> None:
    words = AlignmentHead(CONFIG, DIM).words(padded([np.ones((1, DIM), dtype=np.float32)]))
    assert words.mask.sum().item() == 0


@few_examples
@given(rows=encoded_rows(), narrow=st.booleans())
def test_tokens_and_vectors_have_unit_length(rows: list[np.ndarray], narrow: bool) -> None:
    config = NARROW if narrow else CONFIG
    head = AlignmentHead(config, DIM)
    for tokens in (head.words(padded(rows)), head.regions(padded(rows))):
        lengths = tokens.states[tokens.mask].norm(dim=-1)
        assert_close(lengths, torch.ones_like(lengths))
    vectors = MatchingHead(config, DIM)(padded(rows))
    assert vectors.shape == (len(rows), DIM)
    assert_close(vectors.norm(dim=-1), torch.ones(len(rows)))


def test_a_projection_brings_both_modalities_to_token_dim_by_the_same_matrix() -> None:
    head = AlignmentHead(NARROW, DIM)
    tokens = padded([np.random.default_rng(0).normal(size=(4, DIM)).astype(np.float32)])
    (matrix,) = head.parameters()
    expected = nn.functional.normalize(tokens.states[0] @ matrix.T, dim=-1)
    assert matrix.shape == (3, DIM)
    assert_close(head.regions(tokens).states[0], expected[1:])
    assert_close(kept(head.words(tokens))[0], expected[1:-1])


def test_without_a_projection_the_alignment_head_has_no_parameters() -> None:
    assert not list(AlignmentHead(CONFIG, DIM).parameters())


@few_examples
@given(rows=encoded_rows(), extra=st.integers(1, 4))
def test_padding_and_batch_mates_do_not_change_a_vector(
    matching_head: MatchingHead, rows: list[np.ndarray], extra: int
) -> None:
    with torch.no_grad():
        together = matching_head(padded(rows, extra))
        alone = torch.cat([matching_head(padded([row])) for row in rows])
    assert_close(together, alone, atol=1e-5, rtol=0)


@few_examples
@given(rows=encoded_rows())
def test_the_vector_is_the_first_output_of_torchs_transformer_encoder(
    matching_head: MatchingHead, rows: list[np.ndarray]
) -> None:
    layer = nn.TransformerEncoderLayer(
        DIM, CONFIG.matching_heads, CONFIG.matching_feed_forward, dropout=0.0, activation="relu", batch_first=True
    )
    encoder = nn.TransformerEncoder(layer, CONFIG.matching_layers, enable_nested_tensor=False)
    encoder.load_state_dict(matching_head.state_dict())
    batch = padded(rows)
    with torch.no_grad():
        outputs = encoder(batch.states, src_key_padding_mask=~batch.mask)
        assert_close(matching_head(batch), nn.functional.normalize(outputs[:, 0], dim=-1), atol=1e-5, rtol=0)


@few_examples
@given(rows=encoded_rows())
def test_learning_and_using_the_head_give_the_same_vector(matching_head: MatchingHead, rows: list[np.ndarray]) -> None:
    learning = matching_head.train()(padded(rows))
    with torch.no_grad():  # torch has another kernel for this case
        using = matching_head.eval()(padded(rows))
    assert_close(using, learning.detach(), atol=1e-5, rtol=0)


def test_the_vector_depends_on_every_real_token(matching_head: MatchingHead) -> None:
    batch = padded([np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)], extra=2)
    states = batch.states.clone().requires_grad_()
    matching_head(Tokens(states, batch.mask))[0, 0].backward()
    assert states.grad is not None
    reached = states.grad[0].abs().amax(dim=-1)
    assert reached[:5].min() > 1e-6
    assert_close(reached[5:], torch.zeros(2))
