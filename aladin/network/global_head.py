"""The global head: a picture as a whole and a sentence as a whole, each to one vector, beside what alignment and matching see.

It reads no token by itself: of a picture the mean of what the image network sees in its regions, of a sentence the mean of its
tokens' states. That takes minutes to learn (global_learning.py), errs elsewhere than the transformer's heads, which took hours,
and so the sum is better than both by far. Its vectors stand beside the others' as more dimensions:

    vector of an image or a caption    [ a m,   b w ]        a^2 + b^2 = 1
    each of its tokens                 [ a t_i, b w ]

so everything after the heads goes on as before: a cosine of vectors is a^2 cos(m, m') + b^2 cos(w, w'), and where an alignment
is the mean or sum over words, each word's share has b^2 cos(w, w') in it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from aladin.encoder.config import HeadsConfig
from aladin.network.tensors import Tokens, lengthened

OUTLIER = 6.0  # deviations; what lies beyond is cut


class GlobalHead(nn.Module):
    """Regions and token states to L2-normalised vectors of `global_dim`, and how they join those of the other heads."""

    def __init__(self, config: HeadsConfig, region_dim: int, state_dim: int) -> None:
        super().__init__()
        self.share = config.global_share
        self.pictures = GlobalReader(region_dim, config.global_axes, config.global_hidden, config.global_dim)
        self.sentences = GlobalReader(state_dim, None, config.global_hidden, config.global_dim)

    def joined(
        self, vectors: Float[Tensor, "batch dim"], tokens: Tokens, whole: Float[Tensor, "batch whole"]
    ) -> tuple[Float[Tensor, "batch longer"], Tokens]:
        """Vectors and tokens of length 1 with the added dimensions, of length 1 as before."""
        return lengthened(vectors, tokens, self.share, whole * math.sqrt(self.share))


class GlobalReader(nn.Module):
    """The tokens of one side to a vector of length 1: their mean, standardised, in principal axes, through a perceptron."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, axes: int | None, hidden: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.axes = nn.Identity() if axes is None else nn.Linear(features, axes, bias=False)
        self.perceptron = Perceptron(axes or features, hidden, dim)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch dim"]:
        return normalize(self.perceptron(self.read(pooled_mean(tokens))).float(), dim=1)

    def read(self, pooled: Float[Tensor, "batch features"]) -> Float[Tensor, "batch axes"]:
        """What the perceptron reads of pooled tokens."""
        rows: Tensor = self.axes(standardised(pooled, self.mean, self.deviation))
        return rows


class Perceptron(nn.Module):
    """One hidden layer and a straight way past it; while it learns it forgets `dropped` of what it reads."""

    def __init__(self, features: int, hidden: int, dim: int, dropped: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropped)
        self.hidden = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Dropout(0.5), nn.Linear(hidden, dim))
        self.straight = nn.Linear(features, dim, bias=False)

    def forward(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows dim"]:
        seen = self.dropout(rows)
        outcome: Tensor = self.hidden(seen) + self.straight(seen)
        return outcome


def pooled_mean(tokens: Tokens) -> Float[Tensor, "batch features"]:
    """Of the real tokens' states."""
    states, real = tokens.states.float(), tokens.mask[:, :, None]
    return states.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def pooled_mean_and_maximum(tokens: Tokens) -> Float[Tensor, "batch features"]:
    """Of the real tokens' states, side by side."""
    maximum = tokens.states.float().masked_fill(~tokens.mask[:, :, None], -torch.inf).amax(dim=1)
    return torch.cat([pooled_mean(tokens), maximum], dim=1)


def standardised(
    rows: Float[Tensor, "rows features"], mean: Float[Tensor, " features"], deviation: Float[Tensor, " features"]
) -> Float[Tensor, "rows features"]:
    """Each feature less its mean and divided by its deviation; what lies far out is cut."""
    return ((rows - mean) / (deviation + 1e-4)).clamp(-OUTLIER, OUTLIER)
