"""The whole network for learning: photographs and captions to vectors and tokens, by backbone and heads."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aladin.backbone import Backbone
from aladin.config import ModelConfig
from aladin.errors import ConfigError
from aladin.grid import GRID_CHANNELS, SHRINKAGE, GridNetwork, cell_geometry, class_names, grid_network
from aladin.heads import AlignmentHead, MatchingHead
from aladin.tensors import Tokens
from aladin.text import WordPieces


@dataclass(frozen=True)
class Encoded:
    """What the two heads make of a batch of images or captions; `states` are the backbone's, both heads' input."""

    states: Tokens
    tokens: Tokens
    vectors: Float[Tensor, "batch dim"]


class Aladin(nn.Module):
    """Backbone with both heads; with an image network it starts from trunk maps, otherwise from region features."""

    geometry: Tensor
    name_pieces: Tensor
    name_mask: Tensor
    special_pieces: Tensor

    def __init__(self, config: ModelConfig, image_network: GridNetwork | None) -> None:
        super().__init__()
        _check_sizes(config, with_image_network=image_network is not None)
        self.config = config
        self.backbone = Backbone(config.backbone)
        self.alignment_head = AlignmentHead(config.heads, config.backbone.dim)
        self.matching_head = MatchingHead(config.heads, config.backbone.dim)
        self.image_network = image_network
        limits = config.limits
        self.register_buffer("geometry", cell_geometry(config.image.grid), persistent=False)
        # Word pieces of each class name, and of the special tokens around an image's tags: [CLS], [SEP].
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
        return self.backbone.encode_captions(pieces, mask)

    def image_states(
        self,
        maps: Float[Tensor, "images channels rows columns"],
        classes: Int[Tensor, "images classes"],
        keep: Int[Tensor, "images kept"] | None = None,
    ) -> Tokens:
        """Backbone states for trunk maps and tags (class numbers); with `keep`, only those regions of each image are read."""
        assert self.image_network is not None, "trunk maps need an image network"
        features = self.image_network.regions(maps)
        geometry = self.geometry.to(features.dtype).expand(features.shape[0], -1, -1)
        regions = torch.cat([features, geometry], dim=-1)
        if keep is not None:
            regions = regions.gather(1, keep[:, :, None].expand(-1, -1, regions.shape[-1]))
        every = torch.ones(regions.shape[:2], dtype=torch.bool, device=regions.device)
        return self.backbone.encode_images(*self.tags(classes), Tokens(regions, every))

    def encoded_captions(self, states: Tokens) -> Encoded:
        return Encoded(states, self.alignment_head.words(states), self.matching_head(states))

    def encoded_images(self, states: Tokens) -> Encoded:
        return Encoded(states, self.alignment_head.regions(states), self.matching_head(states))


def new_model(config: ModelConfig, tokenizer: WordPieces, pretrained: bool = True) -> Aladin:
    """A model with a fresh region embedding and heads; the rest starts from MiniLM-L6 and ImageNet if `pretrained`."""
    model = Aladin(config, grid_network(pretrained))
    pieces, mask = tokenizer.name_pieces(class_names(), config.limits.tag_pieces)
    model.name_pieces.copy_(torch.from_numpy(pieces))
    model.name_mask.copy_(torch.from_numpy(mask))
    model.special_pieces.copy_(torch.tensor([tokenizer.cls, tokenizer.sep]))
    model.backbone.apply(_initialise)
    model.alignment_head.apply(_initialise)
    if pretrained:
        from aladin.checkpoints import load_minilm

        load_minilm(model.backbone)
    return model


def _check_sizes(config: ModelConfig, with_image_network: bool) -> None:
    """ConfigError where two settings contradict each other."""
    backbone, heads, limits, image = config.backbone, config.heads, config.limits, config.image
    for name, count in (("heads in [backbone]", backbone.heads), ("matching_heads in [heads]", heads.matching_heads)):
        if backbone.dim % count:
            raise ConfigError(f"dim in [backbone] is {backbone.dim} and {name} is {count}; expected a multiple of it")
    longest = max(limits.caption_pieces, 2 + limits.tags * limits.tag_pieces)
    if longest > backbone.positions:
        raise ConfigError(
            f"positions in [backbone] is {backbone.positions}, but [limits] allow {longest} word pieces; raise it or lower them"
        )
    if not with_image_network:
        return
    if image.size != SHRINKAGE * image.grid:
        raise ConfigError(f"size in [image] is {image.size} and grid is {image.grid}; expected a size of {SHRINKAGE} x grid")
    if (backbone.region_features, backbone.region_geometry) != (GRID_CHANNELS, 6):
        raise ConfigError(
            f"region_features and region_geometry in [backbone] are {backbone.region_features} and "
            f"{backbone.region_geometry}; the image network gives {GRID_CHANNELS} and 6"
        )
    if limits.tags > len(class_names()):
        raise ConfigError(f"tags in [limits] is {limits.tags}; expected at most {len(class_names())}, the classes there are")


def _initialise(module: nn.Module) -> None:
    """BERT's: normal with deviation 0.02 for every matrix, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
