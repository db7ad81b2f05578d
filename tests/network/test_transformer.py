import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import BertModel

from aladin.encoder.config import BackboneConfig
from aladin.network.tensors import Regions
from aladin.network.transformer import Transformer
from tests.bert import bert_config
from tests.tiny_learning import few_examples

CONFIG = BackboneConfig(
    vocabulary=20, positions=16, dim=8, layers=2, heads=2, feed_forward=12, region_features=5, region_geometry=6
)
BERT_PARTS = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}


@pytest.fixture(scope="module")
def backbone() -> Transformer:
    torch.manual_seed(0)
    return Transformer(CONFIG).eval()


@pytest.fixture(scope="module")
def bert(backbone: Transformer) -> BertModel:
    """The transformers library's network with the same weights."""
    config = bert_config(CONFIG, CONFIG.layer_norm_eps)
    network = BertModel(config, add_pooling_layer=False).eval()
    own = {name: weight for name, weight in backbone.state_dict().items() if not name.startswith("region_embedding.")}
    renamed = {bert_name(name): weight for name, weight in own.items()}
    missing, unknown = network.load_state_dict(renamed, strict=False)
    assert (set(missing) - {"embeddings.position_ids", "embeddings.token_type_ids"}, unknown) == (set(), [])
    return network


def bert_name(name: str) -> str:
    if not name.startswith("layers."):
        return name
    _, layer, part = name.split(".", 2)
    part, kind = part.rsplit(".", 1)
    return f"encoder.layer.{layer}.{BERT_PARTS[part]}.{kind}"


@dataclass(frozen=True)
class Images:
    """Images of unequal lengths: tag pieces, [CLS] first, and region rows."""

    tags: list[list[int]]
    regions: list[np.ndarray]


@st.composite
def image_batches(draw: st.DrawFn) -> Images:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=1, max_size=4))
    tags = [[2, *random.integers(4, 20, count).tolist(), 3] for count, _ in lengths]
    return Images(tags, [random.normal(size=(count, 11)).astype(np.float32) for _, count in lengths])


caption_batches = st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=7), min_size=1, max_size=4)


