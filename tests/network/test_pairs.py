import dataclasses
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import ConfigError
from aladin.network.checkpoints import load_model, save_model
from aladin.network.model import Aladin
from aladin.network.pairs import drawn_pairs, pair_matrix, scored_pairs
from aladin.network.tensors import ImageInput
from aladin.network.variants import with_cross_encoder
from aladin.training.losses import pair_loss
from aladin.training.recipe import LossConfig, Recipe, read_recipe
from aladin.training.start import start_model
from tests.tiny_learning import FAST, TINY, Recorder, captions, learning_set, losses, tiny_model, trainer, write_tokenizer

RECIPE = Path(__file__).parents[2] / "recipes" / "cross-encoder.toml"
WITH_HEAD = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True))
OWNERS = [0, 0, 1, 2, 2, 2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer: Path) -> Aladin:
    return tiny_model(tokenizer, WITH_HEAD).eval()


@pytest.fixture(scope="module")
def images(model: Aladin, tokenizer: Path) -> ImageInput:
    features = learning_set(model, tokenizer, 4).images
    maps, classes = torch.from_numpy(features.maps[0]).float(), torch.from_numpy(features.tags[0]).long()  # type: ignore[union-attr]
    with torch.no_grad():
        return model.backbone.image_input(maps, classes)


@pytest.fixture(scope="module")
def texts(tokenizer: Path) -> Pieces:
    return WordPieces.load(tokenizer, 12).encode([text for number in range(3) for text in captions(number)])


@torch.no_grad()
def test_every_cell_of_the_matrix_is_that_pair_read_alone_without_padding(
    model: Aladin, images: ImageInput, texts: Pieces
) -> None:
    matrix = pair_matrix(model, images, texts)
    assert matrix.shape == (4, 6)
    for image in range(4):
        for caption in range(6):
            ids = torch.from_numpy(texts.ids[caption][texts.mask[caption]])[None]
            alone = model.pair_scores(ids, torch.ones_like(ids, dtype=torch.bool), images[image : image + 1])
            assert_close(matrix[image, caption], alone[0], atol=1e-5, rtol=1e-4)
    assert len(matrix.unique()) == matrix.numel()


def test_chosen_pairs_are_scored_in_the_order_asked(model: Aladin, images: ImageInput, texts: Pieces) -> None:
    matrix = pair_matrix(model, images, texts)
    rows = torch.tensor([3, 0, 3, 1]), torch.tensor([0, 5, 1, 2])
    assert_close(scored_pairs(model, images, texts, rows), matrix[rows], atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 99), scale=st.sampled_from([0.0, 10.0]))
def test_drawn_pairs_are_positives_and_others(seed: int, scale: float) -> None:
    positives = torch.tensor([[owner == image for owner in OWNERS] for image in range(3)])
    torch.manual_seed(seed)
    pairs = drawn_pairs(positives, torch.rand(3, 6), scale)
    assert pairs.positives.tolist() == [True] * 3 + [False] * 6
    assert torch.equal(positives[pairs.images, pairs.captions], pairs.positives)
    assert pairs.images[:6].tolist() == [0, 1, 2, 0, 1, 2]
    assert pairs.captions[:3].tolist() == pairs.captions[6:].tolist() == [0, 2, 3]


def test_what_nearly_fits_is_drawn_as_the_odds_say() -> None:
    positives = torch.tensor([[True, False, False], [False, True, False], [False, False, True]])
    similarity = torch.tensor([[1.0, 0.5, 0.3], [0.5, 1.0, 0.0], [0.3, 0.0, 1.0]])
    torch.manual_seed(0)
    draws = torch.stack([drawn_pairs(positives, similarity, 10.0).captions[3:6] for _ in range(2000)])
    expected = math.exp(5.0) / (math.exp(5.0) + math.exp(3.0))
    assert (draws[:, 0] == 1).float().mean().item() == pytest.approx(expected, abs=0.03)


def test_the_pair_loss_is_the_cross_entropy_of_both_kinds_equally() -> None:
    scores, positives = torch.tensor([2.0, -1.0, 0.5, 3.0]), torch.tensor([True, False, False, False])

    def entropy(odds: float) -> float:
        return math.log1p(math.exp(-odds))

    expected = 0.5 * (entropy(2.0) + (entropy(1.0) + entropy(-0.5) + entropy(-3.0)) / 3)
    assert pair_loss(scores, positives).item() == pytest.approx(expected)


@pytest.mark.slow
def test_the_recipe_teaches_the_cross_encoder_which_pairs_belong_together(tmp_path: Path, tokenizer: Path) -> None:
    recipe = read_recipe(RECIPE)
    rates = dataclasses.replace(FAST, learning_rate=2e-3, new_learning_rate=2e-3)
    short = dataclasses.replace(
        recipe, epochs=80, batch_images=8, views=1, averaged_steps=0, validate_every=80, precision="fp32", optimizer=rates
    )
    wide = dataclasses.replace(WITH_HEAD.backbone, layers=2, dim=64, heads=4, feed_forward=128)
    config = dataclasses.replace(WITH_HEAD, backbone=wide, heads=dataclasses.replace(WITH_HEAD.heads, token_dim=64))
    model = tiny_model(tokenizer, config)
    for name, weight in model.backbone.named_parameters():
        if weight.ndim == 2 and not name.startswith(
            "image_network."
        ):  # words compare themselves with regions from the start, as in a pretrained transformer
            torch.nn.init.normal_(weight, std=0.15)
    run = trainer(short, tmp_path, model, pictures=4)
    reporter = Recorder()
    run.run(reporter)
    totals = [record["loss"] for record in losses(run.folder.path).values()]
    assert sum(totals[-10:]) < 0.6 * sum(totals[:10])
    assert run.judged_head == "cross_encoder"
    assert set(reporter.epochs[-1][1]) >= {"cross_encoder rsum", "cross_encoder text_to_image Recall@1"}
    assert load_model(run.folder.best).config.heads.cross_encoder


def test_a_start_without_the_head_gets_a_fresh_one(tmp_path: Path, tokenizer: Path) -> None:
    plain = tiny_model(tokenizer)
    save_model(plain, tokenizer, tmp_path / "plain")
    recipe = Recipe(
        train=("backbone", "cross_encoder"), loss=LossConfig(alignment=0.0, cross_encoder=1.0, cross_encoder_scale=0.0)
    )
    model = start_model(recipe, tmp_path / "plain").model
    assert model.config.heads.cross_encoder
    assert model.cross_encoder is not None
    before = plain.state_dict()
    assert {name for name in model.state_dict() if name not in before} == {
        f"cross_encoder.{part}.{kind}" for part in ("pooler", "classifier") for kind in ("weight", "bias")
    }
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items() if name in before)
    # What is saved with its head comes back with it.
    save_model(with_cross_encoder(model), tokenizer, tmp_path / "headed")
    assert load_model(tmp_path / "headed").config.heads.cross_encoder


def test_a_cross_encoder_learns_if_and_only_if_its_loss_has_a_weight() -> None:
    with pytest.raises(ConfigError, match=r"name \"cross_encoder\" if and only if cross_encoder in \[loss\] has a weight"):
        Recipe(train=("backbone", "cross_encoder"))
    with pytest.raises(ConfigError, match=r"name \"cross_encoder\" if and only if cross_encoder in \[loss\] has a weight"):
        Recipe(loss=LossConfig(cross_encoder=1.0))
