"""An encoder's own vectors beside its regions and words: how much each counts in a score.

A region becomes [sqrt(share) region, sqrt(1 - share) image vector] and a word [sqrt(share) word, sqrt(1 - share) text vector].
All parts have length 1, so

    score = share * (mean over words of the best region's cosine) + (1 - share) * (cosine of the vectors).

With a share of 0 that is the cosine, by which the encoder itself ranks. What all tokens share stands last, as the added numbers
of aladin's own models do, so that an explanation tells apart what a region adds and what the picture adds as a whole.
"""

import numpy as np
from jaxtyping import Float32


def composed(
    tokens: Float32[np.ndarray, "rows tokens token_dim"], vectors: Float32[np.ndarray, "rows dim"], share: float
) -> Float32[np.ndarray, "rows tokens token_dim+dim"]:
    """The tokens of each row joined with its vector; `share` is from 0 to 1."""
    own, rest = np.float32(np.sqrt(share)), np.float32(np.sqrt(1 - share))
    shared = np.broadcast_to((rest * vectors)[:, None], (*tokens.shape[:2], vectors.shape[1]))
    return np.concatenate([own * tokens, shared], axis=2, dtype=np.float32)
