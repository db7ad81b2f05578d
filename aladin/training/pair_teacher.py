"""Another model's cross-encoder as the teacher of scores that are computed apart.

It reads image and caption together, so every pair costs it a run of the transformer. It is asked only for short lists: own
pairs, and those that the student takes for nearly as good, where it has most to learn.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aladin.encoder.word_pieces import Pieces
from aladin.errors import ConfigError
from aladin.network.checkpoints import load_model
from aladin.network.model import Aladin
from aladin.network.pairs import scored_pairs
from aladin.network.tensors import ImageInput
from aladin.training.recipe import Recipe


def pair_teacher(recipe: Recipe, model: Aladin, tokenizer: Path) -> Aladin | None:
    """The teacher that a recipe names, without dropout; None if it names none.

    ConfigError if it cannot read what `model` reads.
    """
    if not recipe.loss.pair_teacher:
        if recipe.teacher:
            raise ConfigError(f"the teacher is {recipe.teacher}, but pair_teacher in [loss] is 0; give it a weight")
        return None
    if not recipe.teacher:
        raise ConfigError(
            f"pair_teacher in [loss] is {recipe.loss.pair_teacher}, but there is no teacher; name a model folder with a pair "
            "head by teacher in the recipe or by --teacher"
        )
    folder = Path(recipe.teacher)
    teacher = load_model(folder)
    if teacher.cross_encoder is None:
        raise ConfigError(f"the teacher {folder} has no cross-encoder; give a folder that recipes/cross-encoder.toml made")
    if (folder / "tokenizer.json").read_bytes() != tokenizer.read_bytes():
        raise ConfigError(f"the teacher {folder} has other word pieces than {tokenizer}; give one with the same tokenizer.json")
    ours, its = model.config, teacher.config
    regions = (ours.backbone.region_features, ours.backbone.region_geometry)
    if (its.image, its.limits, (its.backbone.region_features, its.backbone.region_geometry)) != (
        ours.image,
        ours.limits,
        regions,
    ):
        raise ConfigError(
            f"the teacher {folder} reads other images than the model does ({its.image}, {its.limits} and not {ours.image}, "
            f"{ours.limits}); give one with the same [image], [limits] and number of region features"
        )
    return teacher


def listed_pairs(
    scores: Float[Tensor, "images captions"], own: Bool[Tensor, "images captions"], size: int
) -> Bool[Tensor, "images captions"]:
    """The pairs that the teacher is asked for: of each image and of each caption the own ones and the best scored others.

    These are `size` together, or fewer if there are no more. What another query asks for stands in the list too.
    """
    ranked = scores.detach().masked_fill(own, torch.inf)
    listed = own.clone()
    for d in (0, 1):
        listed.scatter_(d, ranked.topk(min(size, ranked.shape[d]), dim=d).indices, True)
    return listed


def taught_scores(
    teacher: Aladin,
    images: ImageInput,
    pieces: Pieces,
    captions: Int[np.ndarray, " captions"],
    listed: Bool[Tensor, "images captions"],
) -> Float[Tensor, "images captions"]:
    """The teacher's log odds of the listed pairs, 0 elsewhere; `captions` are rows of `pieces`."""
    scores = torch.zeros(listed.shape)
    rows, columns = listed.nonzero(as_tuple=True)
    scores[rows, columns] = scored_pairs(teacher, images, pieces, (rows, torch.from_numpy(captions)[columns])).float()
    return scores
