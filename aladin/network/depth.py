"""Heads that read more than the last layer's states, and layers after the backbone: options of the original (spec, 3.5).

Deep states are the states of one token after the embedding, after each layer and after the post-layers, side by side in one
row: `depth` times `dim` numbers, the last ones at the end. So they are padded, cut and stored as any other tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.encoder.config import HeadsConfig
from aladin.network.heads import head_layers
from aladin.network.tensors import Tokens

FUSION_HIDDEN = 512  # of the network that weighs earlier layers against the last, in the original


class PostLayers(nn.Module):
    """A transformer after the backbone, shared by both modalities; its last state joins those that the heads read."""

    def __init__(self, config: HeadsConfig, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = head_layers(config, dim, config.post_layers)

    def forward(self, encoded: Tokens, keep: bool) -> Tokens:
        """The new states, after those that were there if these are to be kept."""
        states, bias = encoded.states[..., -self.dim :], encoded.padding_bias
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=bias)
        return Tokens(torch.cat([encoded.states, states], dim=-1) if keep else states, encoded.mask)


class LastState(nn.Module):
    """The last of deep states, as the paper's models read it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, encoded: Tokens) -> Tokens:
        return Tokens(encoded.states[..., -self.dim :], encoded.mask)


class MeanState(nn.Module):
    """The mean over depth."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, encoded: Tokens) -> Tokens:
        return Tokens(encoded.states.reshape(*encoded.mask.shape, -1, self.dim).mean(dim=2), encoded.mask)


class GatedState(nn.Module):
    """The sum over depth, each state by a weight between 0 and 1 of its own.

    The weight comes from the tokens of the same depth: self-attention, then one linear output. Weights do not add up to 1.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.dim = dim
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.gate = nn.Linear(dim, 1)

    def forward(self, encoded: Tokens) -> Tokens:
        bias = encoded.padding_bias
        gated = []
        for states in torch.split(encoded.states, self.dim, dim=-1):
            attended, _ = self.attention(states, states, states, key_padding_mask=bias, need_weights=False)
            gated.append(states * self.gate(attended).sigmoid())
        return Tokens(torch.stack(gated).sum(dim=0), encoded.mask)


class FusedState(nn.Module):
    """Earlier states, aggregated, and the last one: their sum by two weights that depend on both."""

    def __init__(self, earlier: nn.Module, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.earlier = earlier
        self.weights = nn.Sequential(nn.Linear(2 * dim, FUSION_HIDDEN), nn.ReLU(), nn.Linear(FUSION_HIDDEN, 2))

    def forward(self, encoded: Tokens) -> Tokens:
        last: Float[Tensor, "batch tokens dim"] = encoded.states[..., -self.dim :]
        earlier: Tensor = self.earlier(Tokens(encoded.states[..., : -self.dim], encoded.mask)).states
        weights = self.weights(torch.cat([earlier, last], dim=-1)).sigmoid()
        return Tokens(weights[..., :1] * earlier + weights[..., 1:] * last, encoded.mask)


def matching_depth(config: HeadsConfig, dim: int) -> nn.Module:
    """From the backbone's states to what the matching head reads."""
    if not config.deep:
        return nn.Identity()
    return LastState(dim) if config.matching_depth == "last" else _aggregation(config.matching_depth, config, dim)


def alignment_depth(config: HeadsConfig, dim: int) -> nn.Module:
    """From the backbone's states to what the alignment head reads: the earlier ones aggregated, fused with the last."""
    if not config.deep:
        return nn.Identity()
    if config.alignment_depth == "last":
        return LastState(dim)
    return FusedState(_aggregation(config.alignment_depth, config, dim), dim)


def _aggregation(form: str, config: HeadsConfig, dim: int) -> nn.Module:
    return GatedState(dim, config.matching_heads) if form == "gated" else MeanState(dim)
