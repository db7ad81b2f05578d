import dataclasses
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from aladin.encoder.config import HeadsConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError
from aladin.exporting.graphs import ImageGraph, image_graph, text_graph
from aladin.exporting.int8 import quantized, write_graphs
from aladin.exporting.smoothing import smoothed
from aladin.network.checkpoints import load_model, save_model
from aladin.network.depth import FusedState, GatedState, MeanState, PostLayers, alignment_depth, matching_depth
from aladin.network.model import Aladin
from aladin.network.tensors import Tokens
from aladin.network.transformer import Transformer
from aladin.network.variants import with_depth
from aladin.training.recipe import LossConfig, Recipe
from aladin.training.start import start_model
from tests.tiny_learning import FAST, TINY, Recorder, few_examples, losses, picture, tiny_model, trainer, write_tokenizer

DIM, DEPTH = TINY.backbone.dim, 3
FORMS = ("last", "mean", "gated")
Settings = tuple[str, str, int, int]
PLAIN = HeadsConfig().depth
ADDED = {"matching_depth", "alignment_depth", "post_layers", "alignment_layers", "image_alignment_layers"}


def depth(matching: str, alignment: str, post_layers: int, layers: int = 0) -> dict[str, object]:
    """`layers` of a transformer before the alignment head; more than one are not shared."""
    return PLAIN | {
        "matching_depth": matching,
        "alignment_depth": alignment,
        "post_layers": post_layers,
        "alignment_layers": layers,
        "alignment_layers_shared": layers < 2,
    }


def heads(matching: str = "last", alignment: str = "last", post_layers: int = 0, layers: int = 0) -> HeadsConfig:
    return dataclasses.replace(TINY.heads, **depth(matching, alignment, post_layers, layers))  # type: ignore[arg-type]


def deep_model(tokenizer: Path, settings: HeadsConfig) -> Aladin:
    """Two layers; gates that open and close."""
    backbone = dataclasses.replace(TINY.backbone, layers=2)
    model = tiny_model(tokenizer, dataclasses.replace(TINY, backbone=backbone, heads=settings))
    for part in (model.matching_depth, model.alignment_depth):
        if part is not None:
            roused(part)
    return model.eval()


def roused(module: nn.Module) -> nn.Module:
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    return module.eval()


def deep_tokens(lengths: list[int], extra: int = 0, depth: int = DEPTH) -> Tokens:
    """Random states; what stands in padded cells is loud."""
    width = max(lengths) + extra
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    states = torch.full((len(lengths), width, depth * DIM), 50.0)
    for row, length in enumerate(lengths):
        states[row, :length] = torch.randn(length, depth * DIM, generator=torch.Generator().manual_seed(row))
    return Tokens(states, mask)


