"""The correction of hubs: what is in vectors and tokens against the formula, written out."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

from aladin.cli.correct_hubs import correct_hubs
from aladin.encoder.config import HUB_DIMS, Pooling, QuirksConfig
from aladin.encoder.hub_terms import LONG, SHORT, as_queries
from aladin.errors import ConfigError
from aladin.evaluation.scoring import alignment_matrix
from aladin.network.checkpoints import load_model, save_model
from aladin.network.hubs import SHARE, HubCorrection, centres, filled
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens
from aladin.network.variants import as_trained, with_hub_correction
from aladin.training.averaging import average_models
from aladin.training.start import start_model
from tests.strategies import DIM
from tests.tiny_learning import INTERRUPTED, TINY, few_examples, tiny_model, write_pictures, write_tokenizer

HEADS = dataclasses.replace(TINY.heads, hub_centres=5, hub_scale=10.0, hub_weight=0.1)


def vectors(count: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def tokens(count: int, length: int, seed: int) -> Tokens:
    """Sequences of random unit tokens, each of a length of its own."""
    mask = torch.arange(length)[None] < 1 + torch.arange(count)[:, None] % length
    return Tokens(vectors(count * length, seed).reshape(count, length, DIM), mask)


def wide(count: int, seed: int) -> torch.Tensor:
    """Vectors of the tiny model's size."""
    return torch.cat([vectors(count, seed), vectors(count, seed + 1)], dim=1) / math.sqrt(2)


def correction(bank: int = 5, images: int = 30, captions: int = 40) -> HubCorrection:
    layer = HubCorrection(dataclasses.replace(HEADS, hub_centres=bank), DIM)
    return filled(layer, vectors(images, 1), vectors(captions, 2)).eval()


def slow_nearness(vector: torch.Tensor, bank: list[torch.Tensor]) -> float:
    """log of the mean of exp(scale * cosine) over a bank whose members count alike, over the scale."""
    return math.log(sum(math.exp(HEADS.hub_scale * float(vector @ other)) for other in bank) / len(bank)) / HEADS.hub_scale


@few_examples
@given(count=st.integers(1, 4), others=st.integers(1, 5), seed=st.integers(0, 1000))
@torch.no_grad()
def test_a_dot_product_is_the_corrected_cosine_by_the_formula_where_every_bank_member_is_its_own_centre(
    count: int, others: int, seed: int
) -> None:
    images, captions = vectors(12, 1), vectors(12, 2)
    layer = filled(HubCorrection(dataclasses.replace(HEADS, hub_centres=12), DIM), images, captions)
    image_mean = np.mean([slow_nearness(image, list(captions)) for image in images])
    caption_mean = np.mean([slow_nearness(caption, list(images)) for caption in captions])
    rows, columns = vectors(count, seed), vectors(others, seed + 1)
    corrected = layer(rows, tokens(count, 3, 0), "images")[0] @ layer(columns, tokens(others, 3, 0), "captions")[0].T
    for i, image in enumerate(rows):
        for c, caption in enumerate(columns):
            near = slow_nearness(image, list(captions)) - image_mean + slow_nearness(caption, list(images)) - caption_mean
            expected = (1 - SHARE) * (float(image @ caption) - HEADS.hub_weight * near)
            assert corrected[i, c].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pooling", ["MrSw", "MrAVGw"])
@torch.no_grad()
def test_an_alignment_is_lowered_by_the_same_as_the_cosine_for_each_word(pooling: Pooling) -> None:
    layer = correction()
    rows, columns, regions, words = vectors(4, 5), vectors(6, 6), tokens(4, 3, 7), tokens(6, 5, 8)
    (image_vectors, image_tokens), (text_vectors, text_tokens) = (
        layer(rows, regions, "images"),
        layer(columns, words, "captions"),
    )
    lowered = image_vectors @ text_vectors.T - (1 - SHARE) * rows @ columns.T
    times = words.mask.sum(dim=1) if pooling == "MrSw" else 1
    expected = (1 - SHARE) * alignment_scores(regions, words, pooling) + lowered * times
    assert_close(alignment_scores(image_tokens, text_tokens, pooling), expected)
    assert_close(alignment_matrix(image_tokens, text_tokens, pooling), expected)


