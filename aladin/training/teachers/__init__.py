"""Who teaches a model beside the truth: one file a kind, and its name here."""

from aladin.training.teachers.caption_similarity import CaptionSimilaritySettings
from aladin.training.teachers.cross_encoder import CrossEncoderSettings
from aladin.training.teachers.cross_fitted import CrossFittedSettings
from aladin.training.teachers.ensemble import EnsembleSettings
from aladin.training.teachers.teacher import Learner, Lessons, Student, Teacher, TeacherSettings

# What a [[teacher]] table may be, told apart by its `kind`.
AnyTeacher = CaptionSimilaritySettings | CrossEncoderSettings | EnsembleSettings | CrossFittedSettings

__all__ = ["AnyTeacher", "Learner", "Lessons", "Student", "Teacher", "TeacherSettings"]
