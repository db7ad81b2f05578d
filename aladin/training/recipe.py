"""A recipe: which parts learn, by which losses, how fast, for how long."""

import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aladin.config import above_zero, at_least, from_table, read_toml
from aladin.encoder.config import ImageConfig, ImageNetwork, ModelConfig
from aladin.errors import ConfigError

Part = Literal["backbone", "image_network", "matching_head", "projection", "cross_encoder"]
AlignmentLoss = Literal["hinge", "infonce"]
MatchingLoss = Literal["hinge", "infonce"]
DistillationLoss = Literal["listnet", "mse", "ordinal", "contrastive"]


@dataclass(frozen=True)
class LossConfig:
    """Which losses are added, with what weight (0: left out) and which form (spec sections 2 and 3)."""

    alignment: float = 1.0
    alignment_form: AlignmentLoss = "infonce"
    matching: float = 0.0
    matching_form: MatchingLoss = "hinge"
    distillation: float = 0.0
    distillation_form: DistillationLoss = "listnet"
    caption_teacher: float = 0.0  # ListNet on alignment scores, towards the likeness of captions (see caption_teacher.py)
    caption_teacher_scale: float = 20.0  # inverse temperature of that likeness, a cosine
    cross_encoder: float = 0.0  # of that head: cross-entropy of an image's pairs and of others that nearly fit
    cross_encoder_scale: float = 10.0  # how much likelier others are drawn that sound alike; 0: all alike, without MiniLM
    pair_teacher: float = 0.0  # ListNet on short lists, towards the cross-encoder of another model, the recipe's `teacher`
    pair_teacher_of: Literal["matching", "alignment"] = "matching"  # the scores that learn from it
    pair_teacher_list: int = 8  # how many of a batch each query's list has at least: those that alignment ranks first
    pair_teacher_scale: float = 1.0  # inverse temperature of the teacher's log odds
    ensemble_alignment: float = 0.0  # ListNet on alignment scores, towards those of other models, the recipe's `ensemble`
    ensemble_matching: float = 0.0  # the same on matching scores
    ensemble_scale: float = 30.0  # inverse temperature of the mean of the other models' alignment scores
    cross_fitted_alignment: float = 0.0  # ListNet on alignment scores, towards the teacher of [cross_fitted]
    cross_fitted_matching: float = 0.0  # the same on matching scores
    entropy: float = 0.0  # keeps matching vectors apart (spread_loss)
    hidden_l1: float = 0.0  # on the transformer's states (activity_loss); the original's weight: 0.001
    learned_weights: bool = False  # losses weigh themselves; the weights above then only say which count
    distillation_from_epoch: int = 0  # the student waits until then
    margin: float = 0.2  # of every hinge
    ordinal_stride: int = 3  # how many of the teacher's ranks apart the ordinal form compares, which then keep the margin
    ordinal_threshold: float = 0.1  # and only where the teacher gives the better of the two at least that score
    hardest_negatives: bool = True
    alignment_scale: float = 20.0  # inverse temperature of infonce on alignment scores
    matching_scale: float = 20.0  # inverse temperature of infonce on matching scores
    teacher_scale: float = 20.0  # ListNet's, on alignment scores; the paper: 1, on sums over words
    student_scale: float = 20.0  # ListNet's, on matching scores; the paper: 6

    def __post_init__(self) -> None:
        at_least(0, self, "alignment", "matching", "distillation", "caption_teacher", "margin")
        at_least(
            0, self, "cross_encoder", "cross_encoder_scale", "pair_teacher", "entropy", "hidden_l1", "distillation_from_epoch"
        )
        at_least(0, self, "ensemble_alignment", "ensemble_matching", "cross_fitted_alignment", "cross_fitted_matching")
        at_least(1, self, "ordinal_stride")
        at_least(2, self, "pair_teacher_list")
        scales = ("alignment_scale", "matching_scale", "teacher_scale", "student_scale", "caption_teacher_scale")
        above_zero(self, *scales, "pair_teacher_scale", "ensemble_scale")
        if not (self.teaches_alignment or self.teaches_matching or self.cross_encoder):
            raise ConfigError(
                "alignment, matching, distillation, caption_teacher, pair_teacher, cross_encoder and both of the ensemble "
                "and of cross_fitted in [loss] are all 0; give at least one a weight above 0"
            )
        if self.learned_weights and self.entropy:
            raise ConfigError(
                f"learned_weights is true and entropy is {self.entropy}; entropy can be less than 0, and a loss below 0 would "
                "get an ever larger weight: set one of the two to false or 0"
            )

    @property
    def teaches_alignment(self) -> bool:
        """Whether a loss minds the alignment scores."""
        paired = self.pair_teacher > 0 and self.pair_teacher_of == "alignment"
        taught = (self.alignment, self.caption_teacher, self.ensemble_alignment, self.cross_fitted_alignment)
        return any(weight > 0 for weight in taught) or paired

    @property
    def needs_ensemble(self) -> bool:
        """Whether other models' alignment scores are wanted."""
        return self.ensemble_alignment > 0 or self.ensemble_matching > 0

    @property
    def needs_cross_fitted(self) -> bool:
        """Whether the teacher of [cross_fitted] is wanted."""
        return self.cross_fitted_alignment > 0 or self.cross_fitted_matching > 0

    @property
    def needs_caption_similarity(self) -> bool:
        """Whether the likeness of captions is wanted."""
        return self.caption_teacher > 0 or (self.cross_encoder > 0 and self.cross_encoder_scale > 0)

    @property
    def needs_minilm(self) -> bool:
        """Whether MiniLM has to read the captions, as it was before training."""
        return self.needs_caption_similarity or self.needs_cross_fitted

    @property
    def teaches_matching(self) -> bool:
        """Whether a loss minds the matching scores."""
        paired = self.pair_teacher > 0 and self.pair_teacher_of == "matching"
        taught = (self.matching, self.distillation, self.ensemble_matching, self.cross_fitted_matching)
        return any(weight > 0 for weight in taught) or paired


