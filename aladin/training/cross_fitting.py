"""Small models of whole pictures and sentences that learn from folds and judge only what they have not learned from.

Who learned the captions of 6,000 images knows them by heart, and scores them as it would not score others. So the images are
parted into folds, and a fold's images and captions are scored by models that learned from the other folds (cross-fitting): as
honestly as new pairs. Only images and captions of one fold can be compared, so a step of training reads images of one fold.

A model is two perceptrons into one space (global_learning.py). The one reads a picture as the mean and the maximum of its
regions' features, in their first principal axes; the other a caption as the mean and the maximum of MiniLM's token states.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from aladin.encoder.word_pieces import Pieces
from aladin.errors import DataError, ModelError
from aladin.network.detections import RegionSet
from aladin.network.global_head import pooled_mean_and_maximum, standardised
from aladin.network.grid import GridNetwork
from aladin.network.grid_features import GridFeatures
from aladin.network.run import Run
from aladin.network.tensors import Tokens
from aladin.network.transformer import Transformer
from aladin.network.weights import save_weights
from aladin.progress import SILENT, Progress
from aladin.training.batches import FOLDS, Plan, seed_for
from aladin.training.caption_similarity import CaptionSimilarity
from aladin.training.global_learning import DIM, Lesson, PerceptronPair, picture_axes, pooled_captions, pooled_images
from aladin.training.losses import infonce_loss

AXES = (256, 384, 512)  # principal axes of pictures that the models of a fold read: one model for each number
SCALES = tuple(np.geomspace(5, 100, 60).tolist())  # among which the teacher's own is found


def fold_of_each(images: int, folds: int, seed: int) -> Int[np.ndarray, " images"]:
    """The fold of every image, all of nearly one size. DataError if one would have a single image, without negatives."""
    if images < 2 * folds:
        raise DataError(
            f"{images} images are too few for {folds} folds of a cross-fitted teacher; expected at least two each: give more "
            "images, or lower folds of that teacher"
        )
    return np.random.default_rng((seed, FOLDS)).permutation(images) % folds


@dataclass(frozen=True)
class CrossFittedScores:
    """What the models that did not learn from them make of every image and caption of a training set.

    Models of one fold share their spaces; rows of different folds have nothing to do with each other.
    """

    image_vectors: Float[Tensor, "models images dim"]
    caption_vectors: Float[Tensor, "models captions dim"]
    scale: float  # inverse temperature at which the right answers are likeliest to it

    def scores(
        self, images: Int[np.ndarray, " images"], captions: Int[np.ndarray, " captions"]
    ) -> Float[Tensor, "images captions"]:
        """The mean of the models' cosines, by rows of the training set, which must all be of one fold."""
        image_vectors = self.image_vectors[:, torch.from_numpy(images)].float()
        caption_vectors = self.caption_vectors[:, torch.from_numpy(captions)].float()
        return torch.einsum("mid,mcd->ic", image_vectors, caption_vectors) / len(image_vectors)

    def save(self, path: Path) -> None:
        """One file, so that a run which goes on need not learn again and has exactly the same scores."""
        vectors = {"images": self.image_vectors, "captions": self.caption_vectors}
        save_weights(vectors, path, {"scale": repr(self.scale)})

    @classmethod
    def load(cls, path: Path) -> "CrossFittedScores":
        """The one that was saved; ModelError if that is not there any more."""
        try:
            with safe_open(path, "pt") as file:
                return cls(file.get_tensor("images"), file.get_tensor("captions"), float(file.metadata()["scale"]))
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{path}, the teacher of this run so far, cannot be read: {error}; put it back, or give another "
                "--out to start anew"
            ) from None


