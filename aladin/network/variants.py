"""A model changed in one thing: each function gives a new model, and leaves the one that it is given as it was."""

import copy
import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.config import to_table
from aladin.encoder.config import BackboneConfig, HeadsConfig, ImageConfig, ModelConfig
from aladin.encoder.pooling import POOLINGS, SEARCHABLE
from aladin.errors import ConfigError
from aladin.network import official
from aladin.network.depth import matching_depth
from aladin.network.grid import GRID_CHANNELS, grid_network
from aladin.network.heads import CrossEncoderHead, MatchingHead
from aladin.network.hubs import HubCorrection, filled
from aladin.network.model import Aladin, uncorrected_dim
from aladin.network.region_transformer import RegionTransformer
from aladin.network.transformer import SelfAttention, initialise


def with_settings(model: Aladin, config: ModelConfig) -> Aladin:
    """The model under other settings, on which no weight depends; ConfigError where they contradict each other."""
    new = Aladin(config, model.backbone.fresh(config))
    new.load_state_dict(model.state_dict())
    return new.train(model.training)


def with_fresh_matching_head(model: Aladin, heads: HeadsConfig | None = None) -> Aladin:
    """The model with a matching head that has learned nothing, of the sizes that `heads` says or of its own."""
    heads, dim = heads or model.config.heads, model.config.backbone.dim
    new = _with_heads(model, heads)
    new.matching_head = MatchingHead(heads, dim, model.config.quirks.equal_layers)
    new.matching_depth = matching_depth(heads, dim)
    return new.train(model.training)


def with_depth(model: Aladin, heads: HeadsConfig) -> Aladin:
    """The model with the depth aggregation and post-layers of `heads`, fresh ones; ConfigError if it has others."""
    before = model.config
    if before.heads.depth == heads.depth:
        return copy.deepcopy(model)
    if before.heads.depth != HeadsConfig().depth:
        raise ConfigError(
            f"of depth aggregation and added layers [model.heads] says {heads.depth}, but the model to start from has "
            f"{before.heads.depth}; give the same, or start from a model without"
        )
    config = dataclasses.replace(before, heads=dataclasses.replace(before.heads, **heads.depth))  # type: ignore[arg-type]
    new = Aladin(config, model.backbone.fresh(config))
    new.load_state_dict(new.state_dict() | model.state_dict())
    return new.train(model.training)


def with_cross_encoder(model: Aladin) -> Aladin:
    """The model with a fresh cross-encoder."""
    new = _with_heads(model, dataclasses.replace(model.config.heads, cross_encoder=True))
    new.cross_encoder = CrossEncoderHead(model.config.backbone.dim).apply(initialise).train(model.training)
    return new


def with_dropout(model: Aladin, backbone: BackboneConfig, heads: HeadsConfig) -> Aladin:
    """The model that forgets at every step of training as these settings say, otherwise its own."""
    before = model.config
    forgetful = dataclasses.replace(before.heads, matching_dropout=heads.matching_dropout, depth_dropout=heads.depth_dropout)
    new = _with_heads(model, forgetful)
    own = dataclasses.replace(before.backbone, dropout=backbone.dropout, attention_dropout=backbone.attention_dropout)
    new.config = dataclasses.replace(new.config, backbone=own)
    layers = (new.matching_head, new.post_layers, new.alignment_layers, new.image_alignment_layers)
    parts = [
        (new.backbone, backbone.dropout),
        *((part, heads.matching_dropout) for part in layers),
        *((part, heads.depth_dropout) for part in (new.matching_depth, new.alignment_depth)),
    ]
    for part, share in parts:
        for module in () if part is None else part.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = share
    for module in new.backbone.modules():
        if isinstance(module, SelfAttention):
            module.weights_dropout.p = backbone.attention_dropout
    return new


def with_projection(model: Aladin, token_dim: int) -> Aladin:
    """The model with a fresh projection of its tokens to `token_dim`; ConfigError if it has one of another width.

    It is a random rotation cut short, until training gives it the tokens' principal axes.
    """
    before, dim = model.config, model.config.backbone.dim
    if before.heads.token_dim == token_dim:
        return copy.deepcopy(model)
    if before.heads.token_dim != dim:
        raise ConfigError(
            f"token_dim in [model.heads] is {token_dim}, but the model to start from projects its tokens to "
            f"{before.heads.token_dim} already; start from one that has no projection"
        )
    new = _with_heads(model, dataclasses.replace(before.heads, token_dim=token_dim))
    new.alignment_head = official.alignment_head(new.config).train(model.training)
    for weight in new.alignment_head.parameters():
        nn.init.orthogonal_(weight)
    return new


