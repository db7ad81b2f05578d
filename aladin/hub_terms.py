"""Where the correction of hubs (hubs.py) stands in vectors and tokens, for those who search: without PyTorch."""

import numpy as np
from jaxtyping import Float32

from aladin.config import HUB_DIMS, HeadsConfig

COPIES = HUB_DIMS // 4  # of each added coordinate: a single one would be the largest of a token and coarsen its int8 steps


def as_queries(texts: Float32[np.ndarray, "*rows dim"], heads: HeadsConfig) -> Float32[np.ndarray, "*rows dim"]:
    """Vectors or tokens of texts that images are searched by, with the texts' own term at 0 where the model has such terms.

    It is the same for every image, so it ranks nothing; and how near a text is to images at large says how likely any of them
    shows it, which scores of different queries must be allowed to tell.
    """
    if not heads.hub_centres:
        return texts
    result = texts.copy()
    added = result[..., -HUB_DIMS:].reshape(*result.shape[:-1], COPIES, 4)
    added[..., 2], added[..., 3] = 0, added[..., 0]
    result[..., -HUB_DIMS:] = added.reshape(*result.shape[:-1], HUB_DIMS)
    return result
