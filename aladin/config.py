"""Every setting and its default, once; how they are read from TOML, and how a model folder states them.

An unknown key is an error that names the nearest known one. Sections are frozen dataclasses, nested as the TOML is.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from aladin.errors import ConfigError

Section = TypeVar("Section")
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


@dataclass(frozen=True)
class HeadsConfig:
    """Alignment head (no layers; an optional projection of its tokens) and matching head (spec sections 2 and 3.1)."""

    pooling: Pooling = "MrAVGw"
    token_dim: int = 384  # narrower than the backbone: tokens are projected linearly before they are compared
    matching_layers: int = 2
    matching_heads: int = 4
    matching_feed_forward: int = 384


@dataclass(frozen=True)
class LimitsConfig:
    """How much of a caption and of an image the model reads; longer input is cut at the end."""

    caption_pieces: int = 50  # with [CLS] and [SEP]
    tags: int = 3  # class names per image; 0: no tags
    tag_pieces: int = 3  # word pieces per class name


@dataclass(frozen=True)
class ImageConfig:
    """How a photograph becomes pixels and regions; the same in training and in search."""

    size: int = 224  # px; the whole picture is resized to size x size, without a crop
    grid: int = 7  # regions are the cells of a grid x grid map


@dataclass(frozen=True)
class ModelConfig:
    """What a model folder's model.toml states: everything that the weights alone do not tell."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    image: ImageConfig = field(default_factory=ImageConfig)


Part = Literal["backbone", "image_network", "matching_head", "projection"]
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
    margin: float = 0.2  # of every hinge
    hardest_negatives: bool = True
    alignment_scale: float = 20.0  # inverse temperature of infonce on alignment scores
    matching_scale: float = 20.0  # inverse temperature of infonce on matching scores
    teacher_scale: float = 20.0  # ListNet's, on alignment scores; the paper: 1, on sums over words
    student_scale: float = 20.0  # ListNet's, on matching scores; the paper: 6


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then a cosine to zero; parts that start from scratch learn faster."""

    learning_rate: float = 5e-5  # of the pre-trained transformer
    new_learning_rate: float = 5e-4  # of region embedding, projection and matching head
    image_learning_rate: float = 1e-4  # of the image network's tail
    weight_decay: float = 0.01
    warmup_steps: int = 50
    clip_norm: float = 2.0


@dataclass(frozen=True)
class Recipe:
    """One training run, as a TOML file states it."""

    train: tuple[str, ...] = ("backbone",)  # which parts learn: see Part
    epochs: int = 10  # passes over the images
    batch_images: int = 128
    captions_per_image: int = 2  # of each image in a batch, drawn anew every time
    views: int = 8  # cached views of each photograph; 1: the whole picture only
    kept_regions: int = 49  # regions of each image that a training step reads, drawn anew every time
    image_network_from_epoch: int = 0  # until then the image network's tail stays as it is
    validate_every: int = 1  # epochs
    seed: int = 88
    precision: Literal["bf16", "fp32"] = "bf16"
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)  # ignored when training starts from a model folder

    def __post_init__(self) -> None:
        unknown = set(self.train) - set(typing.get_args(Part))
        if unknown or not self.train:
            choices = ", ".join(map(repr, typing.get_args(Part)))
            raise ConfigError(f"train is {list(self.train)}; expected one or more of {choices}")
        for name in ("epochs", "batch_images", "captions_per_image", "views", "kept_regions", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.batch_images < 2:
            raise ConfigError("batch_images is 1; expected at least 2, since the others of a batch are the negatives")


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
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown setting {key!r} in {name}; {hint}")
        values[key] = _typed(hints[key], value, key, name)
    try:
        return section(**values)
    except TypeError as error:
        raise ConfigError(f"{name} is incomplete: {error}; add the missing setting") from None


def to_table(section: Any) -> dict[str, Any]:
    """The settings of a section as plain values, for writing to TOML or JSON; unset ones (None) are left out."""
    plain = dataclasses.asdict(section)

    def without_none(table: dict[str, Any]) -> dict[str, Any]:
        return {k: without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}

    return without_none(plain)


def _typed(hint: Any, value: Any, key: str, section: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} in {section} is {value!r}; expected a table [{key}]")
        return from_table(typing.cast(type, hint), value, f"[{key}]")
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(map(repr, typing.get_args(hint)))
            raise ConfigError(f"{key} in {section} is {value!r}; expected one of {choices}")
        return value
    if typing.get_origin(hint) is types.UnionType:
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{key} in {section} is {value!r}; expected a list")
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key} in {section} is {value!r}; expected {hint.__name__}")
    return value
