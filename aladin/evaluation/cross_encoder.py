"""Images and captions of a data set read together by a cross-encoder: the last judge of what a search has found."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from aladin.datasets import Dataset
from aladin.encoder.folder import model_config
from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import ModelError
from aladin.evaluation.encoding import read_images
from aladin.network.backbone import ImageSet
from aladin.network.checkpoints import load_model
from aladin.network.model import Aladin
from aladin.network.pairs import scored_pairs
from aladin.network.run import Run
from aladin.progress import SILENT, Progress, Steps

IMAGES_AT_ONCE = 64  # whose regions are in memory: 32 MB at lite's sizes


def has_cross_encoder(folder: Path) -> bool:
    """Whether the model folder's weights can read image and caption together; an exported folder's cannot."""
    return (folder / "model.safetensors").is_file() and model_config(folder).heads.cross_encoder


def check_cross_encoder(folder: Path) -> None:
    """ModelError unless the model folder has a cross-encoder with its weights."""
    if not has_cross_encoder(folder):
        raise ModelError(
            f"{folder} has no weights of a cross-encoder; give a folder that `aladin train` wrote by a recipe that trains "
            '"cross_encoder", such as recipes/cross-encoder.toml (`aladin evaluate` takes it by --cross-encoder-model)'
        )


@dataclass(frozen=True)
class CrossEncoder:
    """A model with a cross-encoder, and a data set as it reads it; images are fetched as they are asked for."""

    model: Aladin
    images: ImageSet
    captions: Pieces
    run: Run

    @classmethod
    def load(cls, folder: Path, dataset: Dataset, run: Run, cache: Path, steps: Steps) -> "CrossEncoder":
        """The model of a folder that passes `check_cross_encoder`. Photographs' features are kept in `cache`."""
        model = load_model(folder).to(run.device)
        tokenizer = folder / "tokenizer.json"
        images = read_images(model, tokenizer, dataset, cache, steps)
        pieces = WordPieces.of(tokenizer, model.config.preprocessing).encode(list(dataset.captions))
        return cls(model, images, pieces, run)

    @torch.inference_mode()
    def scores(
        self, images: Int[np.ndarray, " pairs"], captions: Int[np.ndarray, " pairs"], progress: Progress = SILENT
    ) -> Float[np.ndarray, " pairs"]:
        """The cross-encoder's log odds of each pair, given as rows of the data set; each costs a run of the transformer."""
        scores = np.empty(len(images), dtype=np.float32)
        wanted, position = np.unique(images, return_inverse=True)
        order = np.argsort(position, kind="stable")
        done = 0
        for start in range(0, len(wanted), IMAGES_AT_ONCE):
            last = np.searchsorted(position[order], start + IMAGES_AT_ONCE)
            some = order[done:last]
            pairs = torch.from_numpy(position[some] - start), torch.from_numpy(captions[some].astype(np.int64))
            before = done  # of this block, for the progress within it

            def watched(within: int, total: int, before: int = before) -> None:
                progress(before + within, len(images))

            with self.run.context():
                read = self.model.backbone.batch(self.images, wanted[start : start + IMAGES_AT_ONCE])
                scores[some] = scored_pairs(self.model, read, self.captions, pairs, watched).float().cpu().numpy()
            done = int(last)
        return scores
