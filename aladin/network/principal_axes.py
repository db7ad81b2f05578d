"""Narrower tokens without any learning: the directions in which tokens vary most."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from aladin.errors import DataError
from aladin.network.tensors import Tokens


def principal_axes(parts: Iterable[Tokens], count: int) -> Float[Tensor, "axes dim"]:
    """`count` directions at right angles, of length 1, that keep most of the real tokens' squared length, most first.

    Not centred, since cosines are to survive. Parts are read one after the other, and only their sum is kept. DataError if
    there are fewer tokens than directions.
    """
    seen, products = 0, torch.zeros(())
    for part in parts:
        tokens = part.states[part.mask].cpu().double()
        seen, products = seen + len(tokens), products + tokens.T @ tokens
    if seen < count:
        raise DataError(
            f"there are {seen} tokens to find {count} principal axes of; expected at least as many: give more images, or lower "
            "token_dim"
        )
    axes: Tensor = torch.linalg.eigh(products).eigenvectors  # the largest eigenvalue is the last
    return axes.T.flip(0)[:count].float()
