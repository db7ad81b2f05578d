"""Scores of pairs and vectors of data, by any model folder: what `aladin score` and `aladin encode` do.

>>> import aladin
>>> [pair.text for pair in aladin.score(model, photograph, ["red above green", "a picture"]) if pair.matching <= 1]
['red above green', 'a picture']
>>> len(aladin.encode(model, pictures).image_vectors)
8
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from aladin.datasets import Data, Dataset, Example, FileOnDisk, ImageSource, dataset_of
from aladin.datasets.vinvl import open_features
from aladin.errors import DataError
from aladin.evaluation.encoding import encode_dataset
from aladin.files import kept_or_temporary, path_of, replacing
from aladin.network.run import Run, chosen_device
from aladin.progress import SILENT, Steps


@dataclass(frozen=True)
class PairScore:
    """How well a text fits an image; of both scores higher is better."""

    text: str
    matching: float  # a cosine
    alignment: float  # by the model's pooling: a mean of cosines over words, or the paper's sum


@dataclass(frozen=True)
class Vectors:
    """Vectors of length 1, of images in the order of the data and of their captions in the same order."""

    images: tuple[str, ...]
    image_vectors: Float32[np.ndarray, "images dim"]
    captions: tuple[str, ...]
    caption_vectors: Float32[np.ndarray, "captions dim"]
    owners: Int64[np.ndarray, " captions"]  # of each caption, the row of its image

    def save(self, path: Path) -> None:
        """As an .npz file with an array for each of these; DataError where it cannot be written."""
        try:
            with replacing(path) as draft, draft.open("wb") as file:
                np.savez(
                    file,
                    images=np.array(self.images),
                    image_vectors=self.image_vectors,
                    captions=np.array(self.captions),
                    caption_vectors=self.caption_vectors,
                    owners=self.owners,
                )
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror}; give another path") from None


def score(
    model: str | Path, image: str | Path, texts: Sequence[str], *, features: str | Path | None = None, device: str = "auto"
) -> list[PairScore]:
    """How well each text fits one image, by a trained or an exported model; in the order of the texts.

    `image` is a photograph's file or, with the `features` folder of a detector, an image's id there. DataError for an image
    that is not there, and for a blank text.
    """
    run = Run(device=chosen_device(device))
    blank = [text for text in texts if not text.strip()]
    if blank or not texts:
        raise DataError(f"there is {'a blank text' if blank else 'no text'}; give texts of at least a word")
    example = Example(str(image), tuple(text.strip() for text in texts), "", _source(image, features))
    with kept_or_temporary(None) as cache:
        encoded = encode_dataset(path_of("model", model), Dataset((example,)), run, cache, SILENT)
    captions = np.arange(len(texts))
    images = np.zeros_like(captions)
    pairs = zip(texts, encoded.matching_of_pairs(images, captions), encoded.alignment_of_pairs(images, captions), strict=True)
    return [PairScore(text, float(matching), float(alignment)) for text, matching, alignment in pairs]


def encode(
    model: str | Path, data: Data, *, cache: str | Path | None = None, device: str = "auto", progress: Steps = SILENT
) -> Vectors:
    """The vectors of a data set, by a trained or an exported model. Image features are kept in `cache`."""
    run, dataset = Run(device=chosen_device(device)), dataset_of(data)
    with kept_or_temporary(cache) as folder:
        encoded = encode_dataset(path_of("model", model), dataset, run, folder, progress)
    return Vectors(
        tuple(example.id for example in dataset.examples),
        encoded.images.vectors.numpy(),
        dataset.captions,
        encoded.captions.vectors.numpy(),
        dataset.owners,
    )


def _source(image: str | Path, features: str | Path | None) -> ImageSource:
    if features is None:
        if not Path(image).is_file():
            raise DataError(f"there is no image {image}; give a photograph's file, or a detector's folder by --features")
        return FileOnDisk(Path(image))
    found = open_features(Path(features)).find(str(image))
    if found is None:
        raise DataError(f"{features} has no image {image}; give one of its ids")
    return found