@pytest.mark.parametrize("side", ["images", "captions"])
@torch.no_grad()
def test_vectors_and_tokens_stay_of_length_one_and_masks_as_they_are(side: str) -> None:
    longer, found = correction()(vectors(6, 3), tokens(6, 4, 4), side)
    assert longer.shape == (6, DIM + HUB_DIMS)
    assert_close(longer.norm(dim=1), torch.ones(6))
    assert_close(found.states.norm(dim=2), torch.ones(6, 4))
    assert torch.equal(found.mask, tokens(6, 4, 4).mask)


@pytest.mark.parametrize("side", ["images", "captions"])
@torch.no_grad()
def test_a_nearness_beyond_the_room_that_there_is_keeps_the_length_of_one(
    side: str,
) -> None:
    layer = HubCorrection(dataclasses.replace(HEADS, hub_centres=1, hub_weight=5.0), DIM)
    pole = normalize(torch.ones(1, DIM), dim=1)
    layer = filled(layer, pole, pole)  # nothing is nearer than that, so all others are far
    longer, _ = layer(-pole, tokens(1, 2, 0), side)
    assert_close(longer.norm(dim=1), torch.ones(1))
    assert torch.isfinite(longer).all()


@torch.no_grad()
def test_a_text_as_a_query_is_lowered_by_the_images_terms_alone_and_the_less_the_shorter_it_is() -> None:
    layer = correction()
    rows, columns = vectors(4, 5), vectors(6, 6)
    images, (texts, words) = layer(rows, tokens(4, 3, 7), "images")[0], layer(columns, tokens(6, 5, 8), "captions")
    pieces = np.array([1, SHORT, SHORT + 1, LONG - 1, LONG, 40])
    shares = torch.tensor([0, 0, 1 / (LONG - SHORT), 1 - 1 / (LONG - SHORT), 1, 1])
    queries = torch.from_numpy(as_queries(texts.numpy(), pieces, HEADS))
    near = layer.nearness(rows, "images")[:, None]
    assert_close(images @ queries.T, (1 - SHARE) * (rows @ columns.T - HEADS.hub_weight * near * shares))
    assert_close(queries.norm(dim=1), torch.ones(6))
    asked = torch.from_numpy(as_queries(words.states.numpy(), pieces, HEADS))
    assert_close(asked[:, 1], torch.cat([words.states[:, 1, :DIM], queries[:, DIM:]], dim=1))


def test_a_model_without_terms_of_hubs_searches_by_texts_as_they_are() -> None:
    texts = vectors(3, 1).numpy()
    assert as_queries(texts, np.array([1, 7, 20]), TINY.heads) is texts


@torch.no_grad()
def test_nearness_is_zero_on_the_average_of_the_data_that_the_banks_are_from() -> None:
    layer = correction()
    assert layer.nearness(vectors(30, 1), "images").mean().item() == pytest.approx(0, abs=1e-5)
    assert layer.nearness(vectors(40, 2), "captions").mean().item() == pytest.approx(0, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", ["images", "captions"])
def test_a_hub_loses_its_first_place_to_the_right_answer(side: str) -> None:
    """One item is in the middle of all queries, nearer to most than the answer that is their own."""
    torch.manual_seed(0)
    middle = normalize(torch.ones(1, DIM), dim=1)
    own = normalize(middle + 0.12 * torch.randn(20, DIM), dim=1)
    queries = normalize(middle + 0.35 * (own - middle), dim=1)
    candidates = torch.cat([middle, own])
    heads = dataclasses.replace(HEADS, hub_centres=10, hub_weight=1.0, hub_scale=20.0)
    other = "captions" if side == "images" else "images"
    sides = {side: candidates, other: queries}
    layer = filled(HubCorrection(heads, DIM), sides["images"], sides["captions"])
    rows, columns = (layer(sides[name], tokens(len(sides[name]), 2, 0), name)[0] for name in (other, side))
    right = torch.arange(1, 21)
    before = ((queries @ candidates.T).argmax(dim=1) == right).float().mean()
    after = ((rows @ columns.T).argmax(dim=1) == right).float().mean()
    assert before < 0.5 < after


def test_centres_are_the_means_of_groups_and_shares_add_up_to_one() -> None:
    rows = vectors(50, 9)
    means, shares = centres(rows, 6)
    assert shares.sum().item() == pytest.approx(1, abs=1e-5)
    assert_close((means * shares[:, None]).sum(dim=0), rows.mean(dim=0))
    assert torch.equal(means, centres(rows, 6)[0])


def test_banks_larger_than_their_data_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match="4 images or captions for 5 centres"):
        centres(vectors(4, 0), 5)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    tokenizer = write_tokenizer(tmp_path / "trained")
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "trained")
    return tmp_path / "trained"


