"""Another model's cross-encoder as the teacher of scores that are computed apart.

It reads image and caption together, so every pair costs it a run of the transformer. It is asked only for short lists:
positives, and those that the student takes for nearly as good, where it has most to learn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aladin.config import above_zero, at_least
from aladin.encoder.word_pieces import Pieces
from aladin.errors import ConfigError
from aladin.network.backbone import ImageSet
from aladin.network.checkpoints import load_model, named_model
from aladin.network.model import Aladin
from aladin.network.pairs import scored_pairs
from aladin.network.run import Run
from aladin.network.tensors import ImageInput
from aladin.training.batches import Step
from aladin.training.learning_set import LearningSet
from aladin.training.losses import listed_listnet_loss
from aladin.training.teachers.teacher import Learner, Lessons, Losses, Scores, Student, TaughtByModels, Teacher


@dataclass(frozen=True)
class CrossEncoderSettings(TaughtByModels):
    """ListNet on short lists towards the cross-encoder of another model, the one that `models` names."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    list_length: int = 8  # how many of a batch each query's list has at least: those that alignment ranks first
    scale: float = 1.0  # inverse temperature of the teacher's log odds

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "list_length")
        above_zero(self, "scale")

    def opened(self, learner: Learner) -> "CrossEncoderTeacher":
        self.check_models()
        if len(self.models) > 1:
            raise ConfigError(f"the teacher of kind 'cross_encoder' names {len(self.models)} models; expected one")
        folder = Path(self.models[0])
        return CrossEncoderTeacher(self, learner, _checked(load_model(folder), folder, learner), named_model(folder))


class CrossEncoderTeacher(Teacher):
    """Scores the pairs that alignment finds hardest, as the student reads them in that step."""

    reads_images = True
    settings: CrossEncoderSettings

    def __init__(self, settings: CrossEncoderSettings, learner: Learner, model: Aladin, name: dict[str, str]) -> None:
        super().__init__(settings, learner)
        self.model, self._name = model, name
        self._run: Run
        self._data: LearningSet
        self._images: ImageSet

    @property
    def origin(self) -> dict[str, Any]:
        return {"models": [self._name]}

    def prepare(self, run: Run, lessons: Lessons) -> None:
        self._run, self._data, self._images = run, lessons.data, lessons.read
        self.model.to(run.device)

    def losses(self, step: Step, matching: Scores, alignment: Scores) -> Losses:
        keep = None if step.keep is None else self._run.put(step.keep)
        listed = listed_pairs(alignment, self._run.put(step.positives), self.settings.list_length)
        with torch.inference_mode(), self._run.context():
            images = self.model.backbone.seen(self._run.put(self._images.read(step.images, step.views)), keep)
            scores = listed_scores(self.model, images, self._data.pieces, step.captions, listed)
        teacher_scores = scores.clone()  # an inference tensor takes no part in what a gradient is computed of
        students: dict[Student, Scores] = {"alignment": alignment, "matching": matching}
        return {
            student: listed_listnet_loss(students[student], teacher_scores, listed, self.scales[student], self.settings.scale)
            for student in self.settings.weights
        }


def listed_pairs(
    scores: Float[Tensor, "images captions"], positives: Bool[Tensor, "images captions"], size: int
) -> Bool[Tensor, "images captions"]:
    """The pairs that the teacher is asked for: of each image and of each caption the positives and the best scored others.

    These are `size` together, or fewer if there are no more. What another query asks for stands in the list too.
    """
    ranked = scores.detach().masked_fill(positives, torch.inf)
    listed = positives.clone()
    for d in (0, 1):
        listed.scatter_(d, ranked.topk(min(size, ranked.shape[d]), dim=d).indices, True)
    return listed


def listed_scores(
    teacher: Aladin,
    images: ImageInput,
    pieces: Pieces,
    captions: Int[np.ndarray, " captions"],
    listed: Bool[Tensor, "images captions"],
) -> Float[Tensor, "images captions"]:
    """The teacher's log odds of the listed pairs, 0 elsewhere; `captions` are rows of `pieces`."""
    scores = torch.zeros(listed.shape, device=listed.device)
    rows, columns = rows_and_columns(listed)
    found = scored_pairs(teacher, images, pieces, (rows, torch.from_numpy(captions)[columns])).float()
    scores[rows.to(scores.device), columns.to(scores.device)] = found
    return scores


def rows_and_columns(listed: Bool[Tensor, "images captions"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """The row and the column of every listed pair, on the processor."""
    rows, columns = listed.cpu().nonzero(as_tuple=True)
    return rows, columns


def _checked(teacher: Aladin, folder: Path, learner: Learner) -> Aladin:
    """The teacher, without dropout; ConfigError if it cannot read what the model reads."""
    if teacher.cross_encoder is None:
        raise ConfigError(f"the teacher {folder} has no cross-encoder; give a folder that recipes/cross-encoder.toml made")
    if (folder / "tokenizer.json").read_bytes() != learner.tokenizer.read_bytes():
        raise ConfigError(
            f"the teacher {folder} has other word pieces than {learner.tokenizer}; give one with the same tokenizer.json"
        )
    ours, its = learner.model.config, teacher.config
    read = [
        (config.image, config.preprocessing, config.limits, config.backbone.region_features, config.backbone.region_geometry)
        for config in (its, ours)
    ]
    if read[0] != read[1]:
        raise ConfigError(
            f"the teacher {folder} reads other images than the model does ({its.image}, {its.preprocessing}, {its.limits} "
            f"and not {ours.image}, {ours.preprocessing}, {ours.limits}); give one with the same [image], [preprocessing], "
            "[limits] and number of region features"
        )
    return teacher.eval()
