"""Other models' alignment scores, together, as the teacher of one model's alignment and matching scores.

Models that were trained apart err apart: the mean of their scores orders images and captions far better than the best of
them does, and a model that learns from the mean keeps a part of that for itself (docs/experiments.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aladin.config import above_zero
from aladin.encoder.config import Pooling
from aladin.encoder.word_pieces import Pieces
from aladin.errors import ConfigError
from aladin.evaluation.encoding import encode_captions, encode_images
from aladin.exporting.restoring import model_that_learns
from aladin.network.backbone import ImageSet
from aladin.network.checkpoints import named_model
from aladin.network.model import Aladin
from aladin.network.run import ALONE, CPU, DTYPES, Run
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens
from aladin.network.variants import as_trained
from aladin.progress import SILENT, Progress
from aladin.training.batches import Step
from aladin.training.learning_set import Reader
from aladin.training.teachers.teacher import Learner, Lessons, Losses, Scores, TaughtByModels, Teacher


@dataclass(frozen=True)
class EnsembleSettings(TaughtByModels):
    """ListNet towards the mean of the alignment scores of `models`."""

    kind: Literal["ensemble"] = "ensemble"
    scale: float = 30.0  # inverse temperature of that mean

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "scale")

    def opened(self, learner: Learner) -> "EnsembleTeacher":
        self.check_models()
        return EnsembleTeacher(self, learner, tuple(_member(Path(folder), learner) for folder in self.models))


class EnsembleTeacher(Teacher):
    """Reads the whole training set once, by each member's own network."""

    settings: EnsembleSettings

    def __init__(self, settings: EnsembleSettings, learner: Learner, members: tuple[Aladin, ...]) -> None:
        super().__init__(settings, learner)
        self.members, self._tokenizer = members, learner.tokenizer  # which is theirs too
        self._encoded: EncodedEnsemble

    @property
    def readers(self) -> tuple[Reader, ...]:
        members = zip(self.members, self.settings.models, strict=True)
        return tuple(Reader(member.backbone.image_reader(self._tokenizer), name=folder) for member, folder in members)

    @property
    def origin(self) -> dict[str, Any]:
        return {"models": [named_model(Path(folder)) for folder in self.settings.models]}

    def prepare(self, run: Run, lessons: Lessons) -> None:
        images = [lessons.images(reader) for reader in self.readers]
        with lessons.progress.step("the ensemble's images") as progress:
            self._encoded = EncodedEnsemble.of(self.members, images, lessons.data.pieces, run, progress)

    def losses(self, step: Step, matching: Scores, alignment: Scores) -> Losses:
        teacher_scores = self._encoded.scores(step.images, step.captions)
        return self.listnet(teacher_scores, self.settings.scale, matching, alignment)


@dataclass(frozen=True)
class EncodedEnsemble:
    """What each member makes of a training set: the regions of every whole image and the words of every caption.

    In bfloat16 an image takes 38 kB and a caption 17 kB a member (49 regions, 22 words, 384 numbers each).
    """

    members: tuple[tuple[Tokens, Tokens], ...]
    pooling: Pooling
    run: Run = ALONE

    @classmethod
    def of(
        cls,
        models: Sequence[Aladin],
        images: Sequence[ImageSet],
        pieces: Pieces,
        run: Run = ALONE,
        progress: Progress = SILENT,
    ) -> "EncodedEnsemble":
        """`images`: the training images as each of the models reads them, in its order."""
        dtype = DTYPES.get(run.precision, torch.float32)
        members = []
        for model, read in zip(models, images, strict=True):
            model = model.to(run.device)
            regions = encode_images(model, read, run, progress).tokens
            words = encode_captions(model, pieces, run).tokens
            model.to(CPU)  # its room is the learner's now
            members.append((Tokens(regions.states.to(dtype), regions.mask), Tokens(words.states.to(dtype), words.mask)))
        return cls(tuple(members), models[0].config.heads.pooling, run)

    @torch.no_grad()
    def scores(
        self, images: Int[np.ndarray, " images"], captions: Int[np.ndarray, " captions"]
    ) -> Float[Tensor, "images captions"]:
        """The mean of the members' alignment scores, by rows of the training set."""
        rows, columns = torch.from_numpy(images), torch.from_numpy(captions)
        scores = []
        for regions, words in self.members:
            longest = int(words.mask[columns].sum(dim=1).max())
            read = self.run.put(Tokens(words.states[columns, :longest], words.mask[columns, :longest]))
            scores.append(alignment_scores(self.run.put(regions[rows]), read, self.pooling).float())
        return torch.stack(scores).mean(dim=0)


def _member(folder: Path, learner: Learner) -> Aladin:
    """One of the models, without dropout and what was added after training; ConfigError if its scores cannot be added.

    It may see images through another network.
    """
    member = as_trained(model_that_learns(folder)).eval()
    if (folder / "tokenizer.json").read_bytes() != learner.tokenizer.read_bytes():
        raise ConfigError(f"{folder} has other word pieces than {learner.tokenizer}; give models with the same tokenizer.json")
    ours, its = learner.model.config, member.config
    if its.heads.pooling != ours.heads.pooling:
        raise ConfigError(
            f"{folder} scores by {its.heads.pooling}, the model that learns by {ours.heads.pooling}; give models of one pooling"
        )
    if its.preprocessing.caption_pieces != ours.preprocessing.caption_pieces:
        raise ConfigError(
            f"{folder} reads {its.preprocessing.caption_pieces} pieces of a caption, the model that learns "
            f"{ours.preprocessing.caption_pieces}; give models with the same caption_pieces in [preprocessing]"
        )
    if its.image.source != ours.image.source:
        raise ConfigError(
            f"{folder} reads images from a {its.image.source}, the model that learns from a {ours.image.source}; give models "
            "that read the same"
        )
    return member
