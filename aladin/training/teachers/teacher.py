"""What every teacher is: settings in a [[teacher]] table of a recipe, and losses of scores that learn from its own scores.

A teacher is a file of this folder: settings, which `opened` checks and makes a teacher of, and that teacher, which prepares
for a run once and then has losses at every step.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from aladin.config import at_least
from aladin.errors import ConfigError
from aladin.network.backbone import ImageSet
from aladin.network.model import Aladin
from aladin.network.run import Run
from aladin.progress import SILENT, Steps
from aladin.training.batches import Plan, Step
from aladin.training.caption_similarity import CaptionSimilarity
from aladin.training.learning_set import ImagesSeen, LearningSet, Reader
from aladin.training.losses import listnet_loss

Student = Literal["alignment", "matching"]  # the scores of the model that learn from a teacher
Scores = Float[Tensor, "images captions"]
Losses = dict[Student, Float[Tensor, ""]]
Settings = TypeVar("Settings", bound="TeacherSettings")
Models = TypeVar("Models", bound="TaughtByModels")


@dataclass(frozen=True)
class Learner:
    """The model that is to be taught, as far as its teachers have to know it."""

    model: Aladin
    tokenizer: Path  # a tokenizer.json
    minilm: Path | None  # the folder of MiniLM-L6; None: its package's
    scales: Mapping[Student, float]  # inverse temperatures of its scores
    seed: int


@dataclass(frozen=True)
class Lessons:
    """What a run learns from, and what its teachers may use to prepare."""

    data: LearningSet
    plan: Plan
    images: ImagesSeen  # for a teacher's `readers`
    similarity: Callable[[], CaptionSimilarity]  # computed once, when it is first wanted
    minilm: Path | None
    folder: Path  # of the run, where a teacher may keep what took long
    read: ImageSet  # the images of `data` as steps read them, ahead of time
    goes_on: bool = False  # after steps in which the teacher was heard already
    progress: Steps = SILENT


@dataclass(frozen=True)
class TeacherSettings:
    """One [[teacher]] table. What learns from the teacher, with which weight, is said alike in all kinds."""

    kind: str = ""
    alignment: float = 0.0  # weight of the loss of alignment scores that learn from it; 0: they do not
    matching: float = 0.0  # the same of matching scores

    def __post_init__(self) -> None:
        at_least(0, self, "alignment", "matching")
        if not self.weights:
            raise ConfigError(f"the teacher of kind {self.kind!r} has no weight; give alignment or matching one above 0")

    @property
    def weights(self) -> dict[Student, float]:
        """Of each student that learns from the teacher."""
        weights: dict[Student, float] = {"alignment": self.alignment, "matching": self.matching}
        return {student: weight for student, weight in weights.items() if weight > 0}

    def with_models(self: Settings, folders: Sequence[Path]) -> Settings:
        """The same with these model folders as teachers; ConfigError for a kind that reads none."""
        raise ConfigError(f"a teacher of kind {self.kind!r} reads no model folder, but {folders[0]} was given; leave it out")

    def without_paths(self: Settings) -> Settings:
        """The same as a record tells it, which leaves out where this machine keeps things."""
        return self

    def opened(self, learner: Learner) -> "Teacher":
        """The teacher, not prepared yet. ConfigError if it cannot teach this model, before hours go into features."""
        raise NotImplementedError


@dataclass(frozen=True)
class TaughtByModels(TeacherSettings):
    """Settings of a kind whose teachers are other models."""

    models: tuple[str, ...] = ()  # their folders; the command line's --teacher KIND=FOLDER instead

    def with_models(self: Models, folders: Sequence[Path]) -> Models:
        return dataclasses.replace(self, models=tuple(map(str, folders)))

    def without_paths(self: Models) -> Models:
        return dataclasses.replace(self, models=tuple(Path(folder).name for folder in self.models))

    def check_models(self) -> None:
        """ConfigError if no model is named."""
        if not self.models:
            raise ConfigError(
                f"the teacher of kind {self.kind!r} names no model; give folders by models in its [[teacher]] table, or by "
                f"--teacher {self.kind}=FOLDER"
            )


class Teacher(ABC):
    """Who has losses for a model's scores. `readers`, `origin` and `folds` may stay as they are here."""

    reads_images: ClassVar[bool] = False  # all of every step, by `Lessons.read`

    def __init__(self, settings: TeacherSettings, learner: Learner) -> None:
        self.settings, self.scales = settings, learner.scales

    @property
    def readers(self) -> tuple[Reader, ...]:
        """Who beside the model sees the training images; their features are computed before the first step."""
        return ()

    @property
    def origin(self) -> dict[str, Any]:
        """What a run records of the teacher: its models, by name and fingerprint."""
        return {}

    def folds(self, images: int) -> Int[np.ndarray, " images"] | None:
        """The fold of each of so many training images, if the teacher can compare only those of one fold."""
        return None

    @abstractmethod
    def prepare(self, run: Run, lessons: Lessons) -> None:
        """Compute what no step changes. Called once, before the first step."""

    @abstractmethod
    def losses(self, step: Step, matching: Scores, alignment: Scores) -> Losses:
        """The loss, not weighed, of each student that the settings name."""

    def listnet(self, teacher_scores: Scores, scale: float, matching: Scores, alignment: Scores) -> Losses:
        """ListNet of each student towards `teacher_scores`, `scale` their inverse temperature."""
        students: dict[Student, Scores] = {"alignment": alignment, "matching": matching}
        teacher_scores = teacher_scores.to(matching.device)
        return {
            student: listnet_loss(students[student], teacher_scores, self.scales[student], scale)
            for student in self.settings.weights
        }
