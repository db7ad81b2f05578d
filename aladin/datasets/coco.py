"""COCO's JSON: a list of images, and a list of annotations that name an image by its id.

Data sets are made of captions; measures ask for COCO's ids, which Karpathy's JSON has too, and for the labels of objects.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.rows import Gathering, caption_as_written, expect, first_of, image_name
from aladin.errors import DataError

KINDS = {bool: "a truth value", int: "a number", float: "a fraction", str: "text", list: "a list", dict: "an object"}  # of JSON
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
            captions[image_id].append(caption_as_written(names[image_id][1], first_of(annotation, ["caption"])))
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
            for record in coco_records(path, document, "annotations", image_id=(int, str), id=(int, str), caption=(str,)):
                yield int(record["image_id"]), int(record["id"]), record["caption"]
        else:
            for image in coco_records(path, document, "images", cocoid=(int, str), sentences=(list,)):
                for sentence in image["sentences"]:
                    yield int(image["cocoid"]), int(sentence["sentid"]), str(sentence["raw"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} has a record without the key or number {error}; give COCO's captions JSON or Karpathy's dataset_coco.json"
        ) from None


def coco_labels(path: Path, content: bytes, classes: int) -> Iterator[tuple[int, int]]:
    """Image id and category id, 1 to `classes`, of every object in COCO's instances JSON."""
    document = json_document(path, content)
    for number, record in enumerate(coco_records(path, document, "annotations", image_id=(int, str), category_id=(int, str))):
        try:
            image, category = int(record["image_id"]), int(record["category_id"])
            if not 1 <= category <= classes:
                raise ValueError
        except ValueError:
            raise DataError(
                f"{path}, annotations[{number}]: an image_id and a category_id of 1 to {classes} were expected; "
                "give COCO's instances JSON"
            ) from None
        yield image, category


def json_document(path: Path, content: bytes) -> dict[str, Any]:
    """The JSON object that is the content of the file."""
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no COCO JSON: its byte {error.start:,} is not UTF-8; give another file") from None
    except RecursionError:
        raise DataError(f"{path} is no COCO JSON: its brackets lie too deep; give another file") from None
    except ValueError as error:
        raise DataError(f"{path} is no COCO JSON ({error}); give another file") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} is no COCO JSON: it holds {_kind(document)}, expected an object; give another file")
    return document


def coco_records(path: Path, document: dict[str, Any], name: str, **fields: tuple[type, ...]) -> list[dict[str, Any]]:
    """The list of that name; DataError unless each of its items is an object that has these fields, of one of these types."""
    items = document.get(name)
    if not isinstance(items, list):
        found = f"its {name} are {_kind(items)}" if name in document else f"it has no {name}"
        raise DataError(f"{path} is no COCO JSON: {found}, expected a list of them; give another file")
    for position, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise DataError(f"{path} is no COCO JSON: number {position:,} of its {name} is {_kind(item)}; mend the file")
        for field, types in fields.items():
            if not isinstance(item.get(field), types):
                found = f"has as {field} {_kind(item[field])}" if field in item else f"has no {field}"
                expected = " or ".join(KINDS[kind] for kind in types)
                raise DataError(
                    f"{path} is no COCO JSON: number {position:,} of its {name} {found}, expected {expected}; mend it, or give "
                    "another file"
                )
    return items


def _kind(value: Any) -> str:
    return "nothing" if value is None else KINDS[type(value)]


def content_of(path: Path) -> bytes:
    """The bytes of the file; DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give another file") from None
