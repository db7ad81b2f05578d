"""COCO's JSON: a list of images, and a list of annotations that name an image by its id.

Data sets are made of captions; measures ask for COCO's ids, which Karpathy's JSON has too, and for the labels of objects.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.rows import Gathering, caption_text, expect, first_of, image_name
from aladin.errors import DataError

ImageId = int | str


def read_coco(images: list[Any], annotations: list[Any], path: Path, gathering: Gathering) -> None:
    """Adds the images in their order, each with its captions in the order of the annotations; the split is ""."""
    names: dict[ImageId, tuple[str, str]] = {}  # with the position of the record in the file
    for number, record in enumerate(images):
        position = f"{path}, images[{number}]"
        with gathering.row(position):
            image_id, name = _image(record)
            if image_id in names:
                raise BadRow("image is repeated", f"image id {image_id!r} came before", "give every image its own id")
            names[image_id] = (position, name)
    captions: dict[ImageId, list[str]] = {image_id: [] for image_id in names}
    for number, annotation in enumerate(annotations):
        with gathering.row(f"{path}, annotations[{number}]"):
            image_id = _id(expect(annotation, dict, "this"), "image_id")
            if image_id not in names:
                raise BadRow("unknown image id", f"there is no image of id {image_id!r}", "add it to 'images', remove this,")
            captions[image_id].append(caption_text(names[image_id][1], first_of(annotation, ["caption"])))
    for image_id, (position, name) in names.items():
        with gathering.row(position):
            gathering.add_image(name, captions[image_id], None)


def _image(record: Any) -> tuple[ImageId, str]:
    expect(record, dict, "this")
    return _id(record, "id"), image_name(first_of(record, ["file_name"]))


def _id(record: dict[str, Any], key: str) -> ImageId:
    value = first_of(record, [key])
    if not isinstance(value, int | str):
        raise BadRow("wrong type", f"{key!r} is {value!r}", "make it a number")
    return value


def captions_with_ids(path: Path) -> Iterator[tuple[int, int, str]]:
    """Image id, caption id and text of every caption in the file."""
    document = json_document(path, content_of(path))
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


def coco_labels(path: Path, content: bytes, classes: int) -> Iterator[tuple[int, int]]:
    """Image id and category id, 1 to `classes`, of every object in COCO's instances JSON."""
    for number, record in enumerate(_list(json_document(path, content), "annotations", path)):
        try:
            image, category = int(record["image_id"]), int(record["category_id"])
            if not 1 <= category <= classes:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}, annotations[{number}]: an image_id and a category_id of 1 to {classes} were expected; "
                "give COCO's instances JSON"
            ) from None
        yield image, category


def _list(document: dict[str, Any], key: str, path: Path) -> list[Any]:
    if not isinstance(document.get(key), list):
        raise DataError(f"{path} has no list {key!r}; give the JSON of COCO or of Karpathy's split")
    found: list[Any] = document[key]
    return found


def json_document(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON object that is the content of the file."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); fetch it again") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} holds no JSON object; give the JSON of COCO or of Karpathy's split")
    return document


def content_of(path: Path) -> bytes:
    """The bytes of the file; DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give another file") from None
