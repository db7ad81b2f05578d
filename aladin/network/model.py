"""The whole network for learning: photographs and captions to vectors and tokens, by backbone and heads."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aladin.encoder.config import ModelConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError
from aladin.network import official
from aladin.network.backbone import Backbone
from aladin.network.depth import PostLayers, alignment_depth, matching_depth
from aladin.network.global_head import GlobalHead
from aladin.network.grid import GRID_CHANNELS, SHRINKAGE, GridNetwork, cell_geometry, cell_pooling, class_names, grid_network
from aladin.network.heads import CrossEncoderHead, MatchingHead
from aladin.network.hubs import HubCorrection, Side
from aladin.network.minilm import load_minilm
from aladin.network.tensors import ImageInput, Tokens

NEVER_LEARNED = tuple(f"image_network.{part}." for part in ("trunks", "tag_tail", "classifier"))  # of weights


@dataclass(frozen=True)
class Encoded:
    """What heads make of a batch of images or captions; `states` are what those that learn by training read."""

    states: Tokens
    tokens: Tokens
    vectors: Float[Tensor, "batch dim"]


class Aladin(nn.Module):
    """Backbone with its heads; with an image network it starts from trunk maps, without from a detector's regions."""

    geometry: Tensor
    pooling: Tensor
    name_pieces: Tensor
    name_mask: Tensor
    special_pieces: Tensor

    def __init__(self, config: ModelConfig, image_network: GridNetwork | None) -> None:
        super().__init__()
        _check_sizes(config)
        self.config = config
        self.backbone = Backbone(config.backbone, config.heads.deep)
        self.post_layers = PostLayers(config.heads, config.backbone.dim) if config.heads.post_layers else None
        self.matching_depth = matching_depth(config.heads, config.backbone.dim)
        self.alignment_depth = alignment_depth(config.heads, config.backbone.dim)
        self.alignment_head = official.alignment_head(config)
        self.matching_head = MatchingHead(config.heads, config.backbone.dim)
        self.cross_encoder = CrossEncoderHead(config.backbone.dim) if config.heads.cross_encoder else None
        self.global_head = new_global_head(config, self.state_dim) if config.heads.global_dim else None
        self.hub_correction = HubCorrection(config.heads, uncorrected_dim(config)) if config.heads.hub_centres else None
        self.image_network = image_network
        if image_network is None:
            return
        limits = config.limits
        cells = config.image.size // SHRINKAGE
        self.register_buffer("geometry", cell_geometry(config.image.grid), persistent=False)
        self.register_buffer("pooling", cell_pooling(cells, config.image.grid), persistent=False)
        # Word pieces of each class name, and of the special tokens around an image's tags: as a rule [CLS], [SEP].
        self.register_buffer("name_pieces", torch.zeros(len(class_names()), limits.tag_pieces, dtype=torch.int64))
        self.register_buffer("name_mask", torch.zeros(len(class_names()), limits.tag_pieces, dtype=torch.bool))
        self.register_buffer("special_pieces", torch.zeros(2, dtype=torch.int64))

    def tags(self, classes: Int[Tensor, "images classes"]) -> tuple[Int[Tensor, "images tags"], Bool[Tensor, "images tags"]]:
        """The tag sequence of each image, [CLS] names [SEP], and its mask; a name shorter than its slots leaves a gap."""
        names = self.name_pieces[classes].flatten(1)
        special = self.special_pieces.expand(classes.shape[0], 2)
        first, last = special[:, :1], special[:, 1:]
        real = torch.ones_like(first, dtype=torch.bool)
        mask = torch.cat([real, self.name_mask[classes].flatten(1), real], dim=1)
        return torch.cat([first, names, last], dim=1), mask

    def caption_states(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Tokens:
        return self._read_on(self.backbone.encode_captions(pieces, mask))

    def image_input(
        self,
        maps: Float[Tensor, "images channels rows columns"],
        classes: Int[Tensor, "images classes"],
        keep: Int[Tensor, "images kept"] | None = None,
    ) -> ImageInput:
        """What the transformer reads of trunk maps and tags (class numbers); with `keep`, only those regions of each image."""
        assert self.image_network is not None, "trunk maps need an image network"
        features = self.image_network.regions(maps)
        if features.shape[1] != len(self.geometry):
            features = self.pooling.to(features.dtype) @ features
        geometry = self.geometry.to(features.dtype).expand(features.shape[0], -1, -1)
        regions = torch.cat([features, geometry], dim=-1)
        if keep is not None:
            regions = regions.gather(1, keep[:, :, None].expand(-1, -1, regions.shape[-1]))
        every = torch.ones(regions.shape[:2], dtype=torch.bool, device=regions.device)
        return ImageInput(*self.tags(classes), Tokens(regions, every))

    def image_states(self, images: ImageInput) -> Tokens:
        """States of images as the heads read them: of the token that stands for each, then of its regions."""
        encoded = self.backbone.encode_images(images.tags, images.tag_mask, images.regions)
        return self._read_on(official.image_states(encoded, self.config.quirks))

    @property
    def state_dim(self) -> int:
        """How many numbers the states of a token have that the heads read."""
        heads, backbone = self.config.heads, self.config.backbone
        return backbone.dim * (1 + backbone.layers + (heads.post_layers > 0)) if heads.deep else backbone.dim

    def pair_scores(
        self, pieces: Int[Tensor, "pairs words"], mask: Bool[Tensor, "pairs words"], images: ImageInput
    ) -> Float[Tensor, " pairs"]:
        """How likely each caption matches its image, as log odds: read together, so nothing of it can be stored for search."""
        assert self.cross_encoder is not None, "this model has no cross-encoder"
        scores: Tensor = self.cross_encoder(
            self.backbone.encode_pairs(pieces, mask, images.tags, images.tag_mask, images.regions)
        )
        return scores

    def encoded_captions(self, states: Tokens) -> Encoded:
        """What the two heads that learn by training make of captions."""
        words = self.alignment_head.words(self.alignment_depth(states))
        return Encoded(states, words, self.matching_head(self.matching_depth(states)))

    def encoded_images(self, states: Tokens) -> Encoded:
        """What the two heads that learn by training make of images."""
        regions = self.alignment_head.regions(self.alignment_depth(states))
        return Encoded(states, regions, self.matching_head(self.matching_depth(states)))

    def captions(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Encoded:
        """Captions as they are searched: by all heads, hubs corrected."""
        states = self.caption_states(pieces, mask)
        whole = None if self.global_head is None else self.global_head.sentences(states)
        return self._as_searched(self.encoded_captions(states), whole, "captions")

    def images(self, read: ImageInput) -> Encoded:
        """Images as they are searched: by all heads, hubs corrected."""
        whole = None if self.global_head is None else self.global_head.pictures(read.regions)
        return self._as_searched(self.encoded_images(self.image_states(read)), whole, "images")

    def _as_searched(self, encoded: Encoded, whole: Float[Tensor, "batch whole"] | None, side: Side) -> Encoded:
        vectors, tokens = encoded.vectors, encoded.tokens
        if self.global_head is not None and whole is not None:
            vectors, tokens = self.global_head.joined(vectors, tokens, whole)
        if self.hub_correction is not None:
            vectors, tokens = self.hub_correction(vectors, tokens, side)
        return Encoded(encoded.states, tokens, vectors)

    def _read_on(self, states: Tokens) -> Tokens:
        return states if self.post_layers is None else self.post_layers(states, self.config.heads.deep)


def new_model(config: ModelConfig, tokenizer: WordPieces, pretrained: bool = True) -> Aladin:
    """A model with a fresh region embedding and heads; the rest starts from MiniLM-L6 and ImageNet if `pretrained`."""
    model = Aladin(config, image_network(config, pretrained))
    if model.image_network is not None:
        pieces, mask = tokenizer.name_pieces(class_names(), config.limits.tag_pieces)
        model.name_pieces.copy_(torch.from_numpy(pieces))
        model.name_mask.copy_(torch.from_numpy(mask))
        first = tokenizer.special(config.quirks.image_first_token)
        model.special_pieces.copy_(torch.tensor([first, tokenizer.sep]))
    model.backbone.apply(initialise)
    model.alignment_head.apply(initialise)
    if model.cross_encoder is not None:
        model.cross_encoder.apply(initialise)
    if pretrained:
        load_minilm(model.backbone)
    return model


def new_global_head(config: ModelConfig, state_dim: int) -> GlobalHead:
    """A global head that has learned nothing, for a model of these settings."""
    backbone = config.backbone
    return GlobalHead(config.heads, backbone.region_features + backbone.region_geometry, state_dim)


def uncorrected_dim(config: ModelConfig) -> int:
    """How many numbers a vector has before its hubs are corrected."""
    return config.backbone.dim + config.heads.global_dim


def image_network(config: ModelConfig, pretrained: bool) -> GridNetwork | None:
    """The network that reads photographs, or None for a model that reads a detector's regions."""
    return grid_network(config.image.networks, pretrained) if config.image.source == "photograph" else None


def _check_sizes(config: ModelConfig) -> None:
    """ConfigError where two settings contradict each other."""
    backbone, heads, limits, image = config.backbone, config.heads, config.limits, config.image
    for name, count in (("heads in [backbone]", backbone.heads), ("matching_heads in [heads]", heads.matching_heads)):
        if backbone.dim % count:
            raise ConfigError(f"dim in [backbone] is {backbone.dim} and {name} is {count}; expected a multiple of it")
    photograph = image.source == "photograph"
    longest = max(limits.caption_pieces, 2 + limits.tags * limits.tag_pieces if photograph else limits.object_pieces)
    if longest > backbone.positions:
        raise ConfigError(
            f"positions in [backbone] is {backbone.positions}, but [limits] allow {longest} word pieces; raise it or lower them"
        )
    if not photograph:
        return
    if image.size % SHRINKAGE or image.size < SHRINKAGE * image.grid:
        raise ConfigError(
            f"size in [image] is {image.size} and grid is {image.grid}; expected a multiple of {SHRINKAGE}, at least "
            f"{SHRINKAGE} x grid"
        )
    features = GRID_CHANNELS * len(image.networks)
    if (backbone.region_features, backbone.region_geometry) != (features, 6):
        raise ConfigError(
            f"region_features and region_geometry in [backbone] are {backbone.region_features} and "
            f"{backbone.region_geometry}; the image networks give {features} and 6"
        )
    if limits.tags > len(class_names()):
        raise ConfigError(f"tags in [limits] is {limits.tags}; expected at most {len(class_names())}, the classes there are")


def initialise(module: nn.Module) -> None:
    """BERT's: normal with deviation 0.02 for every matrix, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
