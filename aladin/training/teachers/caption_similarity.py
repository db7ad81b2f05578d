"""Captions that say nearly the same as the teacher: a batch's other dogs in the grass are not called wrong."""

from dataclasses import dataclass
from typing import Literal

from aladin.config import above_zero
from aladin.network.run import Run
from aladin.training.batches import Step
from aladin.training.caption_similarity import CaptionSimilarity, check_minilm_pieces
from aladin.training.teachers.teacher import Learner, Lessons, Losses, Scores, Teacher, TeacherSettings


@dataclass(frozen=True)
class CaptionSimilaritySettings(TeacherSettings):
    """ListNet towards the similarity of captions, by MiniLM as it was before training."""

    kind: Literal["caption_similarity"] = "caption_similarity"
    scale: float = 20.0  # inverse temperature of that similarity, a cosine

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "scale")

    def opened(self, learner: Learner) -> Teacher:
        check_minilm_pieces(learner.tokenizer, learner.minilm)
        return CaptionSimilarityTeacher(self, learner)


class CaptionSimilarityTeacher(Teacher):
    """Compares each caption of a batch with the captions of each image."""

    settings: CaptionSimilaritySettings
    similarity: CaptionSimilarity

    def prepare(self, run: Run, lessons: Lessons) -> None:
        self.similarity = lessons.similarity()

    def losses(self, step: Step, matching: Scores, alignment: Scores) -> Losses:
        scores = self.similarity.scores(step.images, step.captions)
        return self.listnet(scores, self.settings.scale, matching, alignment)
