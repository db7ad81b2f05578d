"""Alignment scores of many images and captions, in bounded memory: tensors in, tensors out."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aladin.encoder.config import Pooling
from aladin.encoder.pooling import POOLINGS
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens
from aladin.progress import SILENT, Progress

MEMORY = 64 * 2**20  # bytes; blocks of scores gain no speed beyond


@torch.inference_mode()
def alignment_matrix(
    regions: Tokens, words: Tokens, pooling: Pooling, memory: int = MEMORY, progress: Progress = SILENT
) -> Float[Tensor, "images captions"]:
    """`scores.alignment_scores` of all pairs, with at most about `memory` bytes beside the result."""
    images, captions = len(regions), len(words)
    scores = torch.empty(images, captions)
    image_block, caption_block = _block_shape(regions, words, pooling, memory, images)
    for columns in blocks(captions, caption_block):
        chosen = torch.arange(columns.start, columns.stop)
        for rows in blocks(images, image_block):
            scores[rows, columns] = _block_scores(regions[rows], words, chosen, pooling)
        progress(columns.stop, captions)
    return scores


@torch.inference_mode()
def alignment_of_pairs(
    regions: Tokens,
    words: Tokens,
    pairs: tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]],
    pooling: Pooling,
    memory: int = MEMORY,
) -> Float[Tensor, " pairs"]:
    """The alignment score of each pair, given as rows of images and of captions, in at most about `memory` bytes beside it."""
    images, captions = pairs
    _, size = _block_shape(regions, words, pooling, memory, 1)
    scores = torch.empty(len(images))
    of_image = images.argsort(stable=True).split_with_sizes(images.bincount().tolist())
    for image, of_this in enumerate(of_image):
        for block in blocks(len(of_this), size):
            some = of_this[block]
            scores[some] = _block_scores(regions[image : image + 1], words, captions[some], pooling)[0]
    return scores


def _block_shape(regions: Tokens, words: Tokens, pooling: Pooling, memory: int, images: int) -> tuple[int, int]:
    """How many images and captions to score at once in about `memory` bytes, half of it for pairs, half for their words."""
    (_, region_count, dim), word_count = regions.states.shape, words.mask.shape[1]
    # The padded forms hold some copies of their similarities, and one of them every region as it sees the caption.
    pair_bytes = 4 * region_count * (word_count if POOLINGS[pooling].words_add else 4 * (word_count + dim))
    pairs = max(1, memory // (2 * pair_bytes))
    image_block = max(1, min(images, math.isqrt(pairs)))
    return image_block, max(1, min(pairs // image_block, memory // (2 * word_count * 4 * (dim + 16))))


def _block_scores(
    regions: Tokens, words: Tokens, captions: Int[Tensor, " chosen"], pooling: Pooling
) -> Float[Tensor, "images chosen"]:
    """`alignment_scores` of these images with the chosen rows of `words`.

    Where words add up, captions are laid end to end, so that no padded word is multiplied.
    """
    mode = POOLINGS[pooling]
    if not mode.words_add:
        return alignment_scores(regions, words[captions], pooling)
    owners, positions = words.mask[captions].nonzero(as_tuple=True)
    cells = captions[owners] * words.mask.shape[1] + positions
    flat = words.states.flatten(0, 1).index_select(0, cells).float()
    similarity = (regions.states.float().flatten(0, 1) @ flat.T).view(*regions.mask.shape, len(flat))
    best = similarity.masked_fill_(~regions.mask[:, :, None], -torch.inf).amax(dim=1)
    scores = torch.zeros(len(regions), len(captions)).index_add_(1, owners, best)
    scores *= mode.words
    return scores / words.mask[captions].sum(dim=1).clamp(min=1) if mode.mean else scores


def blocks(total: int, size: int) -> Iterator[slice]:
    """Slices of `size` rows, the last of what is left, that cover `total` rows."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
