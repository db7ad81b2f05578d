"""Heads that read more than the last layer's states, and layers after the backbone: options of the original (spec, 3.5 and 12).

Deep states are the states of one token after the embedding and after each layer, side by side in one row: `depth` times `dim`
numbers, the last ones at the end, and after these that of the post-layers. So they are padded, cut and stored as other tokens.

The original orders the masks of gated states otherwise than the states, so its vectors depend on the batch. Ours are what its
vectors are of one item alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.encoder.config import HeadsConfig
from aladin.network.heads import head_layers
from aladin.network.tensors import Tokens

FUSION_HIDDEN = 512  # of the network that weighs earlier layers against the last, in the original


class AddedLayers(nn.Module):
    """A transformer after the backbone."""

    def __init__(self, config: HeadsConfig, dim: int, count: int) -> None:
        super().__init__()
        self.layers = head_layers(config, dim, count, feed_forward=config.added_feed_forward)

    def forward(self, encoded: Tokens) -> Tokens:
        states, bias = encoded.states, encoded.padding_bias
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=bias)
        return Tokens(states, encoded.mask)


class PostLayers(AddedLayers):
    """One whose output joins the states that the matching head reads, those of both modalities."""

    def __init__(self, config: HeadsConfig, dim: int) -> None:
        super().__init__(config, dim, config.post_layers)
        self.dim = dim

    def forward(self, encoded: Tokens) -> Tokens:
        added = super().forward(Tokens(encoded.states[..., -self.dim :], encoded.mask))
        return Tokens(torch.cat([encoded.states, added.states], dim=-1), encoded.mask)


class LastState(nn.Module):
    """The backbone's last state among `depth` deep ones, as the paper's models read it."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self._last = slice((depth - 1) * dim, depth * dim)

    def forward(self, encoded: Tokens) -> Tokens:
        return Tokens(encoded.states[..., self._last], encoded.mask)


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

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.dim = dim
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
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

    def __init__(self, earlier: nn.Module, dim: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.earlier = earlier
        self._earlier, self._last = slice((depth - 1) * dim), slice((depth - 1) * dim, depth * dim)
        between = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
        self.weights = nn.Sequential(nn.Linear(2 * dim, FUSION_HIDDEN), between, nn.Linear(FUSION_HIDDEN, 2))

    def forward(self, encoded: Tokens) -> Tokens:
        last: Float[Tensor, "batch tokens dim"] = encoded.states[..., self._last]
        earlier: Tensor = self.earlier(Tokens(encoded.states[..., self._earlier], encoded.mask)).states
        weights = self.weights(torch.cat([earlier, last], dim=-1)).sigmoid()
        return Tokens(weights[..., :1] * earlier + weights[..., 1:] * last, encoded.mask)


def matching_depth(config: HeadsConfig, dim: int) -> nn.Module | None:
    """From all states to what the matching head reads; None where that is what the alignment head reads."""
    return None if config.matching_depth == "last" else _aggregation(config.matching_depth, config, dim)


def alignment_depth(config: HeadsConfig, dim: int, depth: int) -> nn.Module:
    """From the backbone's states to what the alignment head reads: the earlier ones aggregated, fused with the last."""
    if not config.deep:
        return nn.Identity()
    if config.alignment_depth == "last":
        return LastState(dim, depth)
    return FusedState(_aggregation(config.alignment_depth, config, dim), dim, depth, config.depth_dropout)


def _aggregation(form: str, config: HeadsConfig, dim: int) -> nn.Module:
    return GatedState(dim, config.matching_heads, config.depth_dropout) if form == "gated" else MeanState(dim)
