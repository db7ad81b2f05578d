"""COCO's relevances beyond own captions: ECCV Caption and CxC by ids, Plausible Match by object labels.

They name images and captions by COCO's ids, which data sets do not always carry: an image's id is the number at the end of
its name, a caption's is found by its text in a JSON of COCO or Karpathy.
"""

import hashlib
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from aladin.datasets import Dataset
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
    for image, caption, text in _captions(path):
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
        {number: row for row, number in enumerate(some.tolist())} for some in (ids.images, ids.captions)
    )
    right: dict[Direction, Mapping[int, Sequence[int]]] = {}
    missing: set[int] = set()
    sha256 = hashlib.sha256()
    for direction, file in SETS.items():
        path = folder / f"{name}_{file}.json"
        of_query, content = _id_sets(path)
        sha256.update(content)
        every = {*of_query}, {number for some in of_query.values() for number in some}
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
            if query in queries and (rows := [answers[number] for number in some if number in answers])
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
    content = _content(path)
    rows = {number: row for row, number in enumerate(image_ids(dataset).tolist())}
    labels = np.zeros((len(dataset), CLASSES), dtype=np.bool_)
    for number, record in enumerate(_list(_document(path, content), "annotations", path)):
        try:
            image, category = int(record["image_id"]), int(record["category_id"])
            if image in rows:
                labels[rows[image], range(1, CLASSES + 1).index(category)] = True
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}, annotations[{number}]: an image_id and a category_id of 1 to {CLASSES} were expected; "
                "give COCO's instances JSON"
            ) from None
    if not labels.any():
        raise DataError(f"{path} labels none of the data's images; give the instances of the same part of COCO")
    return PlausibleMatch(labels, dataset.owners), hashlib.sha256(content).hexdigest()


def _captions(path: Path) -> Iterator[tuple[int, int, str]]:
    """Image id, caption id and text of every caption in the file."""
    document = _document(path, _content(path))
    try:
        if "annotations" in document:
            for record in _list(document, "annotations", path):
                yield int(record["image_id"]), int(record["id"]), str(record["caption"])
        else:
            for image in _list(document, "images", path):
                for sentence in image["sentences"]:
                    yield int(image["cocoid"]), int(sentence["sentid"]), str(sentence["raw"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} has a record without the key or number {error}; give COCO's captions JSON or Karpathy's dataset_coco.json"
        ) from None


def _id_sets(path: Path) -> tuple[dict[int, list[int]], bytes]:
    """The ids that the file has for each id, and its bytes."""
    content = _content(path)
    try:
        return {int(query): [int(number) for number in some] for query, some in _document(path, content).items()}, content
    except (TypeError, ValueError):
        raise DataError(f"{path} is no object of lists of ids; fetch it again") from None


def _list(document: dict[str, Any], key: str, path: Path) -> list[Any]:
    if not isinstance(document.get(key), list):
        raise DataError(f"{path} has no list {key!r}; give the JSON of COCO or of Karpathy's split")
    found: list[Any] = document[key]
    return found


def _document(path: Path, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); fetch it again") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} holds no JSON object; give the JSON of COCO or of Karpathy's split")
    return document


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give another file") from None


def _plain(text: str) -> str:
    return " ".join(text.split())