def with_global_head(model: Aladin, heads: HeadsConfig) -> Aladin:
    """The model with a fresh global head as `heads`, otherwise its own, describe; ConfigError for what cannot have one."""
    check_addable(model.config)
    new = _with_heads(model, heads)
    new.global_head = new.new_global_head(heads).train(model.training)
    return new


def with_hub_correction(
    model: Aladin, heads: HeadsConfig, images: Float[Tensor, "images dim"], captions: Float[Tensor, "captions dim"]
) -> Aladin:
    """The model with the hub correction that `heads`, otherwise its own, describe, by vectors of training data.

    ConfigError for what `check_addable` refuses, and with less data than centres.
    """
    check_addable(model.config)
    new = _with_heads(model, heads)
    new.hub_correction = filled(HubCorrection(heads, uncorrected_dim(model.config)), images, captions).train(model.training)
    return new


def check_addable(config: ModelConfig) -> None:
    """ConfigError for a model whose hubs are corrected, which comes last, or whose scores would change by more than a sum."""
    if config.heads.hub_centres:
        raise ConfigError("this model's hubs are corrected already; give the model from before that")
    # Where words add, dimensions that an item's tokens share add the same to every word's best region.
    if not POOLINGS[config.heads.pooling].words_add or config.quirks.zero_padding:
        has = f"{config.heads.pooling}{' and zero padding' if config.quirks.zero_padding else ''}"
        raise ConfigError(
            f"a global head and the correction of hubs are for models whose alignment is one of {', '.join(SEARCHABLE)}, "
            f"without zero padding; this one has {has}"
        )


def as_trained(model: Aladin) -> Aladin:
    """The model without what was added after training, global head and correction of hubs: both are another model's, once
    it learns on or is averaged.
    """
    new = _with_heads(model, config_as_trained(model.config).heads)
    new.global_head = new.hub_correction = None
    return new


def config_as_trained(config: ModelConfig) -> ModelConfig:
    """The settings of `as_trained`."""
    none = HeadsConfig()
    added = [name for name in to_table(none) if name.startswith(("global_", "hub_"))]
    heads = dataclasses.replace(config.heads, **{name: getattr(none, name) for name in added})
    return dataclasses.replace(config, heads=heads)


def widened(model: Aladin, image: ImageConfig, size: int) -> Aladin:
    """The model with more image networks, and with pictures of `size` px a side: `image.networks` begins with those it has.

    What the new networks see counts nothing until training gives it weight; the tags are at once those of the last one.
    """
    before, networks = model.config, image.networks
    old = before.image.networks
    if networks[: len(old)] != old:
        raise ConfigError(f"networks in [image] are {list(networks)}; expected the model's own first: {list(old)}")
    wide = dataclasses.replace(before.backbone, region_features=GRID_CHANNELS * len(networks))
    preprocessing = dataclasses.replace(before.preprocessing, size=size)
    config = dataclasses.replace(before, image=image, backbone=wide, preprocessing=preprocessing)
    wider = Aladin(config, RegionTransformer(config, grid_network(networks)))
    state, own = model.state_dict(), wider.state_dict()
    columns = state["backbone.region_embedding.linear.weight"]
    gap = columns.new_zeros(len(columns), GRID_CHANNELS * (len(networks) - len(old)))
    features = columns.shape[1] - before.backbone.region_geometry
    state["backbone.region_embedding.linear.weight"] = torch.cat([columns[:, :features], gap, columns[:, features:]], dim=1)
    tags = ("backbone.image_network.tag_tail.", "backbone.image_network.classifier.")  # now the last network's
    wider.load_state_dict({name: weight if name.startswith(tags) else state.get(name, weight) for name, weight in own.items()})
    return wider.train(model.training)


def _with_heads(model: Aladin, heads: HeadsConfig) -> Aladin:
    """A copy of the model whose settings name these heads."""
    new = copy.deepcopy(model)
    new.config = dataclasses.replace(model.config, heads=heads)
    return new
