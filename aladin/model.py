"""The whole network for learning: photographs and captions to vectors and tokens, by backbone and heads."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aladin.backbone import Backbone
from aladin.config import ModelConfig
from aladin.grid import GridNetwork, cell_geometry, grid_network
from aladin.heads import AlignmentHead, MatchingHead
from aladin.tensors import Tokens


@dataclass(frozen=True)
class Encoded:
    """What the two heads make of a batch of images or captions; `states` are the backbone's, both heads' input."""

    states: Tokens
    tokens: Tokens
    vectors: Float[Tensor, "batch dim"]


class Aladin(nn.Module):
    """Backbone with both heads; with an image network it starts from trunk maps, otherwise from region features."""

    def __init__(self, config: ModelConfig, image_network: GridNetwork | None) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone)
        self.alignment_head = AlignmentHead(config.heads, config.backbone.dim)
        self.matching_head = MatchingHead(config.heads, config.backbone.dim)
        self.image_network = image_network
        self.register_buffer("geometry", cell_geometry(config.image.grid), persistent=False)

    def caption_states(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Tokens:
        return self.backbone.encode_captions(pieces, mask)

    def image_states(
        self,
        maps: Float[Tensor, "images channels rows columns"],
        tags: Int[Tensor, "images tags"],
        tag_mask: Bool[Tensor, "images tags"],
        keep: Int[Tensor, "images kept"] | None = None,
    ) -> Tokens:
        """Backbone states for trunk maps; with `keep`, only those regions of each image are read."""
        assert self.image_network is not None, "trunk maps need an image network"
        features = self.image_network.regions(maps)
        geometry = self.geometry.to(features.dtype).expand(len(features), -1, -1)
        regions = torch.cat([features, geometry], dim=-1)
        if keep is not None:
            regions = regions.gather(1, keep[:, :, None].expand(-1, -1, regions.shape[-1]))
        return self.region_states(Tokens(regions, regions.new_ones(regions.shape[:2], dtype=torch.bool)), tags, tag_mask)

    def region_states(self, regions: Tokens, tags: Int[Tensor, "images tags"], tag_mask: Bool[Tensor, "images tags"]) -> Tokens:
        """Backbone states for region features with geometry, whatever their source."""
        return self.backbone.encode_images(tags, tag_mask, regions)

    def encoded_captions(self, states: Tokens) -> Encoded:
        return Encoded(states, self.alignment_head.words(states), self.matching_head(states))

    def encoded_images(self, states: Tokens) -> Encoded:
        return Encoded(states, self.alignment_head.regions(states), self.matching_head(states))


def new_model(config: ModelConfig, pretrained: bool = True) -> Aladin:
    """A model with a fresh region embedding and heads; the rest starts from MiniLM-L6 and ImageNet if `pretrained`."""
    model = Aladin(config, grid_network(pretrained))
    model.backbone.apply(_initialise)
    model.alignment_head.apply(_initialise)
    if pretrained:
        from aladin.checkpoints import load_minilm

        load_minilm(model.backbone)
    return model


def _initialise(module: nn.Module) -> None:
    """BERT's: normal with deviation 0.02 for every matrix, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
