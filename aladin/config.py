"""Every setting and its default, once; how they are read from TOML, and how a model folder states them.

An unknown key is an error that names the nearest known one. Sections are frozen dataclasses, nested as the TOML is.
"""

import dataclasses
import difflib
import math
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from aladin.errors import ConfigError
from aladin.old_names import SETTINGS, VALUES

Section = TypeVar("Section")
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
MIN_DECODE_MB = 192  # a decoding process below that cannot read ordinary photographs
ENCODING_MB = 448  # what the process itself needs beside its decoders: ONNX Runtime, the network, one batch
MOST_FRAMES = 100  # of one file: their pixels are held at once
HUB_DIMS = 8  # that the correction of hubs adds to every vector and token
DepthForm = Literal["last", "mean", "gated"]  # which layers' states a head reads: the last one's, or all, aggregated
Pooling = Literal["MrSw", "MrAVGw", "MwSr", "symm", "sum", "mean", "scan-sentences"]


@dataclass(frozen=True)
class BackboneConfig:
    """The shared transformer (spec section 1.4); the defaults are MiniLM-L6's sizes."""

    vocabulary: int = 30522
    positions: int = 512
    dim: int = 384
    layers: int = 6
    heads: int = 12
    feed_forward: int = 1536
    region_features: int = 1280
    region_geometry: int = 6  # x1, y1, x2, y2, width, height, each as a share of the image
    region_layer_norm: bool = True
    layer_norm_eps: float = 1e-12
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _at_least(1, self, "vocabulary", "positions", "dim", "layers", "heads", "feed_forward", "region_features")
        _at_least(0, self, "region_geometry")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; expected at least 0 and less than 1")


@dataclass(frozen=True)
class HeadsConfig:
    """Alignment head (no layers; an optional projection of its tokens) and matching head (spec sections 2 and 3.1)."""

    pooling: Pooling = "MrAVGw"
    token_dim: int = 384  # narrower than the backbone: tokens are projected linearly before they are compared
    matching_layers: int = 2
    matching_heads: int = 4
    matching_feed_forward: int = 384
    matching_depth: DepthForm = "last"  # spec section 3.5; off in all of the paper's current configurations
    alignment_depth: DepthForm = "last"
    post_layers: int = 0  # of a transformer between backbone and heads, with the matching head's sizes
    matching_dropout: float = 0.0  # in the matching head's layers and those of post_layers, attention included; the paper: 0.1
    cross_encoder: bool = False  # a third head, on captions and images read together (cross-encoder)
    global_dim: int = 0  # of the vectors of the global head (aladin/network/global_head.py); 0: none
    global_share: float = 0.5  # of each squared length, so the weight of its cosine among the others'
    global_axes: int = 256  # principal axes that it reads of a picture; of more it would learn more by heart
    global_hidden: int = 1024
    hub_centres: int = 0  # in each bank of the correction of hubs (aladin/network/hubs.py); 0: none
    hub_scale: float = 20.0  # inverse temperature of nearness
    hub_weight: float = 0.6  # of nearness, subtracted from every score

    def __post_init__(self) -> None:
        _at_least(1, self, "token_dim", "matching_layers", "matching_heads", "matching_feed_forward")
        _at_least(1, self, "global_axes", "global_hidden")
        _at_least(0, self, "post_layers", "global_dim", "hub_centres", "hub_weight")
        _above_zero(self, "hub_scale")
        if not 0 < self.global_share < 1:
            raise ConfigError(f"global_share is {self.global_share}; expected more than 0 and less than 1")
        if not 0 <= self.matching_dropout < 1:
            raise ConfigError(f"matching_dropout is {self.matching_dropout}; expected at least 0 and less than 1")

    @property
    def encoded_token_dim(self) -> int:
        """How many numbers a token has that leaves the model."""
        return self.token_dim + self.added_dim

    @property
    def added_dim(self) -> int:
        """How many numbers every vector and token has beside those of the heads that learned by training."""
        return self.global_dim + HUB_DIMS * (self.hub_centres > 0)

    @property
    def depth(self) -> tuple[DepthForm, DepthForm, int]:
        """What stands between the backbone's layers and the heads."""
        return self.matching_depth, self.alignment_depth, self.post_layers

    @property
    def deep(self) -> bool:
        """Whether a head reads more than the last layer's states."""
        return self.matching_depth != "last" or self.alignment_depth != "last"


