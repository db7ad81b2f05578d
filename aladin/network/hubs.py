"""Hubs, images near every caption and captions near every image, put back in their place by dual bank normalisation.

In a space of many dimensions some items are among the nearest of nearly everything, and stand above right answers. So each
score is lowered by how near its image is to captions at large, and its caption to images at large:

    corrected(i, c) = score(i, c) - weight * (nearness(i) + nearness(c))
    nearness(x) = log sum_b share_b exp(scale * <x, b>) / scale, less its mean

over a bank b of training data of the other side (QB-Norm, Bogolin et al. 2022; both sides: Wang et al. 2023, "Balance Act").
The bank is the centres of k-means over its vectors (of the matching head, and the global head if there is one), with the share
of the data that is theirs; nearness is measured on vectors for tokens too.

Both terms stand in the vectors and tokens themselves, as eight more dimensions, so everything after the heads goes on as
before: one dot product of unit vectors is the corrected cosine (times 0.85), and where an alignment is the mean or sum over
words, each word's share has the terms in it. Each side has an angle, its sine the term, and the other side a constant there:

    image    [ a x,  b sin, b cos,  b, 0 ]
    caption  [ a x,  b, 0,  b sin, b cos ]        a^2 + 2 b^2 = 1

Two images keep their cosine but for a constant and the cosine of the difference of their angles.
"""

import math
from typing import Literal

import faiss
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.encoder.config import HeadsConfig
from aladin.encoder.hub_terms import COPIES
from aladin.errors import ConfigError
from aladin.network.tensors import Tokens, lengthened

Side = Literal["images", "captions"]
SHARE = 0.15  # of each squared length, for the angles and their counterparts: room for terms of up to 0.15 / 0.85 / 2 a side
ITERATIONS = 20
SEED = 0


class HubCorrection(nn.Module):
    """The banks of both sides, and what they make of vectors and tokens.

    Each bank is a linear layer from a vector to the logarithm of the terms in the sum of its nearness: a centre times the scale
    in each row, and the logarithm of its share, less the mean nearness times the scale, as bias.
    """

    def __init__(self, config: HeadsConfig, dim: int) -> None:
        super().__init__()
        self.scale, self.weight = config.hub_scale, config.hub_weight
        self.captions = nn.Linear(dim, config.hub_centres)  # what images are near to
        self.images = nn.Linear(dim, config.hub_centres)  # what captions are near to

    def nearness(self, vectors: Float[Tensor, "batch dim"], side: Side) -> Float[Tensor, " batch"]:
        """How near each of `vectors`, of `side`, is to the other side's bank; 0 on the average of training data."""
        bank = self.captions if side == "images" else self.images
        return torch.logsumexp(bank(vectors.float()), dim=1) / self.scale

    def forward(
        self, vectors: Float[Tensor, "batch dim"], tokens: Tokens, side: Side
    ) -> tuple[Float[Tensor, "batch longer"], Tokens]:
        """Vectors and tokens with the added dimensions, of length 1 as before."""
        sine = -self.weight * self.nearness(vectors, side) * (1 - SHARE) / (SHARE / 2)
        sine = sine.clamp(-1, 1)
        own = torch.stack([sine, (1 - sine**2).sqrt()], dim=1)
        other = torch.tensor([[1.0, 0.0]], device=own.device).expand_as(own)
        angles = torch.cat([own, other] if side == "images" else [other, own], dim=1)
        added = angles.repeat(1, COPIES) * math.sqrt(SHARE / 2 / COPIES)
        return lengthened(vectors, tokens, SHARE, added)


@torch.no_grad()
def filled(
    correction: HubCorrection, images: Float[Tensor, "images dim"], captions: Float[Tensor, "captions dim"]
) -> HubCorrection:
    """The correction with banks of these vectors of training data; ConfigError where there are fewer than centres."""
    sides: tuple[tuple[Side, nn.Linear, Tensor, Tensor], ...] = (
        ("images", correction.captions, captions, images),
        ("captions", correction.images, images, captions),
    )
    for side, bank, banked, near in sides:
        means, shares = centres(banked, bank.out_features)
        bank.weight.copy_(means * correction.scale)
        bank.bias.copy_(shares.log())
        bank.bias.sub_(correction.scale * correction.nearness(near, side).mean())
    return correction


def centres(vectors: Float[Tensor, "rows dim"], count: int) -> tuple[Float[Tensor, "count dim"], Float[Tensor, " count"]]:
    """The means of `count` groups of neighbours (k-means by cosine, the same at each call), and each group's share of the rows.

    A mean is shorter than 1, by as much as its group is spread. ConfigError with fewer rows than groups.
    """
    if len(vectors) < count:
        raise ConfigError(
            f"there are {len(vectors)} images or captions for {count} centres; give more data or ask for fewer centres"
        )
    rows = np.ascontiguousarray(vectors.numpy(), dtype=np.float32)
    kmeans = faiss.Kmeans(rows.shape[1], count, niter=ITERATIONS, seed=SEED, spherical=True, min_points_per_centroid=1)
    kmeans.train(rows)
    group = torch.from_numpy(kmeans.index.search(rows, 1)[1][:, 0])
    sizes = torch.bincount(group, minlength=count).float()
    sums = torch.zeros(count, rows.shape[1]).index_add_(0, group, torch.from_numpy(rows))
    return sums / sizes.clamp(min=1)[:, None], sizes.clamp(min=1e-6) / len(rows)
