"""Encoding of a whole data set and its score matrices, in bounded memory."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aladin.config import Pooling
from aladin.features import Features
from aladin.model import Aladin
from aladin.tensors import Tokens, concatenate
from aladin.text import Pieces

BATCH = 64
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EncodedSet:
    """Both heads' output for all images or all captions of a data set, in its order."""

    vectors: Float[Tensor, "rows dim"]
    tokens: Tokens


def precision_context(precision: str) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 for "bf16", everything in full precision for "fp32"."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.inference_mode()
def encode_images(model: Aladin, features: Features, precision: str = "fp32", view: int = 0) -> EncodedSet:
    """Every image of `features`, as the given view shows it."""
    parts = []
    for rows in _blocks(features.maps.shape[1], BATCH):
        maps = torch.from_numpy(features.maps[view, rows]).float()
        classes = torch.from_numpy(features.tags[view, rows].astype(np.int64))
        with precision_context(precision):
            parts.append(model.encoded_images(model.image_states(maps, classes)))
    return EncodedSet(torch.cat([part.vectors for part in parts]), concatenate([part.tokens for part in parts]))


@torch.inference_mode()
def encode_captions(model: Aladin, pieces: Pieces, precision: str = "fp32") -> EncodedSet:
    """Every caption; those of like length are encoded together, so that little padding is computed."""
    lengths = pieces.mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    vectors: list[Tensor] = []
    tokens: list[Tokens] = []
    for block in _blocks(len(order), 2 * BATCH):
        rows = order[block]
        width = int(lengths[rows].max())
        ids, mask = torch.from_numpy(pieces.ids[rows, :width]), torch.from_numpy(pieces.mask[rows, :width])
        with precision_context(precision):
            encoded = model.encoded_captions(model.caption_states(ids, mask))
        vectors.append(encoded.vectors)
        tokens.append(encoded.tokens)
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return EncodedSet(torch.cat(vectors)[back], concatenate(tokens)[back])


@torch.inference_mode()
def alignment_matrix(
    regions: Tokens, words: Tokens, pooling: Pooling, memory: int = 256 * 2**20, progress: Progress = lambda d, t: None
) -> Float[Tensor, "images captions"]:
    """`scores.alignment_scores` of all pairs for poolings MrSw and MrAVGw, with at most about `memory` bytes beside the result.

    Captions are laid end to end, so that no padded word is ever multiplied.
    """
    assert pooling in ("MrSw", "MrAVGw"), "the other poolings have no blocked form"
    images, captions = len(regions), len(words)
    scores = torch.zeros(images, captions)
    counts = words.mask.sum(dim=1)
    if not len(words.states[words.mask]):
        return scores
    owner = torch.arange(captions).repeat_interleave(counts)
    flat = words.states[words.mask].float()
    per_image = regions.states.shape[1] * 4
    word_block = min(len(flat), max(1, memory // (per_image * 8)))
    image_block = max(1, memory // (per_image * word_block))
    for rows in _blocks(images, image_block):
        states, mask = regions.states[rows].float(), regions.mask[rows]
        for columns in _blocks(len(flat), word_block):
            similarity = states.flatten(0, 1) @ flat[columns].T
            similarity = similarity.view(*mask.shape, -1).masked_fill_(~mask[:, :, None], -torch.inf)
            scores[rows].index_add_(1, owner[columns], similarity.amax(dim=1))
        progress(rows.stop, images)
    return scores / counts.clamp(min=1) if pooling == "MrAVGw" else scores



def _blocks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