@dataclass(frozen=True)
class CrossFittedConfig:
    """The teacher whose models judge only what they have not learned from (cross_fitted_teacher.py)."""

    # What the models see photographs through (a detector's regions are seen as they are). They cost nothing at search time, so
    # they may be more than the student's own.
    networks: tuple[ImageNetwork, ...] = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
    size: int = 288  # px a side, a multiple of 32
    folds: int = 5  # parts of the training set, each judged by models that learned from all others
    epochs: int = 40  # of each of those models

    def __post_init__(self) -> None:
        at_least(2, self, "folds")
        at_least(1, self, "epochs")
        ImageConfig(self.size, self.networks)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then a cosine to zero or steps; parts that start from scratch learn faster."""

    learning_rate: float = 5e-5  # of the pre-trained transformer
    new_learning_rate: float = 5e-4  # of region embedding, projection and matching head
    image_learning_rate: float = 1e-4  # of the image network's tail
    layer_decay: float = 1.0  # every layer of the transformer learns slower than the one above it by this factor
    weight_decay: float = 0.01
    warmup_steps: int = 50
    step_epochs: int = 0  # every so many epochs all rates are divided by ten, instead of the cosine; 0: the cosine
    beta2: float = 0.98  # of the mean of squared gradients
    clip_norm: float = 2.0

    def __post_init__(self) -> None:
        rates = ("learning_rate", "new_learning_rate", "image_learning_rate")
        at_least(0, self, *rates, "weight_decay", "warmup_steps", "step_epochs")
        if not 0 <= self.beta2 < 1:
            raise ConfigError(f"beta2 is {self.beta2}; expected at least 0 and less than 1")
        above_zero(self, "clip_norm")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; expected more than 0 and at most 1")


@dataclass(frozen=True)
class Recipe:
    """One training run, as a TOML file states it."""

    train: tuple[str, ...] = ("backbone",)  # which parts learn: see Part
    epochs: int = 10  # passes over the images
    batch_images: int = 128
    captions_per_image: int = 2  # of each image in a batch, drawn anew every time
    views: int = 8  # cached views of each photograph; 1: the whole picture only
    kept_regions: int = 49  # regions of each image that a training step reads, drawn anew every time
    dropped_words: float = 0.0  # share of a caption's word pieces that a training step does not read, drawn anew every time
    fresh_matching_head: bool = False  # with a model folder to start from: begin with another matching head than its own
    image_network_from_epoch: int = 0  # until then the image network's tail stays as it is
    validate_every: int = 1  # epochs
    teacher: str = ""  # model folder whose cross-encoder pair_teacher in [loss] listens to; --teacher instead
    ensemble: tuple[str, ...] = ()  # model folders whose alignment scores the ensemble weights in [loss] listen to; --ensemble
    averaged_steps: int = 0  # validated and kept is the exponential mean of the weights over about as many steps; 0: the last
    seed: int = 88
    precision: Literal["bf16", "fp32"] = "bf16"
    loss: LossConfig = field(default_factory=LossConfig)
    cross_fitted: CrossFittedConfig = field(default_factory=CrossFittedConfig)  # heard if [loss] gives it a weight
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # Of a model that starts from a folder only these count: dropout and matching_dropout, more image networks than it has with
    # their size of image, token_dim where the projection learns, and depth aggregation and post-layers where it has none.
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        unknown = set(self.train) - set(typing.get_args(Part))
        if unknown or not self.train:
            choices = ", ".join(map(repr, typing.get_args(Part)))
            raise ConfigError(f"train is {list(self.train)}; expected one or more of {choices}")
        if len(set(self.train)) < len(self.train):
            raise ConfigError(f"train is {list(self.train)}; expected each part once")
        at_least(1, self, "epochs", "captions_per_image", "views", "kept_regions", "validate_every")
        at_least(0, self, "image_network_from_epoch", "averaged_steps", "seed")
        if not 0 <= self.dropped_words < 1:
            raise ConfigError(f"dropped_words is {self.dropped_words}; expected at least 0 and less than 1")
        if self.batch_images < 2:
            raise ConfigError(
                f"batch_images is {self.batch_images}; expected at least 2, since the others of a batch are the negatives"
            )
        self._check_that_everything_learns()

    def _check_that_everything_learns(self) -> None:
        if self.cross_fitted != CrossFittedConfig() and not self.loss.needs_cross_fitted:
            raise ConfigError(
                "[cross_fitted] describes a teacher, but cross_fitted_alignment and cross_fitted_matching in [loss] are 0; "
                "give one a weight, or leave the table out"
            )
        if self.dropped_words and not {"backbone", "image_network"} & set(self.train):
            raise ConfigError("dropped_words has a share, but captions of a frozen transformer are encoded once; set it to 0")
        if "matching_head" in self.train and not self.loss.teaches_matching:
            raise ConfigError(
                'train names "matching_head", but matching, distillation, ensemble_matching and cross_fitted_matching in '
                "[loss] are 0 and pair_teacher does not teach it; give one a weight"
            )
        if self.train == ("matching_head",) and self.loss.teaches_alignment:
            raise ConfigError(
                'train names only "matching_head", which alignment scores do not depend on; set alignment, caption_teacher, '
                'ensemble_alignment and cross_fitted_alignment in [loss] to 0 and pair_teacher_of to "matching"'
            )
        if ("cross_encoder" in self.train) != (self.loss.cross_encoder > 0):
            raise ConfigError(
                f"train is {list(self.train)} and cross_encoder in [loss] is {self.loss.cross_encoder}; "
                'name "cross_encoder" if and only if cross_encoder in [loss] has a weight'
            )
        if "projection" in self.train and not self.loss.teaches_alignment:
            raise ConfigError('train names "projection", but alignment in [loss] is 0 and nothing else teaches it; give it one')


def read_recipe(path: Path) -> Recipe:
    """The recipe that a TOML file states; settings left out keep their defaults."""
    return from_table(Recipe, read_toml(path), str(path))
