"""Alignment scores of many images and captions, in bounded memory: tensors in, tensors out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aladin.encoder.config import Pooling
from aladin.encoder.pooling import POOLINGS
from aladin.network.run import CPU
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens, each_tensor
from aladin.progress import SILENT, Progress

MEMORY = 64 * 2**20  # bytes; blocks of scores gain no speed beyond


@torch.inference_mode()
def alignment_matrix(
    regions: Tokens,
    words: Tokens,
    pooling: Pooling,
    memory: int = MEMORY,
    progress: Progress = SILENT,
    device: torch.device = CPU,
) -> Float[Tensor, "images captions"]:
    """`scores.alignment_scores` of all pairs, with at most about `memory` bytes beside the result.

    Blocks are computed on `device`; tokens and result are the processor's.
    """
    images, captions = len(regions), len(words)
    scores = torch.empty(images, captions)
    image_block, caption_block = _block_shape(regions, words, pooling, memory, images)
    for columns in blocks(captions, caption_block):
        asked = CaptionWords.of(words[columns], pooling, device)
        for rows in blocks(images, image_block):
            scores[rows, columns] = asked.scores(regions[rows])
        progress(columns.stop, captions)
    return scores


@torch.inference_mode()
def alignment_of_pairs(
    regions: Tokens,
    words: Tokens,
    pairs: tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]],
    pooling: Pooling,
    memory: int = MEMORY,
    device: torch.device = CPU,
) -> Float[Tensor, " pairs"]:
    """The alignment score of each pair, given as rows of images and of captions, in at most about `memory` bytes beside it."""
    images, captions = pairs
    _, size = _block_shape(regions, words, pooling, memory, 1)
    scores = torch.empty(len(images))
    of_image = images.argsort(stable=True).split_with_sizes(images.bincount().tolist())
    for image, of_this in enumerate(of_image):
        for block in blocks(len(of_this), size):
            some = of_this[block]
            scores[some] = CaptionWords.of(words, pooling, device, captions[some]).scores(regions[image : image + 1])[0]
    return scores


def _block_shape(regions: Tokens, words: Tokens, pooling: Pooling, memory: int, images: int) -> tuple[int, int]:
    """How many images and captions to score at once in about `memory` bytes, half of it for pairs, half for their words."""
    (_, region_count, dim), word_count = regions.states.shape, words.mask.shape[1]
    # The padded forms hold some copies of their similarities, and one of them every region as it sees the caption.
    pair_bytes = 4 * region_count * (word_count if POOLINGS[pooling].words_add else 4 * (word_count + dim))
    pairs = max(1, memory // (2 * pair_bytes))
    image_block = max(1, min(images, math.isqrt(pairs)))
    return image_block, max(1, min(pairs // image_block, memory // (2 * word_count * 4 * (dim + 16))))


@dataclass(frozen=True)
class CaptionWords:
    """Captions that many images are compared with, on one device.

    Where words add up they are laid end to end, so that no padded word is multiplied.
    """

    words: Tokens
    pooling: Pooling

    @classmethod
    def of(
        cls, words: Tokens, pooling: Pooling, device: torch.device = CPU, chosen: Int[Tensor, " chosen"] | None = None
    ) -> "CaptionWords":
        """Those of `words`, which the processor has, that stand in the chosen rows, or in all."""
        rows = torch.arange(len(words)) if chosen is None else chosen
        if not POOLINGS[pooling].words_add:
            return each_tensor(cls(words[rows], pooling), lambda tensor: tensor.to(device))
        mask = words.mask[rows]
        owners, positions = mask.nonzero(as_tuple=True)
        # Only real words are copied.
        flat = words.states.flatten(0, 1).index_select(0, rows[owners] * mask.shape[1] + positions).float()
        laid = LaidWords(words[:0], pooling, flat, owners, mask.sum(dim=1))
        return each_tensor(laid, lambda tensor: tensor.to(device))

    def scores(self, regions: Tokens) -> Float[Tensor, "images captions"]:
        """`alignment_scores` of some images with these captions."""
        return alignment_scores(self._here(regions), self.words, self.pooling)

    def _here(self, tokens: Tokens) -> Tokens:
        return each_tensor(tokens, lambda tensor: tensor.to(self.words.states.device))


@dataclass(frozen=True)
class LaidWords(CaptionWords):
    """The words of all captions end to end."""

    flat: Float[Tensor, "words dim"]
    owners: Int[Tensor, " words"]  # the caption of each word
    counts: Int[Tensor, " captions"]

    def scores(self, regions: Tokens) -> Float[Tensor, "images captions"]:
        mode, regions = POOLINGS[self.pooling], self._here(regions)
        similarity = (regions.states.float().flatten(0, 1) @ self.flat.T).view(*regions.mask.shape, len(self.flat))
        best = similarity.masked_fill_(~regions.mask[:, :, None], -torch.inf).amax(dim=1)
        scores = best.new_zeros(len(regions), len(self.counts)).index_add_(1, self.owners, best)
        scores *= mode.words
        return scores / self.counts.clamp(min=1) if mode.mean else scores


def blocks(total: int, size: int) -> Iterator[slice]:
    """Slices of `size` rows, the last of what is left, that cover `total` rows."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
