"""Other models' alignment scores, together, as the teacher of one model's alignment and matching scores.

Models that were trained apart err apart: the mean of their scores orders images and captions far better than the best of
them does, and a model that learns from the mean keeps a part of that for itself (docs/experiments.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aladin.encoder.config import Pooling
from aladin.encoder.word_pieces import Pieces
from aladin.errors import ConfigError
from aladin.evaluation.encoding import encode_captions, encode_images
from aladin.exporting.restoring import model_that_learns
from aladin.network.detections import RegionSet
from aladin.network.features import Features
from aladin.network.model import Aladin
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens
from aladin.network.variants import as_trained
from aladin.progress import SILENT, Progress
from aladin.training.recipe import Recipe


def ensemble_members(recipe: Recipe, model: Aladin, tokenizer: Path) -> tuple[Aladin, ...]:
    """The models that a recipe names as teachers, without dropout and hub correction; none if it names none.

    ConfigError if their scores cannot be added, or nobody listens to them. They may see images through other networks.
    """
    listened = recipe.loss.needs_ensemble
    if listened and not recipe.ensemble:
        raise ConfigError(
            "ensemble_alignment or ensemble_matching in [loss] has a weight, but there is no ensemble; name model folders by "
            "ensemble in the recipe or by --ensemble"
        )
    if recipe.ensemble and not listened:
        raise ConfigError(
            f"the ensemble is {list(recipe.ensemble)}, but ensemble_alignment and ensemble_matching in [loss] are 0; give one "
            "a weight"
        )
    return tuple(_member(Path(folder), model, tokenizer) for folder in recipe.ensemble)


def _member(folder: Path, model: Aladin, tokenizer: Path) -> Aladin:
    member = as_trained(model_that_learns(folder)).eval()
    if (folder / "tokenizer.json").read_bytes() != tokenizer.read_bytes():
        raise ConfigError(f"{folder} has other word pieces than {tokenizer}; give models with the same tokenizer.json")
    ours, its = model.config, member.config
    if its.heads.pooling != ours.heads.pooling:
        raise ConfigError(
            f"{folder} scores by {its.heads.pooling}, the model that learns by {ours.heads.pooling}; give models of one pooling"
        )
    if its.limits.caption_pieces != ours.limits.caption_pieces:
        raise ConfigError(
            f"{folder} reads {its.limits.caption_pieces} pieces of a caption, the model that learns "
            f"{ours.limits.caption_pieces}; give models with the same caption_pieces in [limits]"
        )
    if its.image.source != ours.image.source:
        raise ConfigError(
            f"{folder} reads images from a {its.image.source}, the model that learns from a {ours.image.source}; give models "
            "that read the same"
        )
    return member


@dataclass(frozen=True)
class EnsembleTeacher:
    """What each member makes of a training set: the regions of every whole image and the words of every caption.

    In bfloat16 an image takes 38 kB and a caption 17 kB a member (49 regions, 22 words, 384 numbers each).
    """

    members: tuple[tuple[Tokens, Tokens], ...]
    pooling: Pooling

    @classmethod
    def build(
        cls,
        models: Sequence[Aladin],
        images: Sequence[Features | RegionSet],
        pieces: Pieces,
        precision: str,
        progress: Progress = SILENT,
    ) -> "EnsembleTeacher":
        """`images`: the training images as each of the models reads them, in its order."""
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        members = []
        for model, read in zip(models, images, strict=True):
            regions = encode_images(model, read, precision, progress).tokens
            words = encode_captions(model, pieces, precision).tokens
            members.append((Tokens(regions.states.to(dtype), regions.mask), Tokens(words.states.to(dtype), words.mask)))
        return cls(tuple(members), models[0].config.heads.pooling)

    @torch.no_grad()
    def scores(
        self, images: Int[np.ndarray, " images"], captions: Int[np.ndarray, " captions"]
    ) -> Float[Tensor, "images captions"]:
        """The mean of the members' alignment scores, by rows of the training set."""
        rows, columns = torch.from_numpy(images), torch.from_numpy(captions)
        scores = []
        for regions, words in self.members:
            longest = int(words.mask[columns].sum(dim=1).max())
            read = Tokens(words.states[columns, :longest], words.mask[columns, :longest])
            scores.append(alignment_scores(regions[rows], read, self.pooling).float())
        return torch.stack(scores).mean(dim=0)
