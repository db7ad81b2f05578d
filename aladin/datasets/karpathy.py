"""Karpathy's JSON of COCO, Flickr30k and Flickr8k: images with split and sentences."""

from pathlib import Path
from typing import Any

from aladin.datasets.rows import Gathering, expect, first_of, image_name


def read_karpathy(images: list[Any], path: Path, gathering: Gathering) -> None:
    """Adds every record of `images`; the image is `filepath`/`filename`, where Flickr's have no `filepath`."""
    for number, record in enumerate(images):
        with gathering.row(f"{path}, images[{number}]"):
            record = expect(record, dict, "this")
            sentences = expect(first_of(record, ["sentences"]), list, "'sentences'")
            captions = [first_of(expect(sentence, dict, "a sentence"), ["raw"]) for sentence in sentences]
            gathering.add_image(_image(record), captions, record.get("split"))


def _image(record: dict[str, Any]) -> str:
    name = image_name(first_of(record, ["filename"]))
    folder = record.get("filepath")
    return f"{image_name(folder)}/{name}" if folder else name
