"""What a recipe states of a model that it starts from: applied where no weight contradicts it, else refused by its name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from aladin.errors import ConfigError
from aladin.network.checkpoints import save_model
from aladin.network.model import Aladin
from aladin.training.recipe import Recipe, recipe_of
from aladin.training.start_settings import as_the_recipe_begins
from tests.tiny_learning import TINY, tiny_model, write_tokenizer

HEAD = {"train": ["matching_head"], "fresh_matching_head": True, "loss": {"alignment": 0.0, "matching": 1.0}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Aladin:
    return tiny_model(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def stated(model: dict[str, Any], **settings: Any) -> Recipe:
    return recipe_of({**settings, "model": model}, "a recipe")


def test_what_is_not_stated_stays_the_starts(model: Aladin) -> None:
    assert as_the_recipe_begins(model, stated({})).config == TINY
    assert TINY.heads.matching_layers != Recipe().model.heads.matching_layers


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("heads", "pooling", "MrSw"),
        ("heads", "pooling", "scan-sentences"),
        ("preprocessing", "caption_pieces", 9),
        ("limits", "caption_pieces", 9),  # its old place
        ("image", "grid", 1),
        ("limits", "tags", 2),
        ("quirks", "last_piece_dropped", True),
        ("quirks", "zero_padding", True),
    ],
)
def test_what_no_weight_depends_on_is_applied(model: Aladin, section: str, key: str, value: object) -> None:
    new = as_the_recipe_begins(model, stated({section: {key: value}}))
    now = "preprocessing" if key == "caption_pieces" else section
    expected = dataclasses.replace(TINY, **{now: dataclasses.replace(getattr(TINY, now), **{key: value})})
    assert new.config == expected
    assert all(torch.equal(weight, new.state_dict()[name]) for name, weight in model.state_dict().items())
    assert model.config == TINY


def test_a_value_that_is_the_default_counts_where_it_is_stated(model: Aladin) -> None:
    usual = Recipe().model.heads.pooling
    other = as_the_recipe_begins(model, stated({"heads": {"pooling": "MrSw"}}))
    assert as_the_recipe_begins(other, stated({"heads": {"pooling": usual}})).config.heads.pooling == usual
    assert as_the_recipe_begins(other, stated({})).config.heads.pooling == "MrSw"


def test_a_fresh_matching_head_has_the_sizes_that_are_stated(model: Aladin) -> None:
    new = as_the_recipe_begins(model, stated({"heads": {"matching_layers": 3}}, **HEAD))
    assert len(new.matching_head.layers) == new.config.heads.matching_layers == 3


@pytest.mark.parametrize(
    ("section", "key", "value", "sentence"),
    [
        (
            "heads",
            "matching_layers",
            3,
            r"matching_layers in \[model.heads\] is 3, but .* has 1; set fresh_matching_head to true",
        ),
        (
            "backbone",
            "layers",
            2,
            r"layers in \[model.backbone\] is 2, but the model to start from has 1; leave it out, or start",
        ),
        ("image", "source", "detector", r"source in \[model.image\] is 'detector', but .* has 'photograph'"),
        ("limits", "tag_pieces", 2, r"tag_pieces in \[model.limits\] is 2, but .* has 3"),
        ("quirks", "image_first_token", "[UNK]", r"image_first_token in \[model.quirks\] is '\[UNK\]'"),
        ("heads", "token_dim", 8, r"token_dim in \[model.heads\] is 8, but .* has 16"),
    ],
)
def test_what_the_weights_contradict_is_refused_by_its_name(
    model: Aladin, section: str, key: str, value: object, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        as_the_recipe_begins(model, stated({section: {key: value}}))


def test_limits_that_contradict_the_positions_are_refused(model: Aladin) -> None:
    with pytest.raises(ConfigError, match=r"positions in .* is 16"):
        as_the_recipe_begins(model, stated({"preprocessing": {"caption_pieces": 17}}))


def test_the_record_of_a_run_does_not_repeat_what_was_stated(tmp_path: Path, model: Aladin) -> None:
    tokenizer = write_tokenizer(tmp_path)
    save_model(model, tokenizer, tmp_path / "model")
    with pytest.raises(ConfigError, match="unknown setting 'stated'"):
        recipe_of({"stated": ["heads.pooling"]}, "a recipe")
