"""A look at everything in a folder of shards."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.detections import GeometryOrder, geometry_order, read_objects
from aladin.datasets.vinvl.problems import Problem, mixed_orders
from aladin.datasets.vinvl.shards import PATTERN, SHARDS, Shard, read_list
from aladin.datasets.vinvl.tensor_file import DIGEST
from aladin.errors import DataError
from aladin.progress import Progress

AGAIN = "copy the shard again, or convert again"


def shard_problems(path: Path, numbers: int, progress: Progress, orders: Counter[GeometryOrder]) -> Iterator[Problem]:
    """All problems of shards whose boxes should have `numbers` numbers each, shard by shard. `progress` counts bytes."""
    try:
        entries = read_list(path)["shards"]
    except DataError as error:
        yield Problem(SHARDS, None, None, "missing file", str(error).split("; ")[0], "the list of all shards", "convert again")
        return
    files: dict[str, str] = {}  # of images
    done, total = 0, sum(entry["bytes"] for entry in entries)
    for entry in entries:
        yield from _problems_of(path / entry["file"], entry, numbers, orders)
        for image in entry["images"]:
            if files.setdefault(image, entry["file"]) != entry["file"]:
                found = f"an image that {files[image]} has too"
                yield Problem(entry["file"], None, image, "duplicate image", found, "each image once", "convert again")
        done += entry["bytes"]
        progress(done, total)
    for file in sorted(path.glob(PATTERN)):
        if file.name not in {entry["file"] for entry in entries}:
            found = f"a file that {SHARDS} does not name"
            yield Problem(file.name, None, None, "wrong row", found, "only shards of the list", "delete it")
    yield from mixed_orders(orders, SHARDS)


def _problems_of(file: Path, entry: dict[str, Any], numbers: int, orders: Counter[GeometryOrder]) -> Iterator[Problem]:
    if not file.is_file():
        yield Problem(file.name, None, None, "missing file", "no such file", f"{len(entry['images']):,} images", AGAIN)
        return
    try:
        shard = Shard.open(file)
    except DataError as error:
        found = str(error).removeprefix(f"{file} ").split("; ")[0]
        yield Problem(file.name, None, None, "damaged shard", found, f"{entry['bytes']:,} bytes", AGAIN)
        return
    if not shard.content.is_sound() or shard.content.words[DIGEST] != entry[DIGEST]:
        found = "other content than was written"
        yield Problem(file.name, None, None, "damaged shard", found, f"SHA-256 {entry[DIGEST]}", AGAIN)
    if shard.images != tuple(entry["images"]):
        found = f"{len(shard.images):,} images"
        expected = f"the {len(entry['images']):,} of {SHARDS}, in their order"
        yield Problem(file.name, None, None, "wrong row", found, expected, AGAIN)
    with file.open("rb") as content:
        for number, image in enumerate(shard.images):
            try:
                boxes = shard.boxes(number, None, content).astype(np.float32)
                _check_boxes(boxes, numbers)
                orders[geometry_order(boxes)] += 1
                read_objects([image.encode(), shard.objects(number, content)])
            except BadRow as bad:
                yield Problem.of(bad, file.name, None, image)


def _check_boxes(boxes: np.ndarray, numbers: int) -> None:
    if not len(boxes):
        raise BadRow("no boxes", "0 boxes", "leave the image out, or lower the detector's threshold", "at least one")
    if boxes.shape[1] != numbers:
        remedy = "give features of that detector, or say with --numbers what a box has"
        raise BadRow("wrong size", f"{boxes.shape[1]:,} numbers a box", remedy, f"{numbers:,}")
    if not np.isfinite(boxes).all():
        raise BadRow("not a number", "an infinite number or none", "run the detector on the image again", "finite numbers")