@dataclass(frozen=True)
class LimitsConfig:
    """How much of a caption and of an image the model reads; longer input is cut at the end."""

    caption_pieces: int = 50  # with [CLS] and [SEP]
    tags: int = 3  # class names per photograph; 0: no tags
    tag_pieces: int = 3  # word pieces per class name of a photograph
    regions: int = 34  # of a detector's, the first ones of the file
    object_pieces: int = 50  # of all object names of a detector, with the first token and [SEP]

    def __post_init__(self) -> None:
        _at_least(2, self, "caption_pieces", "object_pieces")
        _at_least(0, self, "tags")
        _at_least(1, self, "tag_pieces", "regions")


ImageNetwork = Literal["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes regions; the same in training and in search."""

    size: int = 224  # px; the whole picture is resized to size x size, without a crop
    networks: tuple[ImageNetwork, ...] = ("efficientnet-lite0",)  # each adds 1,280 features a region; tags are the last one's
    grid: int = 7  # regions are the cells of a grid x grid map; finer maps of the image networks are averaged to it
    source: Literal["photograph", "detector"] = "photograph"  # detector: of a feature folder; size and grid mean nothing

    def __post_init__(self) -> None:
        _at_least(1, self, "size", "grid")
        if not self.networks or len(set(self.networks)) < len(self.networks):
            raise ConfigError(f"networks is {list(self.networks)}; expected one or more, each once")


@dataclass(frozen=True)
class QuirksConfig:
    """What the original code does and own training does not, each explained in official.py; a converted model has them all."""

    image_first_token: Literal["[CLS]", "[UNK]"] = "[CLS]"
    region_as_cls: bool = False
    last_piece_dropped: bool = False
    zero_padding: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """What a model folder's model.toml states: everything that the weights alone do not tell."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    quirks: QuirksConfig = field(default_factory=QuirksConfig)

    @property
    def vector_dim(self) -> int:
        """How many numbers an image's or a caption's vector has that leaves the model."""
        return self.backbone.dim + self.heads.added_dim


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
        _at_least(0, self, "alignment", "matching", "distillation", "caption_teacher", "margin")
        _at_least(
            0, self, "cross_encoder", "cross_encoder_scale", "pair_teacher", "entropy", "hidden_l1", "distillation_from_epoch"
        )
        _at_least(0, self, "ensemble_alignment", "ensemble_matching", "cross_fitted_alignment", "cross_fitted_matching")
        _at_least(1, self, "ordinal_stride")
        _at_least(2, self, "pair_teacher_list")
        scales = ("alignment_scale", "matching_scale", "teacher_scale", "student_scale", "caption_teacher_scale")
        _above_zero(self, *scales, "pair_teacher_scale", "ensemble_scale")
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
        _at_least(2, self, "folds")
        _at_least(1, self, "epochs")
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
        _at_least(0, self, *rates, "weight_decay", "warmup_steps", "step_epochs")
        if not 0 <= self.beta2 < 1:
            raise ConfigError(f"beta2 is {self.beta2}; expected at least 0 and less than 1")
        _above_zero(self, "clip_norm")
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
        _at_least(1, self, "epochs", "captions_per_image", "views", "kept_regions", "validate_every")
        _at_least(0, self, "image_network_from_epoch", "averaged_steps", "seed")
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


@dataclass(frozen=True)
class IndexConfig:
    """How a folder is read into its collection."""

    batch_images: int = 8  # encoded at once and committed at once; what a killed run repeats is at most that
    workers: int = 0  # processes that decode; 0: one a core
    decode_seconds: float = 20.0  # for one file, on the clock
    decode_memory_mb: int = 2048  # of each decoding process
    max_memory_mb: int = 0  # of this process and its decoders together, see DecodingLimits; 0: no ceiling
    follow_symlinks: bool = False  # links may lead out of the folder
    confirm_deletes: bool = False  # forget the images whose files are gone
    retry_failed: bool = False  # read files again that could not be read before
    frames: int = 0  # pictures of a file that holds several; 0: as many as the collection has been told before, at first 1

    def __post_init__(self) -> None:
        _at_least(1, self, "batch_images")
        _at_least(0, self, "workers", "max_memory_mb", "frames")
        if self.frames > MOST_FRAMES:
            raise ConfigError(f"frames is {self.frames}; expected at most {MOST_FRAMES}")
        _at_least(MIN_DECODE_MB, self, "decode_memory_mb")
        _above_zero(self, "decode_seconds")
        least = ENCODING_MB + MIN_DECODE_MB
        if 0 < self.max_memory_mb < least:
            raise ConfigError(f"the memory ceiling is {self.max_memory_mb} MB; expected at least {least} MB, or none")


def read_recipe(path: Path) -> Recipe:
    """The recipe that a TOML file states; settings left out keep their defaults."""
    return from_table(Recipe, read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; a ConfigError with the position when it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}; give the path of a TOML file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}; correct it and try again") from None


def from_table(section: type[Section], table: dict[str, Any], name: str = "the top level") -> Section:
    """`table` as a value of the dataclass `section`; keys left out keep their defaults."""
    known = {f.name: f for f in dataclasses.fields(section)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(section)
    values: dict[str, Any] = {}
    for written, value in table.items():
        key = written if written in known else SETTINGS.get(written, written)
        if key in values:
            old = next(other for other in table if SETTINGS.get(other) == key)
            raise ConfigError(f"{name} has {old!r} and {key!r}, the old and the new name of one setting; leave one out")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown setting {key!r} in {name}; {hint}")
        values[key] = _typed(hints[key], value, key, name)
    try:
        return section(**values)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def to_table(section: Any) -> dict[str, Any]:
    """The settings of a section as plain values, for writing to TOML or JSON."""
    plain: dict[str, Any] = dataclasses.asdict(section, dict_factory=lambda pairs: {k: _plain(v) for k, v in pairs})
    return plain


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _typed(hint: Any, value: Any, key: str, section: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} in {section} is {value!r}; expected a table [{key}]")
        return from_table(typing.cast(type, hint), value, _nested(section, key))
    if typing.get_origin(hint) is Literal:
        value = VALUES.get(value, value) if isinstance(value, str) and value not in typing.get_args(hint) else value
        if value not in typing.get_args(hint):
            choices = ", ".join(map(repr, typing.get_args(hint)))
            raise ConfigError(f"{key} in {section} is {value!r}; expected one of {choices}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{key} in {section} is {value!r}; expected a list")
        return tuple(_typed(typing.get_args(hint)[0], item, f"item {n} of {key}", section) for n, item in enumerate(value, 1))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key} in {section} is {value!r}; expected {KINDS[hint]}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{key} in {section} is {value}; expected a finite number")
    return value


def _nested(section: str, key: str) -> str:
    """The name of table `key` inside `section`: [loss] of recipe.toml, [model.heads] of recipe.toml."""
    if section.startswith("["):
        return section.replace("]", f".{key}]", 1)
    return f"[{key}] of {section}"


def _at_least(least: int, section: Any, *names: str) -> None:
    for name in names:
        if getattr(section, name) < least:
            raise ConfigError(f"{name} is {getattr(section, name)}; expected at least {least}")


def _above_zero(section: Any, *names: str) -> None:
    for name in names:
        if getattr(section, name) <= 0:
            raise ConfigError(f"{name} is {getattr(section, name)}; expected more than 0")