@pytest.mark.slow
def test_the_command_writes_a_model_that_evaluates_with_longer_vectors(trained: Path, tmp_path: Path) -> None:
    data, out = write_pictures(tmp_path / "pictures", 7), tmp_path / "corrected"
    (data / "3.png").write_bytes(b"no picture")
    command = [str(trained), str(out), "--data", str(data), "--centres", "4", "--skip-bad"]
    result = CliRunner().invoke(correct_hubs, command)
    assert result.exit_code == 0, result.output
    assert f"{data}: 1 rows skipped: the image is not an image of a known format" in result.stderr
    assert "4 centres a side, of 6 images and 12 captions" in result.output
    model = load_model(out)
    assert model.config.heads.encoded_token_dim == TINY.heads.token_dim + HUB_DIMS
    with pytest.raises(ConfigError, match="corrected already"):
        with_hub_correction(model, HEADS, vectors(9, 0), vectors(9, 1))


@pytest.mark.parametrize(("centres", "fewer"), [(7, "6"), (13, "6")])
def test_more_centres_than_images_or_captions_are_refused_before_anything_is_encoded(
    trained: Path, tmp_path: Path, centres: int, fewer: str
) -> None:
    data, cache = write_pictures(tmp_path / "pictures", 6), tmp_path / "cache"
    command = [str(trained), str(tmp_path / "out"), "--data", str(data), "--centres", str(centres), "--cache", str(cache)]
    expected = rf"centres is {centres}, but the data have 6 images and 12 captions .* or {fewer} by --centres"
    with pytest.raises(ConfigError, match=expected):
        CliRunner().invoke(correct_hubs, command, catch_exceptions=False)
    assert not [*cache.iterdir()]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_training_and_averaging_begin_from_the_model_before_its_correction(trained: Path, tmp_path: Path) -> None:
    corrected = with_hub_correction(load_model(trained), HEADS, wide(9, 0), wide(9, 1))
    save_model(corrected, trained / "tokenizer.json", tmp_path / "corrected")
    otherwise = with_hub_correction(load_model(trained), dataclasses.replace(HEADS, hub_weight=0.7), wide(9, 0), wide(9, 1))
    save_model(otherwise, trained / "tokenizer.json", tmp_path / "otherwise")
    before = load_model(trained).state_dict()
    for after in (
        average_models([tmp_path / "corrected", tmp_path / "otherwise"]),
        as_trained(load_model(tmp_path / "corrected")),
        start_model(INTERRUPTED, tmp_path / "corrected").model,
    ):
        assert after.config.heads.hub_centres == 0
        assert after.state_dict().keys() == before.keys()
        for name, weight in after.state_dict().items():
            assert_close(weight, before[name])


@pytest.mark.parametrize(("pooling", "padding"), [("MwSr", False), ("MrSw", True)])
def test_a_model_whose_alignment_would_change_otherwise_is_refused(trained: Path, pooling: Pooling, padding: bool) -> None:
    model = load_model(trained)
    heads = dataclasses.replace(model.config.heads, pooling=pooling)
    model.config = dataclasses.replace(model.config, heads=heads, quirks=QuirksConfig(zero_padding=padding))
    with pytest.raises(ConfigError, match=f"this one has {pooling}"):
        with_hub_correction(model, HEADS, wide(9, 0), wide(9, 1))
