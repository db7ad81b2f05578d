"""The teacher whose models judge only what they have not learned from (cross_fitting.py).

They cost nothing at search time, so they may see photographs through more networks than the student. A detector's regions are
seen as they are.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from aladin.config import at_least
from aladin.encoder.config import ImageConfig, ImageNetwork
from aladin.encoder.preprocessing import Preprocessing
from aladin.errors import ConfigError
from aladin.network.backbone import ImageSet
from aladin.network.detections import RegionSet
from aladin.network.grid import SHRINKAGE, GridNetwork, grid_network
from aladin.network.grid_features import GridFeatures, PhotographReader
from aladin.network.minilm import minilm
from aladin.network.run import Run
from aladin.pictures.fitting import Fitting
from aladin.training.batches import Step
from aladin.training.caption_similarity import check_minilm_pieces
from aladin.training.cross_fitting import CrossFittedScores, CrossFitting, fold_of_each, pictures_read, sentences_read
from aladin.training.learning_set import Reader
from aladin.training.sharing import first_alone
from aladin.training.teachers.teacher import Learner, Lessons, Losses, Scores, Teacher, TeacherSettings

FILE = "cross_fitted.safetensors"  # in the run's folder
TAGS = 1  # of an image; the teacher reads none, but features are kept with their tags


@dataclass(frozen=True)
class CrossFittedSettings(TeacherSettings):
    """ListNet towards small models of whole pictures and sentences, learned before the first step."""

    kind: Literal["cross_fitted"] = "cross_fitted"
    networks: tuple[ImageNetwork, ...] = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    size: int = 288  # px a side, a multiple of 32
    folds: int = 5  # parts of the training set, each judged by models that learned from all others
    epochs: int = 40  # of each of those models

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(2, self, "folds")
        at_least(1, self, "epochs")
        Preprocessing(size=self.size)
        ImageConfig(self.networks)

    def opened(self, learner: Learner) -> "CrossFittedTeacher":
        check_minilm_pieces(learner.tokenizer, learner.minilm)
        if not learner.model.backbone.reads_photographs:
            return CrossFittedTeacher(self, learner, None)
        if self.size % SHRINKAGE:
            raise ConfigError(f"size of the teacher of kind 'cross_fitted' is {self.size}; expected a multiple of {SHRINKAGE}")
        return CrossFittedTeacher(self, learner, grid_network(self.networks))


class CrossFittedTeacher(Teacher):
    """Scores the pairs of one fold, so a step of training reads images of one."""

    settings: CrossFittedSettings

    def __init__(self, settings: CrossFittedSettings, learner: Learner, network: GridNetwork | None) -> None:
        super().__init__(settings, learner)
        self._network, self._seed = network, learner.seed
        self._scores: CrossFittedScores

    @property
    def readers(self) -> tuple[Reader, ...]:
        if self._network is None:
            return ()
        return (Reader(PhotographReader(self._network, Fitting(self.settings.size), TAGS), name="the cross-fitted teacher"),)

    def folds(self, images: int) -> Int[np.ndarray, " images"]:
        return fold_of_each(images, self.settings.folds, self._seed)

    def prepare(self, run: Run, lessons: Lessons) -> None:
        """Hear what this run has heard before, or learn it."""
        path = lessons.folder / FILE
        # Every process reads the images: what one does within `first_alone` the others must not wait for in there.
        seen = None if lessons.goes_on else self._seen(lessons)
        # Of several processes one learns, and the others hear it from the disk: none may have scores of its own.
        with first_alone(run):
            if run.writes and seen is not None:
                self._learned(run, lessons, seen).save(path)
            self._scores = CrossFittedScores.load(path)

    def _seen(self, lessons: Lessons) -> ImageSet:
        (seen,) = [lessons.images(reader) for reader in self.readers] or [lessons.data.images]
        return seen

    def _learned(self, run: Run, lessons: Lessons, seen: ImageSet) -> CrossFittedScores:
        assert isinstance(seen, GridFeatures | RegionSet), "photographs through its own networks, or a detector's regions"
        with lessons.progress.step("the cross-fitted teacher's images") as progress:
            network = None if self._network is None else self._network.to(run.device)
            pictures = pictures_read(seen, network, self._seed, progress)
        sentences = sentences_read(lessons.data.pieces, minilm(lessons.minilm), run)
        fitting = CrossFitting(pictures, sentences, lessons.similarity(), lessons.plan, self.settings.epochs, self._seed, run)
        with lessons.progress.step("the cross-fitted teacher's models") as progress:
            return fitting.scores(progress)

    def losses(self, step: Step, matching: Scores, alignment: Scores) -> Losses:
        teacher_scores = self._scores.scores(step.images, step.captions)
        return self.listnet(teacher_scores, self._scores.scale, matching, alignment)
