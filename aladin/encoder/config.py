"""What a model folder's model.toml states: sizes, heads, limits, how an image becomes regions."""

from dataclasses import dataclass, field
from typing import Literal

from aladin.config import IF_CHANGED, above_zero, at_least, finite, shares
from aladin.encoder.preprocessing import Preprocessing
from aladin.errors import ConfigError
from aladin.pictures.boxes import Box
from aladin.pictures.fitting import seen

HUB_DIMS = 8  # that the correction of hubs adds to every vector and token
DepthForm = Literal["last", "mean", "gated"]  # which layers' states a head reads: the last one's, or all, aggregated
Pooling = Literal["MrSw", "MrAVGw", "MwSr", "symm", "sum", "mean", "scan-sentences"]
ImageNetwork = Literal["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]


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
    attention_dropout: float = 0.0  # of attention weights; the original: 0.1

    def __post_init__(self) -> None:
        at_least(1, self, "vocabulary", "positions", "dim", "layers", "heads", "feed_forward", "region_features")
        at_least(0, self, "region_geometry")
        shares(self, "dropout", "attention_dropout")

    @property
    def forgets(self) -> bool:
        """Whether it has any dropout."""
        return self.dropout > 0 or self.attention_dropout > 0


@dataclass(frozen=True)
class HeadsConfig:
    """Alignment head (no layers; an optional projection of its tokens) and matching head (spec sections 2 and 3.1)."""

    pooling: Pooling = "MrAVGw"
    token_dim: int = 384  # narrower than the backbone: tokens are projected linearly before they are compared
    matching_layers: int = 2
    matching_heads: int = 4
    matching_feed_forward: int = 384
    matching_depth: DepthForm = "last"  # spec sections 3.5 and 12; off in all of the paper's current configurations
    alignment_depth: DepthForm = "last"  # the matching head reads it too, unless it has a depth of its own
    post_layers: int = 0  # of a transformer on the last state, whose output joins what `matching_depth` aggregates
    alignment_layers: int = 0  # of a transformer before the alignment head alone; the original's "teran-layers"
    alignment_layers_shared: bool = True  # by captions and images
    added_feed_forward: int = 0  # of both transformers, whose heads are `matching_heads`; 0: `matching_feed_forward`
    matching_dropout: float = 0.0  # in the matching head's layers and in both transformers', attention included; the paper: 0.1
    depth_dropout: float = 0.0  # in gates and fusion of depth aggregation; the original: 0.1
    cross_encoder: bool = False  # a third head, on captions and images read together (cross-encoder)
    global_dim: int = 0  # of the vectors of the global head (aladin/network/global_head.py); 0: none
    global_share: float = 0.5  # of each squared length, so the weight of its cosine among the others'
    global_axes: int = 256  # principal axes that it reads of a picture; of more it would learn more by heart
    global_hidden: int = 1024
    hub_centres: int = 0  # in each bank of the correction of hubs (aladin/network/hubs.py); 0: none
    hub_scale: float = 20.0  # inverse temperature of nearness
    hub_weight: float = 0.6  # of nearness, subtracted from every score

    def __post_init__(self) -> None:
        at_least(1, self, "token_dim", "matching_layers", "matching_heads", "matching_feed_forward")
        at_least(1, self, "global_axes", "global_hidden")
        at_least(0, self, "post_layers", "alignment_layers", "added_feed_forward", "global_dim", "hub_centres", "hub_weight")
        finite(self, "global_share", "hub_scale", "hub_weight")
        above_zero(self, "hub_scale")
        if not 0 < self.global_share < 1:
            raise ConfigError(f"global_share is {self.global_share}; expected more than 0 and less than 1")
        shares(self, "matching_dropout", "depth_dropout")
        if self.post_layers and self.matching_depth == "last":
            raise ConfigError(
                f'post_layers is {self.post_layers} and matching_depth is "last"; nothing would read them: set matching_depth '
                'to "mean" or "gated", or post_layers to 0'
            )

    @property
    def encoded_token_dim(self) -> int:
        """How many numbers a token has that leaves the model."""
        return self.token_dim + self.added_dim

    @property
    def added_dim(self) -> int:
        """How many numbers every vector and token has beside those of the heads that learned by training."""
        return self.global_dim + HUB_DIMS * (self.hub_centres > 0)

    @property
    def depth(self) -> dict[str, DepthForm | int | bool]:
        """The settings of what stands between the backbone's layers and the heads."""
        return {
            "matching_depth": self.matching_depth,
            "alignment_depth": self.alignment_depth,
            "post_layers": self.post_layers,
            "alignment_layers": self.alignment_layers,
            "alignment_layers_shared": self.alignment_layers_shared,
            "added_feed_forward": self.added_feed_forward,
        }

    @property
    def deep(self) -> bool:
        """Whether a head reads more than the last layer's states."""
        return self.matching_depth != "last" or self.alignment_depth != "last"


@dataclass(frozen=True)
class LimitsConfig:
    """How much of an image the model reads beside its pixels; more is cut at the end."""

    tags: int = 3  # class names per photograph; 0: no tags
    tag_pieces: int = 3  # word pieces per class name of a photograph
    regions: int = 34  # of a detector's, the first ones of the file
    object_pieces: int = 50  # of all object names of a detector, with the first token and [SEP]

    def __post_init__(self) -> None:
        at_least(2, self, "object_pieces")
        at_least(0, self, "tags")
        at_least(1, self, "tag_pieces", "regions")


@dataclass(frozen=True)
class ImageConfig:
    """How an image becomes regions; the same in training and in search."""

    networks: tuple[ImageNetwork, ...] = ("efficientnet-lite0",)  # each adds 1,280 features a region; tags are the last one's
    grid: int = 7  # regions are the cells of a grid x grid map; finer maps of the image networks are averaged to it
    source: Literal["photograph", "detector"] = "photograph"  # detector: of a feature folder; networks and grid mean nothing

    def __post_init__(self) -> None:
        at_least(1, self, "grid")
        if not self.networks or len(set(self.networks)) < len(self.networks):
            raise ConfigError(f"networks is {list(self.networks)}; expected one or more, each once")


@dataclass(frozen=True)
class QuirksConfig:
    """What the original code does and own training does not, each explained in official.py; a converted model has them all."""

    image_first_token: Literal["[CLS]", "[UNK]"] = "[CLS]"
    region_as_cls: bool = False
    last_piece_dropped: bool = False
    zero_padding: bool = False
    equal_layers: bool = False


@dataclass(frozen=True)
class EncoderConfig:
    """The table [encoder]: what a public encoder is that was added as a model; a model of aladin's own has none.

    Its graphs give its own vectors beside tokens. What search compares is composed of both (`aladin.encoder.composition`).
    """

    family: str = ""  # such as "clip" or "siglip"; "": a model of aladin's own
    dim: int = 0  # of its vectors
    share: float = 0.0  # of regions and words in a score, of which its vectors' cosine is the rest
    scale: float = 0.0  # by which it multiplies a cosine for a probability of its own; 0: it has none
    bias: float = 0.0  # that it adds then
    sigmoid: bool = False  # whether a sigmoid of this is the probability of one pair; else it only compares several

    def __post_init__(self) -> None:
        at_least(0, self, "dim", "scale")
        finite(self, "share", "scale", "bias")
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is {self.share}; expected 0 to 1")
        if self.sigmoid and not self.scale:
            raise ConfigError("sigmoid is true and scale 0; expected the scale that the encoder learned")
        if bool(self.family) != (self.dim > 0):
            raise ConfigError(f"family is {self.family!r} and dim {self.dim}; expected both, or neither of them")


@dataclass(frozen=True)
class ModelConfig:
    """What a model folder's model.toml states: everything that the weights alone do not tell."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    quirks: QuirksConfig = field(default_factory=QuirksConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    encoder: EncoderConfig = field(default_factory=EncoderConfig, metadata=IF_CHANGED)

    def __post_init__(self) -> None:
        if self.encoder.family:
            if self.heads.pooling != "MrAVGw" or self.heads.added_dim:
                raise ConfigError('an encoder was given heads of aladin\'s own; set pooling to "MrAVGw" and leave out others')
            return
        for name in ("first_piece", "last_piece"):
            if not getattr(self.preprocessing, name):
                raise ConfigError(f"{name} is ''; expected a piece of the tokenizer, such as [CLS]")

    @property
    def regions(self) -> int:
        """How many regions a photograph has."""
        return self.image.grid**2

    def region_boxes(self, picture: Box) -> tuple[Box, ...]:
        """Where a photograph's regions are in it, or in a part of it that was looked at by itself; in their order."""
        return seen(picture, self.preprocessing.fitting).cells(self.image.grid)

    @property
    def vector_dim(self) -> int:
        """How many numbers an image's or a caption's vector has that leaves the model."""
        return self.encoder.dim or self.backbone.dim + self.heads.added_dim
