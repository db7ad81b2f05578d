"""Tokens in a quarter of their size: int8 with one scale a token, and how they stand in a blob.

A blob is the float32 scales of all tokens, then their int8 values row by row, little-endian. Per token, because one strong
token would otherwise cost all others of its image their precision; the scales add 1 % to 384 dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int8

SCALE_BYTES = 4


@dataclass(frozen=True)
class QuantizedTokens:
    """Token sets of several rows, padded at the end; a token is its values times its scale, `mask` is True where it is real."""

    values: Int8[np.ndarray, "rows tokens dim"]
    scales: Float32[np.ndarray, "rows tokens"]
    mask: Bool[np.ndarray, "rows tokens"]

    def __len__(self) -> int:
        return len(self.values)

    def restored(self) -> Float32[np.ndarray, "rows tokens dim"]:
        """The tokens that these values stand for; padded ones are zero."""
        values = self.values.astype(np.float32)
        values *= self.scales[:, :, None]
        return values


def token_blob(tokens: Float32[np.ndarray, "tokens dim"]) -> bytes:
    """The tokens of one row as they are stored; a cosine of two L2-normalised tokens moves by less than 0.001 as a rule."""
    scales = np.abs(tokens).max(axis=1, initial=0.0) / np.float32(127)
    divisors = np.where(scales > 0, scales, np.float32(1))  # a zero token stays zero
    values = np.rint(tokens / divisors[:, None]).astype(np.int8)
    return blob_of(values, scales)


def blob_of(values: Int8[np.ndarray, "tokens dim"], scales: Float32[np.ndarray, " tokens"]) -> bytes:
    """Quantised tokens of one row as they are stored."""
    return bytes(scales.astype("<f4").tobytes() + values.tobytes())


def tokens_from_blobs(blobs: Sequence[bytes], dim: int) -> QuantizedTokens:
    """The token sets of several rows, in order."""
    counts = [len(blob) // (SCALE_BYTES + dim) for blob in blobs]
    shape = (len(blobs), max(counts, default=0))
    values = np.zeros((*shape, dim), dtype=np.int8)
    scales = np.zeros(shape, dtype=np.float32)
    for row, (blob, count) in enumerate(zip(blobs, counts, strict=True)):
        scales[row, :count] = np.frombuffer(blob, dtype="<f4", count=count)
        values[row, :count] = np.frombuffer(blob, dtype=np.int8, offset=SCALE_BYTES * count).reshape(count, dim)
    mask = np.arange(shape[1]) < np.array(counts, dtype=np.int64)[:, None]
    return QuantizedTokens(values, scales, mask)
