"""Captions and images read together, pair by pair: which pairs a training step reads, and the scores of many of them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aladin.encoder.word_pieces import Pieces
from aladin.network.model import Aladin
from aladin.network.tensors import ImageInput
from aladin.progress import SILENT, Progress

PAIRS_AT_ONCE = 256


@dataclass(frozen=True)
class Pairs:
    """Rows of images and of captions that are read together, and whether they belong together."""

    images: Int[Tensor, " pairs"]
    captions: Int[Tensor, " pairs"]
    positives: Bool[Tensor, " pairs"]

    def __getitem__(self, rows: slice) -> "Pairs":
        return Pairs(self.images[rows], self.captions[rows], self.positives[rows])


def drawn_pairs(
    positives: Bool[Tensor, "images captions"],
    similarity: Float[Tensor, "images captions"],
    scale: float,
    generator: torch.Generator | None = None,
) -> Pairs:
    """Each image with the first of its captions, with a caption of another image, and that caption with another image.

    The others are drawn by the generator, else torch's own, with odds exp(`scale` x similarity): a pair that nearly fits
    teaches most.
    """
    images = torch.arange(len(positives))
    captions = positives.int().argmax(dim=1)
    odds = (scale * similarity).masked_fill(positives, -torch.inf)
    other_captions = odds.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    other_images = odds[:, captions].T.softmax(dim=1).multinomial(1, generator=generator)[:, 0]
    return Pairs(
        torch.cat([images, images, other_images]),
        torch.cat([captions, other_captions, captions]),
        torch.arange(3 * len(positives)) < len(positives),
    )


@torch.inference_mode()
def scored_pairs(
    model: Aladin,
    images: ImageInput,
    captions: Pieces,
    pairs: tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]],
    progress: Progress = SILENT,
) -> Float[Tensor, " pairs"]:
    """The cross-encoder's score of each pair, given as rows of images and of captions; each runs the transformer.

    Images and scores are on the model's device, captions and rows with the processor.
    """
    device = model.backbone.device
    lengths = torch.from_numpy(captions.mask.sum(axis=1))
    ids, mask = torch.from_numpy(captions.ids), torch.from_numpy(captions.mask)
    image_rows, caption_rows = pairs
    scores = torch.empty(len(image_rows), device=device)
    order = lengths[caption_rows].argsort(stable=True)  # captions of like length together, so that little padding is read
    for start in range(0, len(order), PAIRS_AT_ONCE):
        block = order[start : start + PAIRS_AT_ONCE]
        rows = caption_rows[block]
        width = int(lengths[rows].max())
        read = ids[rows, :width].to(device), mask[rows, :width].to(device)
        found = model.pair_scores(*read, images[image_rows[block].to(device)])
        scores[block.to(device)] = found.to(scores.dtype)
        progress(start + len(block), len(order))
    return scores


def pair_matrix(model: Aladin, images: ImageInput, captions: Pieces) -> Float[Tensor, "images captions"]:
    """The cross-encoder's score of every image with every caption."""
    count = len(captions.ids)
    rows = torch.arange(len(images) * count)
    return scored_pairs(model, images, captions, (rows // count, rows % count)).view(len(images), count)
