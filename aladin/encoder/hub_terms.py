"""Where the correction of hubs (hubs.py) stands in vectors and tokens, for those who search: without PyTorch."""

import numpy as np
from jaxtyping import Float32, Int64

from aladin.encoder.config import HUB_DIMS, HeadsConfig

COPIES = HUB_DIMS // 4  # of each added coordinate: a single one would be the largest of a token and coarsen its int8 steps
# A text of so many word pieces searches without the images' terms, one of so many with all of them. Measured on Flickr8k's
# validation data (docs/experiments.md): they help sentences, and cost a word or two, as in "a dog": what is common is no hub.
SHORT, LONG = 5, 10


def as_queries(
    texts: Float32[np.ndarray, "texts *tokens dim"], pieces: Int64[np.ndarray, " texts"], heads: HeadsConfig
) -> Float32[np.ndarray, "texts *tokens dim"]:
    """Vectors or tokens of texts of so many word pieces, as images are searched by them; for models with terms of hubs.

    The text's own term is left out. It is the same for every image, so it ranks nothing; and how near a text is to images at
    large says how likely any of them shows it, which scores of different queries must be allowed to tell. The images' terms
    count in full for a sentence, and less the shorter the text is. The length stays 1.
    """
    if not heads.hub_centres:
        return texts
    result = texts.copy()
    added = result[..., -HUB_DIMS:].reshape(*result.shape[:-1], COPIES, 4)
    share = np.clip((pieces - SHORT) / np.float32(LONG - SHORT), 0, 1, dtype=np.float32)
    share = share.reshape(-1, *[1] * (added.ndim - 2))
    whole = added[..., 0].copy()
    # Images have 0 at the last place, so that it takes what is left of the length.
    added[..., 0], added[..., 2], added[..., 3] = whole * share, 0, whole * np.sqrt(2 - share**2)
    result[..., -HUB_DIMS:] = added.reshape(*result.shape[:-1], HUB_DIMS)
    return result