@dataclass(frozen=True)
class CrossFitting:
    """All that the small models learn from."""

    pictures: Float[Tensor, "images axes"]  # in principal axes, most important first
    sentences: Float[Tensor, "captions features"]
    similarity: CaptionSimilarity
    plan: Plan  # the steps in which the scores are wanted; each reads images of one fold
    epochs: int  # of each model
    seed: int
    run: Run

    @property
    def folds(self) -> Int[np.ndarray, " images"]:
        assert self.plan.folds is not None, "the plan is one of folds"
        return self.plan.folds

    @property
    def caption_folds(self) -> Int[np.ndarray, " captions"]:
        folds: Int[np.ndarray, " captions"] = self.folds[self.plan.owners]
        return folds

    def scores(self, progress: Progress = SILENT) -> CrossFittedScores:
        """Learn a model of each number of axes for each fold; `progress` counts models."""
        every = [(fold, axes) for fold in range(int(self.folds.max()) + 1) for axes in AXES]
        images = torch.empty(len(AXES), len(self.pictures), DIM, dtype=torch.float16)
        captions = torch.empty(len(AXES), len(self.sentences), DIM, dtype=torch.float16)
        for number, (fold, axes) in enumerate(every):
            pair = self._learned(fold, axes, number)
            model, rows, columns = AXES.index(axes), self.folds == fold, self.caption_folds == fold
            with torch.inference_mode():
                images[model, torch.from_numpy(rows)] = normalize(pair.pictures(self.pictures[rows, :axes]), dim=1).half()
                captions[model, torch.from_numpy(columns)] = normalize(pair.sentences(self.sentences[columns]), dim=1).half()
            progress(number + 1, len(every))
        unscaled = CrossFittedScores(images, captions, 1.0)
        return CrossFittedScores(images, captions, _likeliest_scale(unscaled, self.plan))

    def _learned(self, fold: int, axes: int, number: int) -> PerceptronPair:
        """A model that has seen no pair of `fold`."""
        rows, columns = np.flatnonzero(self.folds != fold), np.flatnonzero(self.caption_folds != fold)
        owners = np.searchsorted(rows, self.plan.owners[columns])
        lesson = Lesson(
            self.pictures[rows, :axes],
            self.sentences[columns],
            owners,
            lambda images, captions: self.similarity.scores(rows[images], columns[captions]),
        )
        seed = seed_for(self.seed, FOLDS, number)  # so that recipes of neighbouring seeds share no model
        return lesson.learned(self.epochs, seed, self.run)


def _likeliest_scale(found: CrossFittedScores, plan: Plan) -> float:
    """Of some scales the one at which the right answers are likeliest in the lists of an epoch."""
    lists = [(found.scores(step.images, step.captions), step.positives) for step in plan.steps(0, plan.steps_per_epoch)]

    def loss(scale: float) -> float:
        return math.fsum(infonce_loss(scores, positives, scale).item() for scores, positives in lists)

    likeliest: float = min(SCALES, key=loss)
    return likeliest


def pictures_read(
    images: GridFeatures | RegionSet, network: GridNetwork | None, seed: int, progress: Progress = SILENT
) -> Float[Tensor, "images axes"]:
    """What the models read of images: `pictures_seen`, standardised, in as many principal axes as one of them reads."""
    pictures = _of_deviation_one(pictures_seen(images, network, progress))
    return pictures @ picture_axes(pictures, min(max(AXES), *pictures.shape), seed)


def sentences_read(pieces: Pieces, minilm: Transformer, run: Run) -> Float[Tensor, "captions features"]:
    """What the models read of captions, standardised."""
    minilm = minilm.to(run.device)
    with run.context():
        return _of_deviation_one(pooled_captions(pieces, minilm.encode_captions, pooled_mean_and_maximum, run.device))


def pictures_seen(
    images: GridFeatures | RegionSet, network: GridNetwork | None, progress: Progress = SILENT
) -> Float[Tensor, "images features"]:
    """The mean and the maximum of the features of each image's regions; a photograph is read as a whole, by its first view."""
    return pooled_images(len(images), lambda rows: _regions(images, network, rows), pooled_mean_and_maximum, progress)


def _regions(images: GridFeatures | RegionSet, network: GridNetwork | None, rows: Int[np.ndarray, " images"]) -> Tokens:
    if isinstance(images, RegionSet):
        return images.read(rows).regions.tokens
    assert network is not None, "cached maps are those of a network"
    device = next(network.parameters()).device
    states = network.regions(images.read(rows).maps.to(device).float())
    return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool, device=device))


def _of_deviation_one(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    """The rows, each feature standardised by all of them."""
    deviation, mean = torch.std_mean(rows, dim=0)
    return standardised(rows, mean, deviation)
