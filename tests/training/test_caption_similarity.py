import numpy as np
import torch
from torch.testing import assert_close

from aladin.encoder.config import BackboneConfig
from aladin.encoder.word_pieces import Pieces
from aladin.network.transformer import Transformer
from aladin.training.caption_similarity import CaptionSimilarity

LENGTHS = (3, 6, 4, 6, 2)
OWNERS = np.array([0, 0, 1, 2, 2])


def tiny_backbone() -> Transformer:
    torch.manual_seed(0)
    return Transformer(BackboneConfig(vocabulary=30, positions=8, dim=8, layers=1, heads=2, feed_forward=16)).eval()


def pieces(extra: int = 0) -> Pieces:
    """Captions of the given lengths, the first and the third alike but for their length."""
    mask = np.arange(max(LENGTHS) + extra)[None] < np.array(LENGTHS)[:, None]
    ids = np.where(mask, 1 + np.arange(mask.shape[1])[None] + 5 * (np.arange(len(LENGTHS)) % 2)[:, None], 0)
    return Pieces(ids.astype(np.int64), mask, (False,) * len(LENGTHS), ((),) * len(LENGTHS))


def slow_vectors(backbone: Transformer, texts: Pieces) -> torch.Tensor:
    rows = []
    for ids, mask in zip(texts.ids, texts.mask, strict=True):
        alone = torch.from_numpy(ids[mask])[None]
        states = backbone.encode_captions(alone, torch.ones_like(alone, dtype=torch.bool)).states[0]
        mean = states.mean(dim=0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def test_a_caption_fits_an_image_as_it_resembles_the_mean_of_its_captions() -> None:
    backbone = tiny_backbone()
    vectors = slow_vectors(backbone, pieces())
    images = torch.stack([vectors[image == OWNERS].sum(dim=0) for image in range(3)])
    images = images / images.norm(dim=1, keepdim=True)
    asked_images, asked_captions = np.array([2, 0]), np.array([1, 4, 2])
    scores = CaptionSimilarity.build(backbone, pieces(), OWNERS).scores(asked_images, asked_captions)
    assert_close(scores, (images @ vectors.T)[asked_images][:, asked_captions], atol=1e-5, rtol=0)


def test_padding_does_not_change_the_similarity() -> None:
    backbone = tiny_backbone()
    short, long = (CaptionSimilarity.build(backbone, pieces(extra), OWNERS) for extra in (0, 2))
    assert_close(short.caption_vectors, long.caption_vectors, atol=1e-5, rtol=0)
    assert_close(short.image_vectors, long.image_vectors, atol=1e-5, rtol=0)


def test_an_image_fits_its_only_caption_perfectly() -> None:
    similarity = CaptionSimilarity.build(tiny_backbone(), pieces(), OWNERS)
    assert_close(similarity.scores(np.array([1]), np.array([2])), torch.ones(1, 1))
