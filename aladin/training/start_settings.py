"""A model folder as a recipe wants it to begin: what its [model] states is applied where that is possible, and else refused."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from aladin.encoder.config import HeadsConfig, ModelConfig
from aladin.errors import ConfigError
from aladin.network.model import Aladin
from aladin.network.variants import (
    widened,
    with_cross_encoder,
    with_depth,
    with_dropout,
    with_fresh_matching_head,
    with_projection,
    with_settings,
)
from aladin.training.recipe import Recipe, settings_by_name

# What no weight depends on: how much is read, how scores are computed, and which of the original's quirks there are.
APPLICABLE = frozenset(
    (
        *("heads.pooling", "image.grid", "preprocessing.size", "preprocessing.caption_pieces"),
        *("limits.tags", "limits.regions", "limits.object_pieces"),
        *("quirks.region_as_cls", "quirks.last_piece_dropped", "quirks.zero_padding", "quirks.equal_layers"),
    )
)
OF_A_DETECTOR = frozenset(("quirks.image_first_token",))  # applicable too; photographs' first token stands in the weights
OF_A_FRESH_HEAD = frozenset(("heads.matching_layers", "heads.matching_heads", "heads.matching_feed_forward"))
DEPTH = frozenset(f"heads.{name}" for name in HeadsConfig().depth)


def as_the_recipe_begins(model: Aladin, recipe: Recipe) -> Aladin:
    """The model with what the recipe adds and states; ConfigError, by its name, for a setting that its weights contradict."""
    asked = recipe.model_settings
    heads, image = recipe.model.heads, recipe.model.image
    model = with_dropout(model, recipe.model.backbone, heads)
    if len(image.networks) > len(model.config.image.networks):
        model = widened(model, image, recipe.model.preprocessing.size)
    applicable = APPLICABLE if model.backbone.reads_photographs else APPLICABLE | OF_A_DETECTOR
    wanted = _replaced(model.config, {name: asked[name] for name in applicable & asked.keys()})
    if wanted != model.config:
        model = with_settings(model, wanted)
    if recipe.fresh_matching_head:
        sizes = {name: asked[name] for name in OF_A_FRESH_HEAD & asked.keys()}
        model = with_fresh_matching_head(model, _replaced(model.config, sizes).heads)
    if "cross_encoder" in recipe.train and model.cross_encoder is None:
        model = with_cross_encoder(model)
    if DEPTH & asked.keys():
        model = with_depth(model, heads)
    if "projection" in recipe.train:
        model = with_projection(model, heads.token_dim)
    _check_agrees(model.config, asked)
    return model


def _check_agrees(config: ModelConfig, asked: Mapping[str, Any]) -> None:
    settings = settings_by_name(config)
    for name, value in asked.items():
        found = settings[name]
        if value == found or name.startswith(("heads.global_", "heads.hub_")):  # nothing that training makes
            continue
        section, key = name.split(".")
        advice = "leave it out, or start from another model"
        if name in OF_A_FRESH_HEAD:
            advice = "set fresh_matching_head to true, or leave it out"
        raise ConfigError(f"{key} in [model.{section}] is {value!r}, but the model to start from has {found!r}; {advice}")


def _replaced(config: ModelConfig, changed: Mapping[str, Any]) -> ModelConfig:
    """The settings with some of them changed."""
    for name, value in changed.items():
        section, key = name.split(".")
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{key: value})})
    return config