def slow_gated(module: GatedState, row: torch.Tensor) -> torch.Tensor:
    """One sequence without padding: tokens x (depth x dim) to tokens x dim, head by head and token by token."""
    weight, bias = module.attention.in_proj_weight, module.attention.in_proj_bias
    size = DIM // module.attention.num_heads
    total = torch.zeros(len(row), DIM)
    for depth in range(row.shape[1] // DIM):
        states = row[:, depth * DIM : (depth + 1) * DIM]
        query, key, value = (states @ weight[k * DIM : (k + 1) * DIM].T + bias[k * DIM : (k + 1) * DIM] for k in range(3))
        for token in range(len(row)):
            mixed = []
            for start in range(0, DIM, size):
                part = slice(start, start + size)
                shares = torch.tensor([float(query[token, part] @ other[part]) / size**0.5 for other in key]).exp()
                mixed.append((shares / shares.sum()) @ value[:, part])
            attended = module.attention.out_proj(torch.cat(mixed))
            total[token] += states[token] * torch.sigmoid(module.gate(attended))
    return total


@torch.no_grad()
@pytest.mark.parametrize("extra", [0, 2])
def test_the_mean_and_the_gated_sum_are_those_of_every_sequence_by_itself(extra: int) -> None:
    torch.manual_seed(0)
    lengths = [4, 1, 3]
    batch, gated = deep_tokens(lengths, extra), roused(GatedState(DIM, 2, dropout=0.0))
    assert isinstance(gated, GatedState)
    for form, slow in (
        (MeanState(DIM), lambda row: sum(row[:, k * DIM : (k + 1) * DIM] for k in range(DEPTH)) / DEPTH),
        (gated, lambda row: slow_gated(gated, row)),
    ):
        found = form(batch)
        assert found.states.shape == (3, max(lengths) + extra, DIM)
        for row, length in enumerate(lengths):
            assert_close(found.states[row, :length], slow(batch.states[row, :length]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("form", ["mean", "gated"])
def test_the_alignment_head_reads_earlier_states_and_the_last_by_weights_of_both(form: str) -> None:
    torch.manual_seed(0)
    fused = roused(alignment_depth(heads(alignment=form), DIM, DEPTH))
    assert isinstance(fused, FusedState)
    row = deep_tokens([4]).states[0]
    earlier_states, last = row[:, :-DIM], row[:, -DIM:]
    earlier = fused.earlier(Tokens(earlier_states[None], torch.ones(1, 4, dtype=torch.bool))).states[0]
    first, _, second = fused.weights
    for token in range(4):
        hidden = torch.relu(first(torch.cat([earlier[token], last[token]])))
        one, other = torch.sigmoid(second(hidden))
        expected = one * earlier[token] + other * last[token]
        assert_close(fused(Tokens(row[None], torch.ones(1, 4, dtype=torch.bool))).states[0, token], expected)


@torch.no_grad()
def test_deep_states_are_those_after_the_embedding_and_after_each_layer() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY.backbone, layers=2)
    deep = Transformer(config, deep=True).eval()
    pieces, mask = torch.arange(4, 10).view(2, 3), torch.ones(2, 3, dtype=torch.bool)
    states = deep.encode_captions(pieces, mask).states
    assert states.shape == (2, 3, 3 * DIM)
    positions = torch.arange(3).expand(2, 3)
    assert_close(states[..., :DIM], deep.embeddings(pieces, positions, torch.zeros_like(pieces)))
    for layers in (1, 2):
        shallow = Transformer(dataclasses.replace(config, layers=layers)).eval()
        shallow.load_state_dict({name: weight for name, weight in deep.state_dict().items() if name in shallow.state_dict()})
        assert_close(states[..., layers * DIM : (layers + 1) * DIM], shallow.encode_captions(pieces, mask).states)


@torch.no_grad()
def test_post_layers_read_the_last_state_and_add_one() -> None:
    torch.manual_seed(0)
    module = PostLayers(heads("mean", post_layers=2), DIM).eval()
    lengths = [4, 1, 3]
    batch = deep_tokens(lengths, extra=1)
    found = module(batch).states
    for row, length in enumerate(lengths):
        states = batch.states[row : row + 1, :length, -DIM:]
        for layer in module.layers:
            states = layer(states)
        assert_close(found[row, :length, -DIM:], states[0], atol=1e-5, rtol=1e-4)
        assert found.shape[-1] == (DEPTH + 1) * DIM
        assert torch.equal(found[row, :length, :-DIM], batch.states[row, :length])


@torch.no_grad()
def test_the_alignment_head_never_sees_post_layers(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    pieces, mask = torch.arange(4, 10)[None], torch.ones(1, 6, dtype=torch.bool)
    for alignment in FORMS:
        with_post, without = (deep_model(tokenizer, heads("mean", alignment, layers)) for layers in (1, 0))
        without.load_state_dict({k: v for k, v in with_post.state_dict().items() if not k.startswith("post_layers.")})
        one, other = (model.encoded_captions(model.caption_states(pieces, mask)) for model in (with_post, without))
        assert torch.equal(one.tokens.states, other.tokens.states)
        assert not torch.allclose(one.vectors, other.vectors)


@torch.no_grad()
@pytest.mark.parametrize("form", ["mean", "gated"])
def test_a_matching_head_without_depth_of_its_own_reads_what_the_alignment_head_reads(tmp_path: Path, form: str) -> None:
    model = deep_model(write_tokenizer(tmp_path), heads(alignment=form))
    pieces, mask = torch.arange(4, 10)[None], torch.ones(1, 6, dtype=torch.bool)
    states = model.caption_states(pieces, mask)
    expected = model.matching_head(model.alignment_depth(states))
    assert torch.equal(model.encoded_captions(states).vectors, expected)


def test_post_layers_that_nothing_would_read_are_refused() -> None:
    with pytest.raises(ConfigError, match='post_layers is 1 and matching_depth is "last"; nothing would read them'):
        heads(post_layers=1)


def test_without_any_of_it_nothing_is_added(tmp_path: Path) -> None:
    assert matching_depth(TINY.heads, DIM) is None
    assert isinstance(alignment_depth(TINY.heads, DIM, DEPTH), nn.Identity)
    assert TINY.heads.depth == PLAIN
    model = tiny_model(write_tokenizer(tmp_path))
    assert model.post_layers is None
    assert not {name.split(".")[0] for name in model.state_dict()} & ADDED


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Settings, Aladin]:
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    chosen = [*product(FORMS, FORMS, (0,), (0,)), ("gated", "gated", 1, 0), ("mean", "mean", 1, 1), ("last", "last", 0, 2)]
    return {settings: deep_model(tokenizer, heads(*settings)) for settings in chosen}


@pytest.mark.slow
@few_examples
@given(lengths=st.lists(st.integers(2, 6), min_size=1, max_size=4), extra=st.integers(0, 3), seed=st.integers(0, 9))
@torch.no_grad()
def test_neither_padding_nor_the_order_of_a_batch_changes_what_a_head_makes(
    models: dict[Settings, Aladin], lengths: list[int], extra: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    pieces = torch.randint(4, 12, (len(lengths), max(lengths) + extra), generator=random)
    mask = torch.arange(pieces.shape[1])[None] < torch.tensor(lengths)[:, None]
    order = torch.randperm(len(lengths), generator=random)
    for model in models.values():
        together = model.encoded_captions(model.caption_states(pieces[order], mask[order]))
        assert together.states.states.shape[-1] == model.state_dim
        for place, row in enumerate(order.tolist()):
            alone = model.encoded_captions(
                model.caption_states(pieces[row : row + 1, : lengths[row]], mask[row : row + 1, : lengths[row]])
            )
            assert_close(together.vectors[place], alone.vectors[0], atol=1e-4, rtol=1e-4)
            words = lengths[row] - 2
            assert_close(together.tokens.states[place, :words], alone.tokens.states[0, :words], atol=1e-4, rtol=1e-4)
            assert together.tokens.mask[place].sum() == words


@torch.no_grad()
def test_every_setting_makes_another_model(models: dict[Settings, Aladin]) -> None:
    pieces, mask = torch.arange(4, 10)[None], torch.ones(1, 6, dtype=torch.bool)
    made = {settings: model.encoded_captions(model.caption_states(pieces, mask)) for settings, model in models.items()}
    vectors = {settings[0]: found.vectors for settings, found in made.items() if settings[1:] == ("last", 0, 0)}
    tokens = {settings[1]: found.tokens.states for settings, found in made.items() if settings[2:] == (0, 0)}
    for found in (vectors, tokens):
        assert not any(torch.allclose(found[one], found[other]) for one in FORMS for other in FORMS if one < other)


@torch.no_grad()
def test_a_deep_model_comes_back_as_it_was_saved(models: dict[Settings, Aladin], tmp_path: Path) -> None:
    model = models["gated", "gated", 1, 0]
    save_model(model, write_tokenizer(tmp_path), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config.heads.depth == depth("gated", "gated", 1)
    pieces, mask = torch.arange(4, 10)[None], torch.ones(1, 6, dtype=torch.bool)
    one, other = (some.encoded_captions(some.caption_states(pieces, mask)) for some in (model, loaded))
    assert torch.equal(one.vectors, other.vectors)
    assert torch.equal(one.tokens.states, other.tokens.states)


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_graph_computes_the_same(models: dict[Settings, Aladin]) -> None:
    model = models["gated", "gated", 1, 0]
    session = onnxruntime.InferenceSession(text_graph(model).SerializeToString())
    pieces = torch.tensor([[4, 5, 6, 7, 8], [4, 9, 5, 0, 0]])
    mask = pieces > 0
    vector, words, word_mask = session.run(None, {"pieces": pieces.numpy(), "mask": mask.numpy()})
    expected = model.encoded_captions(model.caption_states(pieces, mask))
    np.testing.assert_allclose(vector, expected.vectors.numpy(), atol=1e-4)
    np.testing.assert_array_equal(word_mask, expected.tokens.mask.numpy())
    np.testing.assert_allclose(words[word_mask], expected.tokens.states[expected.tokens.mask].numpy(), atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("settings", [("gated", "gated", 1, 0), ("mean", "mean", 0, 0), ("last", "last", 0, 2)])
def test_an_exported_graph_of_images_computes_the_same_and_in_int8_nearly(
    models: dict[Settings, Aladin], tmp_path: Path, settings: Settings
) -> None:
    model = models[settings]
    pixels = torch.from_numpy(np.stack([picture(number) for number in range(3)]))
    vectors, regions = ImageGraph(model)(pixels)
    graph = image_graph(smoothed(model, WordPieces.of(write_tokenizer(tmp_path), TINY.preprocessing)))
    for count in (1, 3):  # whatever the batch
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        found = session.run(None, {"pixels": pixels[:count].numpy()})
        np.testing.assert_allclose(found[0], vectors[:count].numpy(), atol=1e-4)
        np.testing.assert_allclose(found[1], regions[:count].numpy(), atol=1e-4)
    write_graphs({"image.onnx": quantized(graph)}, tmp_path)
    small = onnxruntime.InferenceSession(str(tmp_path / "image.onnx")).run(None, {"pixels": pixels.numpy()})
    assert (small[0] * vectors.numpy()).sum(axis=-1).min() > 0.99
    assert (small[1] * regions.numpy()).sum(axis=-1).min() > 0.99


@pytest.mark.slow
def test_training_from_a_model_without_depth_adds_it_fresh_and_only_once(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    plain = tiny_model(tokenizer)
    save_model(plain, tokenizer, tmp_path / "plain")
    recipe = Recipe(model=dataclasses.replace(TINY, heads=heads("gated", "mean", 1)))
    model = start_model(recipe, tmp_path / "plain").model
    assert model.config.heads.depth == depth("gated", "mean", 1)
    kept = plain.state_dict()
    assert all(torch.equal(weight, kept[name]) for name, weight in model.state_dict().items() if name in kept)
    save_model(model, tokenizer, tmp_path / "deep")
    again = start_model(recipe, tmp_path / "deep").model
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in again.state_dict().items())
    with pytest.raises(ConfigError, match=r"but the model to start from has \{'matching_depth': 'gated'.*\}; give the same"):
        with_depth(again, heads("mean", "mean", 1))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("gated", "gated", 1), ("mean", "mean", 0)])
def test_the_added_parts_learn_with_the_head_or_the_backbone_that_they_belong_to(
    tmp_path: Path, settings: tuple[str, str, int]
) -> None:
    loss = LossConfig(alignment=1.0, alignment_form="hinge", distillation=1.0)
    recipe = Recipe(
        ("backbone", "matching_head"), 20, 4, views=1, precision="fp32", validate_every=20, loss=loss, optimizer=FAST
    )
    model = tiny_model(write_tokenizer(tmp_path), dataclasses.replace(TINY, heads=heads(*settings)))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    run = trainer(recipe, tmp_path, model)
    run.run(Recorder())
    totals = [record["loss"] for record in losses(run.folder.path).values()]
    assert sum(totals[-4:]) < 0.9 * sum(totals[:4])
    still = {name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])}
    added = {name for name in before if name.split(".")[0] in ADDED}
    assert bool([name for name in added if "attention" in name]) == (settings[0] == "gated")
    assert not added & still


@pytest.mark.slow
def test_a_matching_head_alone_learns_its_own_gates_on_a_frozen_backbone(tmp_path: Path) -> None:
    loss = LossConfig(alignment=0.0, distillation=1.0)
    recipe = Recipe(("matching_head",), 3, 4, views=1, validate_every=3, loss=loss, optimizer=FAST)
    model = tiny_model(write_tokenizer(tmp_path), dataclasses.replace(TINY, heads=heads("gated", "gated", 1)))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer(recipe, tmp_path, model).run(Recorder())
    moved = {name.split(".")[0] for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved == {"matching_head", "matching_depth"}
