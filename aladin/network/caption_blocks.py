"""Captions a few at a time, without padding beyond the longest of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aladin.encoder.word_pieces import Pieces


@dataclass(frozen=True)
class CaptionBlock:
    """Some captions without padding beyond their longest; `rows` says which they are."""

    rows: Int[Tensor, " captions"]
    ids: Int[Tensor, "captions words"]
    mask: Bool[Tensor, "captions words"]


def caption_blocks(pieces: Pieces, size: int) -> Iterator[CaptionBlock]:
    """Every caption once, at most `size` together, those of like length together, so that little padding is computed."""
    lengths = pieces.mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        width = int(lengths[rows].max())
        ids, mask = (torch.from_numpy(part[rows, :width]) for part in (pieces.ids, pieces.mask))
        yield CaptionBlock(torch.from_numpy(rows), ids, mask)
