"""COCO's relevances beyond own captions: ECCV Caption and CxC by ids, Plausible Match by object labels.

They name images and captions by COCO's ids, which data sets do not always carry: an image's id is the number at the end of
its name, a caption's is found by its text in a JSON of COCO or Karpathy.
"""

import hashlib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from aladin.datasets import Dataset
from aladin.datasets.coco import captions_with_ids, coco_labels, content_of, json_document
from aladin.errors import ConfigError, DataError
from aladin.measures.recalls import Direction
from aladin.measures.relevance.sources import RelevanceRows, RelevanceSets, Rows

CLASSES = 90  # COCO's category ids are 1 to 90, of which 80 are used
NEAREST = 3  # label distances 0, 1 and 2 are plausible
SETS: Mapping[Direction, str] = {"image_to_text": "image_to_caption", "text_to_image": "caption_to_image"}


@dataclass(frozen=True)
class CocoIds:
    """COCO's ids of a data set's images and captions, in its order."""

    images: Int64[np.ndarray, " images"]
    captions: Int64[np.ndarray, " captions"]


@dataclass(frozen=True)
class CocoSets:
    """Relevances of the data, and how many captions that they name are not among the data's."""

    relevances: RelevanceSets
    missing: int
    sha256: str  # of both files


def image_ids(dataset: Dataset) -> Int64[np.ndarray, " images"]:
    """The number at the end of each image's name: COCO_val2014_000000391895.jpg is 391895."""
    found = []
    for example in dataset.examples:
        number = re.search(r"(\d+)\D*$", PurePosixPath(example.id).stem)
        if number is None:
            raise DataError(f"image {example.id!r} has no COCO id at the end of its name; give COCO's own images")
        found.append(int(number[1]))
    return np.array(found, dtype=np.int64)


def coco_ids(dataset: Dataset, path: Path) -> CocoIds:
    """Ids of all images and captions; those of captions from `path`, COCO's captions JSON or Karpathy's dataset_coco.json."""
    images = image_ids(dataset)
    known: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for image, caption, text in captions_with_ids(path):
        known[image, _plain(text)].append(caption)
    captions = []
    for image, example in zip(images.tolist(), dataset.examples, strict=True):
        for text in example.captions:
            found = known[image, _plain(text)]
            if not found:
                raise DataError(f"{path} has no caption {text!r} of image {image}; give the JSON from which these data come")
            captions.append(found.pop(0))  # the same text twice for one image: in the order of the file
    return CocoIds(images, np.array(captions, dtype=np.int64))


def shipped_sets(name: Literal["eccv", "cxc"], ids: CocoIds) -> CocoSets:
    """The sets of ECCV Caption (Chun et al. 2022) or CxC (Parekh et al. 2021), as the package eccv-caption ships them."""
    found = importlib.util.find_spec("eccv_caption")  # not imported: it warns that it would like to have ujson
    if found is None or found.origin is None:
        raise ConfigError("ECCV Caption and CxC need the package eccv-caption; run pip install 'aladin[protocols]'")
    return read_sets(Path(found.origin).parent / "data", name, ids)


def read_sets(folder: Path, name: str, ids: CocoIds) -> CocoSets:
    """The sets `name`_image_to_caption.json and `name`_caption_to_image.json of a folder, by rows of the data.

    An image that is not in the data is an error. A caption that is not is left out and counted: where an image has more than
    five, people take different ones.
    """
    image_rows, caption_rows = (
        {some_id: row for row, some_id in enumerate(some.tolist())} for some in (ids.images, ids.captions)
    )
    right: dict[Direction, Mapping[int, Sequence[int]]] = {}
    missing: set[int] = set()
    sha256 = hashlib.sha256()
    for direction, file in SETS.items():
        path = folder / f"{name}_{file}.json"
        of_query, content = _id_sets(path)
        sha256.update(content)
        every = {*of_query}, {answer for some in of_query.values() for answer in some}
        needed_images, needed_captions = every if direction == "image_to_text" else every[::-1]
        if strangers := needed_images - image_rows.keys():
            raise DataError(
                f"{path.name} judges {len(needed_images):,} images of which {len(strangers):,} are not in the data, such as "
                f"{min(strangers)}; give COCO's 5,000 test images of Karpathy's split (--protocol coco-5k)"
            )
        missing |= needed_captions - caption_rows.keys()
        queries, answers = (image_rows, caption_rows) if direction == "image_to_text" else (caption_rows, image_rows)
        right[direction] = {
            queries[query]: rows
            for query, some in of_query.items()
            if query in queries and (rows := [answers[answer] for answer in some if answer in answers])
        }
    return CocoSets(RelevanceSets(right), len(missing), sha256.hexdigest())


@dataclass(frozen=True)
class PlausibleMatch:
    """Relevance by the object classes that two images show: 3 for the same, 2 where one differs, 1 where two do, else 0.

    A caption shows what its image shows. Images in which no object is labelled are not judged, neither as queries nor as
    candidates (PCME's evaluation does the same).
    """

    labels: Bool[np.ndarray, "images classes"]
    owners: Int64[np.ndarray, " captions"]

    def queries(self, direction: Direction) -> Rows:
        labelled = np.flatnonzero(self.labels.any(axis=1))
        return np.flatnonzero(np.isin(self._images(direction, asked=True), labelled))

    def rows(self, direction: Direction, queries: Rows, candidates: slice) -> RelevanceRows:
        asked = self.labels[self._images(direction, asked=True)[queries]].astype(np.float32)
        found = self.labels[self._images(direction, asked=False)[candidates]].astype(np.float32)
        distance = asked.sum(axis=1)[:, None] + found.sum(axis=1) - 2 * asked @ found.T
        relevance: RelevanceRows = np.maximum(NEAREST - distance, 0)
        relevance[:, ~found.any(axis=1)] = np.nan
        return relevance

    def _images(self, direction: Direction, asked: bool) -> Int64[np.ndarray, " rows"]:
        """The image row of each query or of each candidate."""
        return np.arange(len(self.labels)) if asked == (direction == "image_to_text") else self.owners


def plausible_match(dataset: Dataset, path: Path) -> tuple[PlausibleMatch, str]:
    """Plausible Match by COCO's instances JSON, such as instances_val2014.json, and the SHA-256 of the file."""
    content = content_of(path)
    rows = {image_id: row for row, image_id in enumerate(image_ids(dataset).tolist())}
    labels = np.zeros((len(dataset), CLASSES), dtype=np.bool_)
    for image, category in coco_labels(path, content, CLASSES):
        if image in rows:
            labels[rows[image], category - 1] = True
    if not labels.any():
        raise DataError(f"{path} labels none of the data's images; give the instances of the same part of COCO")
    return PlausibleMatch(labels, dataset.owners), hashlib.sha256(content).hexdigest()


def _id_sets(path: Path) -> tuple[dict[int, list[int]], bytes]:
    """The ids that the file has for each id, and its bytes."""
    content = content_of(path)
    try:
        return {int(query): [int(answer) for answer in some] for query, some in json_document(path, content).items()}, content
    except (TypeError, ValueError):
        raise DataError(f"{path} is no object of lists of ids; fetch it again") from None


def _plain(text: str) -> str:
    return " ".join(text.split())
