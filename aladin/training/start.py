"""From where a run starts: a model folder or MiniLM-L6, changed as its recipe asks, and the recipe's teachers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError
from aladin.exporting.restoring import model_that_learns
from aladin.network.checkpoints import named_model
from aladin.network.minilm import check_minilm_sizes, minilm_folder
from aladin.network.model import Aladin, new_model
from aladin.network.variants import as_trained
from aladin.network.weights import weights_fingerprint
from aladin.training.caption_similarity import check_minilm_pieces
from aladin.training.recipe import Recipe
from aladin.training.start_settings import as_the_recipe_begins
from aladin.training.teachers import Learner, Student, Teacher


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    model: Aladin
    tokenizer: Path  # a tokenizer.json
    teachers: Mapping[str, Teacher] = field(default_factory=dict)  # by their kinds
    fresh_projection: bool = False  # it is to become the principal axes of the tokens
    origin: Mapping[str, str] = field(default_factory=dict)  # name and fingerprint of what `model` was
    minilm: Path | None = None  # the folder of MiniLM-L6; None: its package's

    @property
    def origins(self) -> dict[str, Any]:
        """What a run records of it: "start", and "teachers" with the models of each kind that has any."""
        teachers = {kind: teacher.origin for kind, teacher in self.teachers.items() if teacher.origin}
        return ({"start": dict(self.origin)} if self.origin else {}) | ({"teachers": teachers} if teachers else {})


def start_model(recipe: Recipe, folder: Path | None = None, minilm: Path | None = None) -> Start:
    """The model of `folder`, or MiniLM-L6 with fresh heads; and the teachers that the recipe names.

    ConfigError if the one or the others are not what the recipe needs: before an hour goes into features.
    """
    if recipe.model.heads.added_dim:
        raise ConfigError(
            "global_dim and hub_centres in [model.heads] are no settings of training; leave them out, and add both to the "
            "trained model by `aladin add-global-head` and `aladin correct-hubs`"
        )
    torch.manual_seed(recipe.seed)
    fresh_projection = False
    if folder is not None:
        model = as_trained(model_that_learns(folder))
        tokenizer, origin = folder / "tokenizer.json", named_model(folder)
        fresh_projection = "projection" in recipe.train and recipe.model.heads.token_dim != model.config.heads.token_dim
        model = as_the_recipe_begins(model, recipe)
    else:
        tokenizer, model = _new(recipe, minilm or minilm_folder())
        origin = {"name": "MiniLM-L6", "fingerprint": weights_fingerprint((minilm or minilm_folder()) / "model.safetensors")}
    if recipe.loss.needs_caption_similarity:
        check_minilm_pieces(tokenizer, minilm)
    return Start(model, tokenizer, teachers_of(recipe, model, tokenizer, minilm), fresh_projection, origin, minilm)


def teachers_of(recipe: Recipe, model: Aladin, tokenizer: Path, minilm: Path | None = None) -> dict[str, Teacher]:
    """The recipe's teachers by their kinds; ConfigError for one that cannot teach `model`."""
    loss = recipe.loss
    scales: dict[Student, float] = {"alignment": loss.alignment_scale, "matching": loss.student_scale}
    learner = Learner(model, tokenizer, minilm, scales, recipe.seed)
    return {settings.kind: settings.opened(learner) for settings in recipe.teacher}


def _new(recipe: Recipe, minilm: Path) -> tuple[Path, Aladin]:
    """MiniLM's tokenizer.json, and MiniLM with fresh heads; ConfigError if a run by this recipe cannot begin so."""
    if "backbone" not in recipe.train:
        raise ConfigError(
            f"train is {list(recipe.train)}, so the transformer stays as it is, and without --start its embedding of "
            "regions is random; give --start a model folder whose backbone was trained, such as recipes/align.toml makes"
        )
    check_minilm_sizes(recipe.model.backbone)
    tokenizer = minilm / "tokenizer.json"
    return tokenizer, new_model(recipe.model, WordPieces.of(tokenizer, recipe.model.preprocessing), minilm=minilm)
