"""A recipe: which parts learn, by which losses, how fast, for how long."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aladin.config import above_zero, at_least, from_table, read_toml, shares, stated_settings, to_table
from aladin.encoder.config import ModelConfig
from aladin.errors import ConfigError
from aladin.network.run import Precision
from aladin.old_names import present_recipe
from aladin.training.teachers import AnyTeacher

Part = Literal["backbone", "image_network", "matching_head", "projection", "cross_encoder"]
AlignmentLoss = Literal["hinge", "infonce"]
MatchingLoss = Literal["hinge", "infonce"]
DistillationLoss = Literal["listnet", "mse", "ordinal", "contrastive", "contrastive_original"]
OWN_LOSSES = ("alignment", "matching", "distillation", "cross_encoder", "entropy", "hidden_l1")  # weights in [loss]
REGULARISERS = frozenset(("entropy", "hidden_l1"))  # losses that teach nothing by themselves


@dataclass(frozen=True)
class LossConfig:
    """Which losses are added, with what weight (0: left out) and which form (spec sections 2 and 3)."""

    alignment: float = 1.0
    alignment_form: AlignmentLoss = "infonce"
    matching: float = 0.0
    matching_form: MatchingLoss = "hinge"
    distillation: float = 0.0
    distillation_form: DistillationLoss = "listnet"
    cross_encoder: float = 0.0  # of that head: cross-entropy of an image's pairs and of others that nearly fit
    cross_encoder_scale: float = 10.0  # how much likelier others with similar captions are drawn; 0: all alike, without MiniLM
    entropy: float = 0.0  # keeps matching vectors apart (spread_loss)
    hidden_l1: float = 0.0  # on the transformer's states (activity_loss); the original's weight: 0.001
    measure: Literal["dot", "order"] = "dot"  # of vectors, in the hinge of matching; search compares them by dot products alone
    learned_weights: bool = False  # losses weigh themselves; the weights here and of teachers then only say which count
    distillation_from_epoch: int = 0  # the student waits until then
    margin: float = 0.2  # of every hinge
    ordinal_stride: int = 3  # how many of the teacher's ranks apart the ordinal form compares, which then keep the margin
    ordinal_threshold: float = 0.1  # and only where the teacher gives the better of the two at least that score
    hardest_negatives: bool = True
    alignment_scale: float = 20.0  # inverse temperature of alignment scores, in infonce and where they learn from a teacher
    matching_scale: float = 20.0  # inverse temperature of infonce on matching scores
    teacher_scale: float = (
        20.0  # of alignment scores where matching learns from them by ListNet; the paper: 1, on sums over words
    )
    student_scale: float = 20.0  # of matching scores where they learn by ListNet, from a teacher too; the paper: 6

    def __post_init__(self) -> None:
        at_least(0, self, "alignment", "matching", "distillation", "cross_encoder", "cross_encoder_scale", "entropy")
        at_least(0, self, "hidden_l1", "distillation_from_epoch", "margin")
        at_least(1, self, "ordinal_stride")
        above_zero(self, "alignment_scale", "matching_scale", "teacher_scale", "student_scale")
        if self.measure == "order" and not (self.matching and self.matching_form == "hinge"):
            raise ConfigError(
                f'measure is "order", matching is {self.matching} and matching_form "{self.matching_form}"; only the hinge of '
                'matching compares vectors so: set matching_form to "hinge" and give matching a weight, or leave measure out'
            )
        if self.learned_weights and self.entropy:
            raise ConfigError(
                f"learned_weights is true and entropy is {self.entropy}; entropy can be less than 0, and a loss below 0 would "
                "get an ever larger weight: set one of the two to false or 0"
            )

    @property
    def needs_caption_similarity(self) -> bool:
        """Whether the cross-encoder's pairs are drawn by the similarity of captions."""
        return self.cross_encoder > 0 and self.cross_encoder_scale > 0


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then a cosine to zero or steps; parts that start from scratch learn faster."""

    learning_rate: float = 5e-5  # of the pre-trained transformer
    new_learning_rate: float = 5e-4  # of region embedding, projection and matching head
    image_learning_rate: float = 1e-4  # of the image network's tail
    layer_decay: float = 1.0  # every layer of the transformer learns slower than the one above it by this factor
    weight_decay: float = 0.01
    warmup_steps: int = 50
    step_epochs: int = 0  # every so many epochs all rates are multiplied by `step_factor`, instead of the cosine; 0: the cosine
    step_factor: float = 0.1
    beta2: float = 0.98  # of the mean of squared gradients
    clip_norm: float = 2.0

    def __post_init__(self) -> None:
        rates = ("learning_rate", "new_learning_rate", "image_learning_rate")
        at_least(0, self, *rates, "weight_decay", "warmup_steps", "step_epochs")
        shares(self, "beta2")
        above_zero(self, "clip_norm", "step_factor")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer_decay is {self.layer_decay}; expected more than 0 and at most 1")


@dataclass(frozen=True)
class ComputeConfig:
    """How a step is computed, which changes time and memory and not what is learned: a run may go on with other values."""

    chunk_images: int = 0  # so many images with their captions at a time, read again in the backward pass (GradCache); 0: all
    recompute_layers: bool = False  # layers' activations are computed again in the backward pass (activation checkpointing)
    compile: bool = False  # the transformer's layers by torch.compile
    tf32: bool = False  # products of fp32 in TF32, where the GPU has it
    read_ahead: int = 2  # steps whose images are read while one is taken, and are in memory then; 0: each step reads its own
    workers: int = 2  # threads that read them, each a step's

    def __post_init__(self) -> None:
        at_least(0, self, "chunk_images", "read_ahead")
        at_least(1, self, "workers")


@dataclass(frozen=True)
class Recipe:
    """One training run, as a TOML file states it."""

    train: tuple[str, ...] = ("backbone",)  # which parts learn: see Part
    epochs: int = 10  # passes over the images
    batch_images: int = 128  # of one step, by all processes together
    gradient_accumulation: int = 1  # parts of a step; its gradient is the mean of theirs, and negatives are those of a part
    shuffle: Literal["all", "shards"] = "all"  # shards: an epoch reads some shards of features at a time, as a slow disk likes
    window_shards: int = 8  # that are read together then
    captions: Literal["drawn", "each"] = "drawn"  # each: an epoch reads every one of an image's first five, its image beside it
    captions_per_image: int = 2  # of each image in a batch, drawn anew every time
    views: int = 8  # cached views of each photograph; 1: the whole picture only
    kept_regions: int = 49  # regions of each image that a training step reads, drawn anew every time
    dropped_words: float = 0.0  # share of a caption's word pieces that a training step does not read, drawn anew every time
    fresh_matching_head: bool = False  # with a model folder to start from: begin with another matching head than its own
    image_network_from_epoch: int = 0  # until then the image network's tail stays as it is
    frozen_dropout: bool = False  # whether parts that do not learn have their dropout all the same, as in the original
    validate_every: int = 1  # epochs
    validate_steps: int = 0  # and after every so many steps of the run; 0: at the ends of epochs alone
    best_by: Literal["head", "both"] = "head"  # by whose rsum; both: matching's and, if it learns, alignment's
    averaged_steps: int = 0  # validated and kept is the exponential mean of the weights over about as many steps; 0: the last
    seed: int = 88
    precision: Precision = "bf16"
    loss: LossConfig = field(default_factory=LossConfig)
    teacher: tuple[AnyTeacher, ...] = ()  # [[teacher]] tables, each of another kind
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig, compare=False)
    # Of a model that starts from a folder only the settings that are stated count, and dropout (start_settings.py).
    model: ModelConfig = field(default_factory=ModelConfig)
    stated: tuple[str, ...] = field(default=(), compare=False, metadata={"written": False})  # in [model], as a file states them

    def __post_init__(self) -> None:
        unknown = set(self.train) - set(typing.get_args(Part))
        if unknown or not self.train:
            choices = ", ".join(map(repr, typing.get_args(Part)))
            raise ConfigError(f"train is {list(self.train)}; expected one or more of {choices}")
        if len(set(self.train)) < len(self.train):
            raise ConfigError(f"train is {list(self.train)}; expected each part once")
        at_least(1, self, "epochs", "captions_per_image", "views", "kept_regions", "validate_every", "gradient_accumulation")
        at_least(1, self, "window_shards")
        at_least(0, self, "image_network_from_epoch", "averaged_steps", "seed", "validate_steps")
        if self.captions == "each" and self.captions_per_image != 1:
            raise ConfigError(
                f'captions is "each" and captions_per_image is {self.captions_per_image}; each caption stands beside its image '
                "alone: set it to 1"
            )
        shares(self, "dropped_words")
        if self.loss.distillation and self.loss.distillation_form == "contrastive_original" and self.captions_per_image != 1:
            raise ConfigError(
                f'distillation_form is "contrastive_original" and captions_per_image is {self.captions_per_image}; the '
                "original knows one caption an image: set it to 1"
            )
        if self.batch_images < 2:
            raise ConfigError(
                f"batch_images is {self.batch_images}; expected at least 2, since the others of a batch are the negatives"
            )
        if self.gradient_accumulation > 1 and self.batch_images < 2 * self.gradient_accumulation:
            raise ConfigError(
                f"gradient_accumulation is {self.gradient_accumulation} and batch_images {self.batch_images}; each part needs "
                f"2 images, since the others are the negatives: set gradient_accumulation to at most {self.batch_images // 2}"
            )
        self._check_that_everything_learns()

    def _check_that_everything_learns(self) -> None:
        kinds = [teacher.kind for teacher in self.teacher]
        if len(set(kinds)) < len(kinds):
            raise ConfigError(f"the [[teacher]] tables are of the kinds {', '.join(kinds)}; give each kind once")
        if not self.weights.keys() - REGULARISERS:
            raise ConfigError(
                "alignment, matching, distillation and cross_encoder in [loss] are all 0 and there is no [[teacher]]; give at "
                "least one a weight above 0"
            )
        if self.dropped_words and not {"backbone", "image_network"} & set(self.train):
            raise ConfigError("dropped_words has a share, but captions of a frozen transformer are encoded once; set it to 0")
        if "matching_head" in self.train and not self.teaches_matching:
            raise ConfigError(
                'train names "matching_head", but matching and distillation in [loss] are 0 and matching of every [[teacher]] '
                "is too; give one a weight"
            )
        if self.train == ("matching_head",) and self.teaches_alignment:
            raise ConfigError(
                'train names only "matching_head", which alignment scores do not depend on; set alignment in [loss] and of '
                "every [[teacher]] to 0"
            )
        if ("cross_encoder" in self.train) != (self.loss.cross_encoder > 0):
            raise ConfigError(
                f"train is {list(self.train)} and cross_encoder in [loss] is {self.loss.cross_encoder}; "
                'name "cross_encoder" if and only if cross_encoder in [loss] has a weight'
            )
        if "projection" in self.train and not self.teaches_alignment:
            raise ConfigError('train names "projection", but alignment in [loss] is 0 and nothing else teaches it; give it one')

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss that counts, in the order in which they are told."""
        own = {name: float(getattr(self.loss, name)) for name in OWN_LOSSES}
        taught = {
            f"{teacher.kind}_{student}": weight for teacher in self.teacher for student, weight in teacher.weights.items()
        }
        return {name: weight for name, weight in (own | taught).items() if weight > 0}

    @property
    def teaches_alignment(self) -> bool:
        """Whether a loss minds the alignment scores, distillation apart, which only reads them."""
        return self.loss.alignment > 0 or any(teacher.alignment for teacher in self.teacher)

    @property
    def teaches_matching(self) -> bool:
        """Whether a loss minds the matching scores."""
        return bool(self.loss.matching or self.loss.distillation) or any(teacher.matching for teacher in self.teacher)

    @property
    def model_settings(self) -> dict[str, Any]:
        """The settings of [model] asked for, such as "heads.pooling": those stated, and those unlike their defaults."""
        asked, usual = settings_by_name(self.model), settings_by_name(ModelConfig())
        return {name: value for name, value in asked.items() if name in self.stated or value != usual[name]}

    def without_paths(self) -> "Recipe":
        """The recipe as a record tells it: teachers' folders are this machine's, their names are not."""
        return dataclasses.replace(self, teacher=tuple(teacher.without_paths() for teacher in self.teacher))

    def taught_by(self, models: Mapping[str, Sequence[Path]]) -> "Recipe":
        """The recipe with other model folders for its teachers, by their kinds; ConfigError for a kind that it has not."""
        kinds = [teacher.kind for teacher in self.teacher]
        for kind, folders in models.items():
            if kind not in kinds:
                raise ConfigError(
                    f"{folders[0]} is to be the teacher of kind {kind!r}, but the recipe has no [[teacher]] of that kind; "
                    f"it has {', '.join(kinds) or 'none'}"
                )
        given = (t.with_models(models[t.kind]) if models.get(t.kind) else t for t in self.teacher)
        return dataclasses.replace(self, teacher=tuple(given))


def settings_by_name(config: ModelConfig) -> dict[str, Any]:
    """A model's settings by names such as "heads.pooling", as plain values."""
    return {f"{section}.{name}": value for section, settings in to_table(config).items() for name, value in settings.items()}


def read_recipe(path: Path) -> Recipe:
    """The recipe that a TOML file states; settings left out keep their defaults, those written under old names count."""
    return recipe_of(read_toml(path), str(path))


def recipe_of(table: dict[str, Any], name: str) -> Recipe:
    """The recipe of a table, which errors call `name`."""
    present = present_recipe(table)
    if "stated" in present:
        raise ConfigError(f"unknown setting 'stated' in {name}; leave it out")
    recipe = from_table(Recipe, present, name)
    return dataclasses.replace(recipe, stated=stated_settings(ModelConfig, present.get("model", {})))