def padded_pieces(rows: list[list[int]], extra: int = 0) -> tuple[Tensor, Tensor]:
    """Rows padded at the end with a piece that must never matter."""
    width = max(map(len, rows)) + extra
    pieces, mask = torch.full((len(rows), width), 19), torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        pieces[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = True
    return pieces, mask


def padded_regions(rows: list[np.ndarray], extra: int = 0) -> Regions:
    states = torch.full((len(rows), max(map(len, rows)) + extra, rows[0].shape[1]), 7.0)
    mask = torch.zeros(states.shape[:2], dtype=torch.bool)
    for number, row in enumerate(rows):
        states[number, : len(row)] = torch.from_numpy(row)
        mask[number, : len(row)] = True
    return Regions(states[:, :, :5], states[:, :, 5:], mask)


@torch.no_grad()
def encode_captions(backbone: Transformer, rows: list[list[int]], extra: int = 0) -> list[Tensor]:
    """The real states of each caption."""
    encoded = backbone.encode_captions(*padded_pieces(rows, extra))
    return [states[mask] for states, mask in zip(encoded.states, encoded.mask, strict=True)]


@torch.no_grad()
def encode_images(backbone: Transformer, images: Images, extra_tags: int = 0, extra_regions: int = 0) -> list[Tensor]:
    tags, tag_mask = padded_pieces(images.tags, extra_tags)
    encoded = backbone.encode_images(tags, tag_mask, padded_regions(images.regions, extra_regions))
    return [states[mask] for states, mask in zip(encoded.states, encoded.mask, strict=True)]


def slow_states(backbone: Transformer, embedded: np.ndarray) -> np.ndarray:
    """The post-norm BERT layers of the spec on one sequence without padding: one loop per head and token."""
    weights = {name: weight.numpy().astype(np.float64) for name, weight in backbone.state_dict().items()}

    def linear(name: str, rows: np.ndarray) -> np.ndarray:
        return np.array([weights[f"{name}.weight"] @ row + weights[f"{name}.bias"] for row in rows])

    def norm(name: str, rows: np.ndarray) -> np.ndarray:
        centred = [(row - row.mean()) / math.sqrt(row.var() + CONFIG.layer_norm_eps) for row in rows]
        return np.array([weights[f"{name}.weight"] * row + weights[f"{name}.bias"] for row in centred])

    size = CONFIG.dim // CONFIG.heads
    for layer in range(CONFIG.layers):
        name = f"layers.{layer}"
        query, key, value = (linear(f"{name}.attention.{part}", embedded) for part in ("query", "key", "value"))
        mixed = np.zeros_like(embedded)
        for head in range(CONFIG.heads):
            part = slice(head * size, (head + 1) * size)
            for token in range(len(embedded)):
                powers = np.exp([query[token, part] @ other / math.sqrt(size) for other in key[:, part]])
                mixed[token, part] = (powers / powers.sum()) @ value[:, part]
        attended = norm(f"{name}.attention_norm", embedded + linear(f"{name}.attention.output", mixed))
        inner = linear(f"{name}.intermediate", attended)
        gelu = np.array([[x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in row] for row in inner])
        embedded = norm(f"{name}.output_norm", attended + linear(f"{name}.output", gelu))
    return embedded


def slow_embeddings(backbone: Transformer, tags: list[int], regions: np.ndarray) -> np.ndarray:
    """Tags with position and type (0 for the first), regions with neither; each kind normalised by its own LayerNorm."""
    words, own = backbone.embeddings, backbone.region_embedding
    rows = [
        words.LayerNorm(
            words.word_embeddings.weight[piece]
            + words.position_embeddings.weight[place]
            + words.token_type_embeddings.weight[0 if place == 0 else 1]
        )
        for place, piece in enumerate(tags)
    ]
    rows += [own.LayerNorm(own.linear.weight @ torch.from_numpy(region) + own.linear.bias) for region in regions]
    return torch.stack(rows).detach().numpy().astype(np.float64)


@few_examples
@given(rows=caption_batches, extra=st.integers(1, 4))
def test_padding_and_batch_mates_do_not_change_a_caption(backbone: Transformer, rows: list[list[int]], extra: int) -> None:
    for together, row in zip(encode_captions(backbone, rows, extra), rows, strict=True):
        assert_close(together, encode_captions(backbone, [row])[0], atol=1e-5, rtol=0)


@few_examples
@given(images=image_batches(), extra=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_padding_and_batch_mates_do_not_change_an_image(backbone: Transformer, images: Images, extra: tuple[int, int]) -> None:
    together = encode_images(backbone, images, *extra)
    for number, states in enumerate(together):
        alone = Images(images.tags[number : number + 1], images.regions[number : number + 1])
        assert_close(states, encode_images(backbone, alone)[0], atol=1e-5, rtol=0)


@few_examples
@given(rows=caption_batches)
def test_caption_states_are_those_of_transformers_bert(backbone: Transformer, bert: BertModel, rows: list[list[int]]) -> None:
    pieces, mask = padded_pieces(rows)
    with torch.no_grad():
        expected = bert(input_ids=pieces, attention_mask=mask.long()).last_hidden_state
    assert_close(torch.cat(encode_captions(backbone, rows)), expected[mask], atol=1e-5, rtol=0)


@few_examples
@given(images=image_batches())
def test_image_states_are_what_the_specification_says(backbone: Transformer, images: Images) -> None:
    for states, tags, regions in zip(encode_images(backbone, images), images.tags, images.regions, strict=True):
        expected = slow_states(backbone, slow_embeddings(backbone, tags, regions))
        kept = np.concatenate([expected[:1], expected[len(tags) :]])
        np.testing.assert_allclose(states.numpy(), kept, atol=1e-5)


@few_examples
@given(images=image_batches(), seed=st.integers(0, 999))
def test_gaps_between_tag_pieces_change_nothing(backbone: Transformer, images: Images, seed: int) -> None:
    random = np.random.default_rng(seed)
    dense = encode_images(backbone, images)
    width = max(map(len, images.tags)) + 3
    tags, mask = torch.full((len(images.tags), width), 19), torch.zeros(len(images.tags), width, dtype=torch.bool)
    for number, row in enumerate(images.tags):
        places = [0, *(1 + np.sort(random.permutation(width - 1)[: len(row) - 1]))]  # [CLS] stays first
        tags[number, places] = torch.tensor(row)
        mask[number, places] = True
    with torch.no_grad():
        gappy = backbone.encode_images(tags, mask, padded_regions(images.regions))
    for number, expected in enumerate(dense):
        assert_close(gappy.states[number][gappy.mask[number]], expected, atol=1e-5, rtol=0)


@few_examples
@given(images=image_batches())
def test_an_image_has_one_state_for_cls_and_one_for_each_region(backbone: Transformer, images: Images) -> None:
    assert [len(states) for states in encode_images(backbone, images)] == [1 + len(regions) for regions in images.regions]


def test_tags_change_what_the_regions_mean(backbone: Transformer) -> None:
    regions = [np.random.default_rng(0).normal(size=(3, 11)).astype(np.float32)]
    one, other = (encode_images(backbone, Images([tags], regions))[0] for tags in ([2, 5, 3], [2, 6, 3]))
    assert (one - other).abs().amax(dim=1).min() > 1e-3


def test_the_order_of_regions_is_only_the_order_of_their_states(backbone: Transformer) -> None:
    regions = np.random.default_rng(0).normal(size=(4, 11)).astype(np.float32)
    forward = encode_images(backbone, Images([[2, 5, 3]], [regions]))[0]
    backward = encode_images(backbone, Images([[2, 5, 3]], [regions[::-1].copy()]))[0]
    assert_close(backward, torch.cat([forward[:1], forward[1:].flip(0)]), atol=1e-5, rtol=0)


def test_a_row_of_nothing_but_padding_holds_no_nan(backbone: Transformer) -> None:
    pieces, mask = torch.zeros(2, 4, dtype=torch.int64), torch.tensor([[True] * 4, [False] * 4])
    states = backbone.encode_captions(pieces, mask).states
    assert bool(torch.isfinite(states).all())
    states.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in backbone.parameters() if p.grad is not None)


def test_without_region_layer_norm_the_embedding_of_a_region_is_linear() -> None:
    plain = Transformer(BackboneConfig(**{**vars(CONFIG), "region_layer_norm": False})).eval().region_embedding
    regions = torch.randn(1, 3, 11)
    zero = plain(torch.zeros(1, 1, 11))
    assert_close(plain(2 * regions) - zero, 2 * (plain(regions) - zero), atol=1e-5, rtol=0)


def test_dropout_acts_while_learning_and_only_then() -> None:
    torch.manual_seed(0)
    network = Transformer(BackboneConfig(**{**vars(CONFIG), "dropout": 0.5}))
    pieces, mask = padded_pieces([[2, 5, 6, 3]])
    learning = [network.train().encode_captions(pieces, mask).states for _ in range(2)]
    assert not torch.equal(*learning)
    using = [network.eval().encode_captions(pieces, mask).states for _ in range(2)]
    assert torch.equal(*using)
