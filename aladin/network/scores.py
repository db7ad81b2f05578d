"""How well an image and a caption match: pure functions from tokens or vectors to scores (spec: alignment head).

Everywhere rows are images, columns are captions and higher is better. Tokens are expected L2-normalised, so that a cell of
the similarity matrix is a cosine.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from aladin.encoder.config import Pooling
from aladin.encoder.pooling import POOLINGS
from aladin.network.tensors import Tokens


def alignment_scores(regions: Tokens, words: Tokens, pooling: Pooling = "MrSw") -> Float[Tensor, "images captions"]:
    """How well each image shows each caption, by fine-grained alignment (section "alignment head" of the paper).

    `MrSw`, the paper's choice: each word takes its best region and words add up. `MrAVGw` divides by the number of words,
    so that long captions gain nothing. `MwSr`: each region takes its best word and regions add up. `symm`: MrSw + MwSr.
    `sum`, `mean`: over all region-word pairs. `scan-sentences`: each region is compared with the words it attends to.
    Padding never changes a score. A caption without words scores 0; an image without regions scores -inf, or 0 in the modes
    that add over regions.
    """
    similarity = torch.einsum("ird,cwd->icrw", regions.states, words.states)
    if pooling == "scan-sentences":
        return _attended_captions(similarity, regions, words)
    if pooling in ("sum", "mean"):
        return _all_pairs(similarity, regions, words, mean=pooling == "mean")
    mode, parts = POOLINGS[pooling], []
    if mode.words:
        score = _best_region_per_word(similarity, regions, words)
        parts.append(mode.words * (score / words.mask.sum(dim=1).clamp(min=1) if mode.mean else score))
    if mode.regions:
        score = _best_word_per_region(similarity, regions, words)
        parts.append(mode.regions * (score / regions.mask.sum(dim=1).clamp(min=1)[:, None] if mode.mean else score))
    return sum(parts[1:], parts[0])


def matching_scores(
    image_vectors: Float[Tensor, "images dim"], caption_vectors: Float[Tensor, "captions dim"]
) -> Float[Tensor, "images captions"]:
    """The dot product of every image vector with every caption vector: a cosine, since both are L2-normalised."""
    return image_vectors @ caption_vectors.T


def _best_region_per_word(
    similarity: Float[Tensor, "images captions regions words"], regions: Tokens, words: Tokens
) -> Float[Tensor, "images captions"]:
    # -inf, not 0: a padded region would otherwise beat a real one that disagrees with the word.
    masked = similarity.masked_fill(~regions.mask[:, None, :, None], -torch.inf)
    return masked.amax(dim=2).masked_fill(~words.mask[None], 0.0).sum(dim=-1)


def _best_word_per_region(
    similarity: Float[Tensor, "images captions regions words"], regions: Tokens, words: Tokens
) -> Float[Tensor, "images captions"]:
    masked = similarity.masked_fill(~words.mask[None, :, None, :], -torch.inf)
    best = masked.amax(dim=3).masked_fill(~regions.mask[:, None, :], 0.0).sum(dim=-1)
    return best.masked_fill(~words.mask.any(dim=1)[None], 0.0)


def _all_pairs(
    similarity: Float[Tensor, "images captions regions words"], regions: Tokens, words: Tokens, mean: bool
) -> Float[Tensor, "images captions"]:
    real = regions.mask[:, None, :, None] & words.mask[None, :, None, :]
    total = similarity.masked_fill(~real, 0.0).sum(dim=(2, 3))
    return total / real.sum(dim=(2, 3)).clamp(min=1) if mean else total


def _attended_captions(
    similarity: Float[Tensor, "images captions regions words"], regions: Tokens, words: Tokens
) -> Float[Tensor, "images captions"]:
    """Each region attends over the words, and is compared with what it sees (SCAN, as ALADIN configures it)."""
    real_region = regions.mask[:, None, :, None]
    relevant = similarity.relu().masked_fill(~real_region, 0.0)
    relevant = torch.nn.functional.normalize(relevant, dim=2)
    attention = relevant.masked_fill(~words.mask[None, :, None, :], -torch.inf).softmax(dim=3).nan_to_num(0.0)
    attended = torch.einsum("icrw,cwd->icrd", attention, words.states)
    cosine = torch.nn.functional.cosine_similarity(regions.states[:, None], attended, dim=-1)
    return cosine.masked_fill(~regions.mask[:, None], 0.0).sum(dim=-1)
