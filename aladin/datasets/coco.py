"""COCO's captions: a list of images, and a list of annotations that name an image by its id."""

from pathlib import Path
from typing import Any

from aladin.datasets.rows import Gathering, RowError, caption_text, expect, first_of, image_name

ImageId = int | str


def read_coco(images: list[Any], annotations: list[Any], path: Path, gathering: Gathering) -> None:
    """Adds the images in their order, each with its captions in the order of the annotations; the split is ""."""
    names: dict[ImageId, tuple[str, str]] = {}  # with the place of the record in the file
    for number, record in enumerate(images):
        place = f"{path}, images[{number}]"
        with gathering.row(place):
            image_id, name = _image(record)
            if image_id in names:
                raise RowError("image is repeated", f"image id {image_id!r} came before", "give every image its own id")
            names[image_id] = (place, name)
    captions: dict[ImageId, list[str]] = {image_id: [] for image_id in names}
    for number, annotation in enumerate(annotations):
        with gathering.row(f"{path}, annotations[{number}]"):
            image_id = _id(expect(annotation, dict, "this"), "image_id")
            if image_id not in names:
                raise RowError("unknown image id", f"there is no image of id {image_id!r}", "add it to 'images', remove this,")
            captions[image_id].append(caption_text(names[image_id][1], first_of(annotation, ["caption"])))
    for image_id, (place, name) in names.items():
        with gathering.row(place):
            gathering.add_image(name, captions[image_id], None)


def _image(record: Any) -> tuple[ImageId, str]:
    expect(record, dict, "this")
    return _id(record, "id"), image_name(first_of(record, ["file_name"]))


def _id(record: dict[str, Any], key: str) -> ImageId:
    value = first_of(record, [key])
    if not isinstance(value, int | str):
        raise RowError("wrong type", f"{key!r} is {value!r}", "make it a number")
    return value
