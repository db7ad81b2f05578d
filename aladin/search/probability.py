"""Scores to probabilities: how likely it is that an image with this score shows what the text says.

A score alone says little: what is high differs from model to model, and from a word to a long sentence. So the score (the mean
over words) is first put in units of the collection: t = (score - mean) / deviation, over sentences that have nothing to do with
the query and images of the collection. Then a logistic curve (Platt 1999) in t and the number n of word pieces:

    logit P = intercept + slope t + (length_intercept + length_slope t) ln n

Its four constants are learned by `aladin calibrate` on images with captions and stand in the model folder, in [calibration] of
model.toml. A model without them gives no probabilities, unless it is an encoder that learned its own scale and bias.
"""

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from aladin.collection.cache import cache_folder, keep
from aladin.collection.store import Store
from aladin.config import from_table, read_toml
from aladin.encoder.config import EncoderConfig
from aladin.encoder.encoder import Encoder
from aladin.encoder.pooling import POOLINGS
from aladin.errors import ConfigError, ModelError
from aladin.search.alignment import alignment_scores, token_similarity
from aladin.search.stored_regions import stored_regions

SAMPLED_IMAGES = 128  # of a collection
PRIOR_IMAGES = 32  # as many images does the model's own background count for, so that a small collection is not trusted alone
MIN_DEVIATION = 1e-3  # of a background that does not vary, as on one image
MAX_DRIFT = 1.25  # times as many or as few images as when the background was found: it is found again
NAME = "background.json"
# What people photograph and write, spread widely, so that most of it is not in any one image.
BACKGROUND = (
    "a train at a station", "two cups of coffee on a table", "a bridge over a river at night", "a plate of food",
    "a woman reading a book", "a red car in the street", "children in a classroom", "a bird on a branch",
    "a sailing boat at sea", "an old church", "a man with a hat", "flowers in a garden", "a computer on a desk",
    "a horse in a meadow", "a football match", "a snowy mountain", "a baby asleep", "a market with fruit",
    "an airplane in the sky", "a cat on a sofa", "people dancing at a wedding", "a map on a wall", "a kitchen",
    "a dog with a ball", "a concert in the evening", "a bicycle against a fence", "a waterfall in the forest",
    "a bowl of soup", "a tall building", "a group of friends at the beach", "a clock tower", "a sheep in the grass",
)  # fmt: skip


@dataclass(frozen=True)
class Background:
    """Scores of pairs that do not belong together."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Calibration:
    """The table [calibration] of a model folder's model.toml."""

    intercept: float
    slope: float
    length_intercept: float
    length_slope: float
    mean: float  # of the background on the images that the constants were learned on
    deviation: float
    data: str  # what they were learned on

    def __post_init__(self) -> None:
        if self.deviation <= 0:
            raise ConfigError(f"deviation is {self.deviation}; expected more than 0")

    @property
    def constants(self) -> Float64[np.ndarray, " terms"]:
        return np.array([self.intercept, self.slope, self.length_intercept, self.length_slope])

    @property
    def background(self) -> Background:
        return Background(self.mean, self.deviation)

    def probabilities(
        self, scores: Float64[np.ndarray, " images"], pieces: int, background: Background
    ) -> Float64[np.ndarray, " images"]:
        """The probability of each image, from its mean over word pieces and how many there are."""
        standard = (scores - background.mean) / background.deviation
        return likelihoods(terms(standard, np.full(len(scores), pieces)) @ self.constants)


def own_probabilities(cosines: Float32[np.ndarray, " images"], encoder: EncoderConfig) -> Float64[np.ndarray, " images"]:
    """The probability of each image by the scale and bias that an encoder learned with a sigmoid, from its own cosines."""
    return likelihoods(encoder.scale * cosines.astype(np.float64) + encoder.bias)


def likelihoods(logits: Float64[np.ndarray, " images"]) -> Float64[np.ndarray, " images"]:
    """The probabilities that have these logarithms of odds."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -500, 500))))


def terms(standard: Float64[np.ndarray, " pairs"], pieces: Int64[np.ndarray, " pairs"]) -> Float64[np.ndarray, "pairs 4"]:
    """What the four constants are multiplied with."""
    length = np.log(np.maximum(pieces, 1))
    return np.stack([np.ones_like(standard), standard, length, length * standard], axis=1)


def read_calibration(encoder: Encoder) -> Calibration | None:
    """What the model folder says; None when it says nothing."""
    path = encoder.model.path / "model.toml"
    try:
        table = read_toml(path).get("calibration")
        return None if table is None else from_table(Calibration, table, "[calibration] of model.toml")
    except (ConfigError, TypeError) as error:
        raise ModelError(f"{path} has no calibration that this version reads: {error}; run `aladin calibrate`") from None


def background_of(collection: Store, encoder: Encoder, calibration: Calibration) -> Background:
    """The background of a collection: of a sample of its images, joined with the model's prior.

    It is kept in the collection's cache, and found again when the collection has grown or shrunk much.
    """
    images = len(collection)
    if not images:
        return calibration.background
    found = _kept(collection, images, calibration)
    if found is None:
        sample = collection.sample(SAMPLED_IMAGES).tolist()
        found = background_scores(*stored_regions(collection, sample, encoder.model.config.encoder), encoder)
        _keep(found, collection, images, calibration)
    return _joined(found, min(images, SAMPLED_IMAGES), calibration.background)


def background_scores(
    regions: Float32[np.ndarray, "images regions dim"], mask: Bool[np.ndarray, "images regions"], encoder: Encoder
) -> Background:
    """Mean and deviation of the scores of all background sentences with these images."""
    texts = encoder.encode_queries(list(BACKGROUND))
    scores = [
        alignment_scores(token_similarity(regions, words[real]), mask, POOLINGS["MrAVGw"])
        for words, real in zip(texts.words, texts.word_mask, strict=True)
    ]
    return Background(float(np.mean(scores)), max(float(np.std(scores)), MIN_DEVIATION))


def _joined(found: Background, images: int, prior: Background) -> Background:
    """Mean and deviation over the images of a collection and `PRIOR_IMAGES` of the model's prior."""
    share = images / (images + PRIOR_IMAGES)
    mean = share * found.mean + (1 - share) * prior.mean
    between = share * (found.mean - mean) ** 2 + (1 - share) * (prior.mean - mean) ** 2
    return Background(mean, math.sqrt(share * found.deviation**2 + (1 - share) * prior.deviation**2 + between))


def _kept(collection: Store, images: int, calibration: Calibration) -> Background | None:
    try:
        kept = json.loads((cache_folder(collection.path) / NAME).read_bytes())
        drifted = not 1 / MAX_DRIFT <= (images + 1) / (kept["images"] + 1) <= MAX_DRIFT
        if kept["fingerprint"] != collection.fingerprint or kept["calibration"] != asdict(calibration) or drifted:
            return None
        return Background(float(kept["mean"]), float(kept["deviation"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # missing or damaged


def _keep(found: Background, collection: Store, images: int, calibration: Calibration) -> None:
    # A model that is calibrated again may also encode its sentences in another way.
    content = asdict(found) | {
        "images": images, "fingerprint": collection.fingerprint, "calibration": asdict(calibration),
    }  # fmt: skip
    keep(cache_folder(collection.path) / NAME, lambda draft: draft.write_text(json.dumps(content), encoding="utf-8"))
