"""The backbone that a model's settings ask for."""

from aladin.encoder.config import ModelConfig
from aladin.network.backbone import Backbone
from aladin.network.grid import grid_network
from aladin.network.region_transformer import RegionTransformer


def new_backbone(config: ModelConfig, pretrained: bool = False) -> Backbone:
    """A backbone of these sizes; with `pretrained` its image networks have ImageNet's weights, all else is random.

    ConfigError where two settings contradict each other.
    """
    photographs = config.image.source == "photograph"
    return RegionTransformer(config, grid_network(config.image.networks, pretrained) if photographs else None)
