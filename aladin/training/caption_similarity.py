"""How well a caption fits an image, judged by the captions of that image: soft targets from text alone.

A batch of 128 images holds several dogs that run through grass; calling all but one of them wrong teaches nothing true.
MiniLM, as it was before training, knows which captions say nearly the same.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from aladin.encoder.word_pieces import Pieces
from aladin.errors import ConfigError
from aladin.network.caption_blocks import caption_blocks
from aladin.network.minilm import minilm_folder
from aladin.network.run import ALONE, Run
from aladin.network.transformer import Transformer

BATCH = 256


@dataclass(frozen=True)
class CaptionSimilarity:
    """A sentence vector for every caption, and for every image the mean of its captions'; all L2-normalised."""

    caption_vectors: Float[Tensor, "captions dim"]
    image_vectors: Float[Tensor, "images dim"]

    @classmethod
    @torch.no_grad()
    def build(
        cls, backbone: Transformer, pieces: Pieces, owners: Int[np.ndarray, " captions"], run: Run = ALONE
    ) -> "CaptionSimilarity":
        """Of a training set: the mean of a caption's token states is its sentence vector, as MiniLM was trained."""
        backbone = backbone.to(run.device)
        vectors = torch.empty(len(pieces.ids), backbone.embeddings.word_embeddings.embedding_dim)
        for block in caption_blocks(pieces, BATCH):
            mask = run.put(block.mask)
            with run.context():
                states = backbone.encode_captions(run.put(block.ids), mask).states
            vectors[block.rows] = normalize((states * mask[:, :, None]).sum(dim=1).float(), dim=-1).cpu()
        sums = torch.zeros(int(owners[-1]) + 1, vectors.shape[1]).index_add_(0, torch.from_numpy(owners), vectors)
        return cls(vectors, normalize(sums, dim=-1))

    def scores(
        self, images: Int[np.ndarray, " images"], captions: Int[np.ndarray, " captions"]
    ) -> Float[Tensor, "images captions"]:
        """The cosine of what the captions of each image mean with each caption, by their rows in the training set."""
        return self.image_vectors[torch.from_numpy(images)] @ self.caption_vectors[torch.from_numpy(captions)].T


def check_minilm_pieces(tokenizer: Path, minilm: Path | None) -> None:
    """ConfigError unless a model's tokenizer.json is that of MiniLM, in the folder `minilm` or else its package."""
    if tokenizer.read_bytes() != ((minilm or minilm_folder()) / "tokenizer.json").read_bytes():
        raise ConfigError(
            f"{tokenizer} is not MiniLM's, but this recipe has MiniLM read captions in the model's word pieces; leave out the "
            "teachers of kind caption_similarity and cross_fitted, and set cross_encoder_scale in [loss] to 0"
        )
