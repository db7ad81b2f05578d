"""The whole network for learning: photographs and captions to vectors and tokens, by backbone and heads."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aladin.encoder.config import HeadsConfig, ModelConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.network import official
from aladin.network.backbone import Backbone
from aladin.network.backbones import new_backbone
from aladin.network.depth import AddedLayers, PostLayers, alignment_depth, matching_depth
from aladin.network.global_head import GlobalHead
from aladin.network.heads import CrossEncoderHead, MatchingHead
from aladin.network.hubs import HubCorrection, Side
from aladin.network.tensors import ImageInput, Tokens
from aladin.network.transformer import initialise


@dataclass(frozen=True)
class Encoded:
    """What heads make of a batch of images or captions; `states` are what those that learn by training read."""

    states: Tokens
    tokens: Tokens
    vectors: Float[Tensor, "batch dim"]


class Aladin(nn.Module):
    """A backbone with its heads."""

    def __init__(self, config: ModelConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.post_layers = PostLayers(config.heads, backbone.dim) if config.heads.post_layers else None
        self.matching_depth = matching_depth(config.heads, backbone.dim)
        self.alignment_depth = alignment_depth(config.heads, backbone.dim, backbone.depth)
        layers = config.heads.alignment_layers
        self.alignment_layers = AddedLayers(config.heads, backbone.dim, layers) if layers else None
        apart = layers and not config.heads.alignment_layers_shared
        self.image_alignment_layers = AddedLayers(config.heads, backbone.dim, layers) if apart else None
        self.alignment_head = official.alignment_head(config)
        self.matching_head = MatchingHead(config.heads, backbone.dim, config.quirks.equal_layers)
        self.cross_encoder = CrossEncoderHead(backbone.dim) if config.heads.cross_encoder else None
        self.global_head = self.new_global_head(config.heads) if config.heads.global_dim else None
        self.hub_correction = HubCorrection(config.heads, uncorrected_dim(config)) if config.heads.hub_centres else None

    def new_global_head(self, heads: HeadsConfig) -> GlobalHead:
        """A global head for this model that has learned nothing."""
        return GlobalHead(heads, self.backbone.image_dim, self.state_dim)

    @property
    def after_backbone(self) -> tuple[nn.Module, ...]:
        """The parts read by what the backbone is trained for, which learn with it; in an order that checkpoints count on."""
        parts = (self.post_layers, self.alignment_depth, self.alignment_layers, self.image_alignment_layers)
        return tuple(part for part in parts if part is not None)

    @property
    def matching_parts(self) -> tuple[nn.Module, ...]:
        """The matching head and what it alone reads, in an order that checkpoints count on."""
        return tuple(part for part in (self.matching_depth, self.matching_head) if part is not None)

    @property
    def never_learned(self) -> tuple[str, ...]:
        """How names of weights begin that training leaves as they are."""
        return tuple(f"backbone.{start}" for start in self.backbone.never_learned)

    def caption_states(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Tokens:
        return self._read_on(self.backbone.caption_states(pieces, mask))

    def image_states(self, images: ImageInput) -> Tokens:
        """States of images as the heads read them: of the token that stands for each, then of its regions."""
        return self._read_on(self.backbone.image_states(images))

    @property
    def state_dim(self) -> int:
        """How many numbers the states of a token have that the heads read."""
        heads = self.config.heads
        return self.backbone.dim * (self.backbone.depth + (heads.post_layers > 0))

    def pair_scores(
        self, pieces: Int[Tensor, "pairs words"], mask: Bool[Tensor, "pairs words"], images: ImageInput
    ) -> Float[Tensor, " pairs"]:
        """How likely each caption matches its image, as log odds: read together, so nothing of it can be stored for search."""
        assert self.cross_encoder is not None, "this model has no cross-encoder"
        scores: Tensor = self.cross_encoder(self.backbone.joint_states(pieces, mask, images))
        return scores

    def encoded_captions(self, states: Tokens) -> Encoded:
        """What the two heads that learn by training make of captions."""
        aligned, matched = self._read_by_heads(states)
        words = self.alignment_head.words(self.aligned(aligned, "captions"))
        return Encoded(states, words, self.matching_head(matched))

    def encoded_images(self, states: Tokens) -> Encoded:
        """What the two heads that learn by training make of images."""
        aligned, matched = self._read_by_heads(states)
        regions = self.alignment_head.regions(self.aligned(aligned, "images"))
        return Encoded(states, regions, self.matching_head(matched))

    def aligned(self, states: Tokens, side: Side) -> Tokens:
        """What the alignment head reads of states that `alignment_depth` gave."""
        own = self.image_alignment_layers if side == "images" else None
        layers = own or self.alignment_layers
        return states if layers is None else cast(Tokens, layers(states))

    def _read_by_heads(self, states: Tokens) -> tuple[Tokens, Tokens]:
        """One state a token for each of the two heads."""
        aligned: Tokens = self.alignment_depth(states)
        return aligned, aligned if self.matching_depth is None else self.matching_depth(states)

    def captions(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Encoded:
        """Captions as they are searched: by all heads, hubs corrected."""
        states = self.caption_states(pieces, mask)
        whole = None if self.global_head is None else self.global_head.sentences(states)
        return self._as_searched(self.encoded_captions(states), whole, "captions")

    def images(self, read: ImageInput) -> Encoded:
        """Images as they are searched: by all heads, hubs corrected."""
        whole = None if self.global_head is None else self.global_head.pictures(read.regions.tokens)
        return self._as_searched(self.encoded_images(self.image_states(read)), whole, "images")

    def _as_searched(self, encoded: Encoded, whole: Float[Tensor, "batch whole"] | None, side: Side) -> Encoded:
        vectors, tokens = encoded.vectors, encoded.tokens
        if self.global_head is not None and whole is not None:
            vectors, tokens = self.global_head.joined(vectors, tokens, whole)
        if self.hub_correction is not None:
            vectors, tokens = self.hub_correction(vectors, tokens, side)
        return Encoded(encoded.states, tokens, vectors)

    def _read_on(self, states: Tokens) -> Tokens:
        return states if self.post_layers is None else cast(Tokens, self.post_layers(states))


def new_model(config: ModelConfig, tokenizer: WordPieces, pretrained: bool = True, minilm: Path | None = None) -> Aladin:
    """A model with fresh heads; its backbone starts from MiniLM-L6 and ImageNet if `pretrained`.

    `minilm` is a folder with MiniLM-L6, instead of its package.
    """
    model = Aladin(config, new_backbone(config, pretrained))
    model.backbone.start(tokenizer, pretrained, minilm)
    model.alignment_head.apply(initialise)
    if model.cross_encoder is not None:
        model.cross_encoder.apply(initialise)
    return model


def uncorrected_dim(config: ModelConfig) -> int:
    """How many numbers a vector has before its hubs are corrected."""
    return config.backbone.dim + config.heads.global_dim
