"""An encoder's own vectors beside its regions and words: how much each counts in a score.

A region becomes [sqrt(share) region, sqrt(1 - share) image vector] and a word [sqrt(share) word, sqrt(1 - share) text vector].
All parts have length 1, so

    score = share * (mean over words of the best region's cosine) + (1 - share) * (cosine of the vectors).

With a share of 0 that is the cosine, by which the encoder itself ranks. What all tokens share stands last, as the added numbers
of aladin's own models do, so that an explanation tells apart what a region adds and what the picture adds as a whole.

Texts are composed where they are encoded. Images are composed where they are compared: what is stored of one is its vector and
its regions, whatever the share.
"""

import numpy as np
from jaxtyping import Float32

from aladin.encoder.config import EncoderConfig


def composed(
    tokens: Float32[np.ndarray, "rows tokens token_dim"], vectors: Float32[np.ndarray, "rows dim"], encoder: EncoderConfig
) -> Float32[np.ndarray, "rows tokens composed_dim"]:
    """The tokens of each row joined with its vector; those of a model of aladin's own as they are."""
    if not encoder.family:
        return tokens
    rows = np.empty((*tokens.shape[:2], tokens.shape[2] + encoder.dim), dtype=np.float32)
    rows[:, :, : tokens.shape[2]] = np.float32(np.sqrt(encoder.share)) * tokens
    with_vectors(rows, vectors, encoder)
    return rows


def with_vectors(
    tokens: Float32[np.ndarray, "rows tokens composed_dim"], vectors: Float32[np.ndarray, "rows dim"], encoder: EncoderConfig
) -> None:
    """Put each row's vector into its composed tokens, which may have been stored less exactly; nothing for aladin's own."""
    if encoder.family:
        tokens[:, :, -encoder.dim :] = (np.float32(np.sqrt(1 - encoder.share)) * vectors)[:, None]
