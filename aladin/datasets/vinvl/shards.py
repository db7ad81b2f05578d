"""A folder of shards: detections without base64, some hundred MB a file, read from any number of threads.

`shards.json` lists the files and their images, in order. Each file is of the safetensors format and holds

- `boxes`: all boxes of its images, one after the other, in float32 or float16; `box_starts`: the first box of each image, and
  the end of the last;
- `objects`: what predictions.tsv says of each image, JSON after JSON; `object_starts`: the bytes at which they begin;
- `ids`: the images' ids as a list in JSON.
"""

import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.detections import Detections, read_objects
from aladin.datasets.vinvl.sources import DetectionFolder, DetectionSource
from aladin.datasets.vinvl.tensor_file import TensorFile, unreadable
from aladin.errors import DataError

SHARDS, PATTERN = "shards.json", "boxes-*.safetensors"
FORMAT = "aladin-shards-1"
ARRAYS = ("boxes", "box_starts", "objects", "object_starts", "ids")
ANOTHER = "give the features of the model's detector"
KEPT = 4096  # shards of which the beginnings are remembered, some 10 kB each


@dataclass(frozen=True)
class Shard:
    """What is remembered of one file of shards."""

    content: TensorFile
    images: tuple[str, ...]
    box_starts: Int64[np.ndarray, " images_and_end"]
    object_starts: Int64[np.ndarray, " images_and_end"]

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """The shard at `path`; DataError unless it is one, and as long as it says."""
        content = TensorFile.open(path)
        if content.words.get("format") != FORMAT or any(name not in content.arrays for name in ARRAYS):
            raise DataError(f"{path} is a safetensors file, but no shard of {FORMAT}; convert the features again")
        starts = [content.read(name) for name in ("box_starts", "object_starts")]
        try:
            images = json.loads(content.read("ids").tobytes())
        except ValueError:
            images = None
        rows = [content.arrays[name].shape[0] for name in ("boxes", "objects")]
        if not isinstance(images, list) or not all(map(_is_divided, starts, rows, itertools.repeat(len(images)))):
            raise DataError(f"{path} contradicts itself in where its images begin; convert the features again")
        return cls(content, tuple(map(str, images)), *starts)

    @property
    def numbers(self) -> int:
        """Of a box."""
        return self.content.arrays["boxes"].shape[-1]

    def boxes(self, number: int, most: int | None, file: BufferedReader) -> np.ndarray:
        """The first `most` boxes of an image, as they are stored."""
        start, stop = self.box_starts[number : number + 2].tolist()
        return self.content.rows("boxes", start, stop if most is None else min(stop, start + most), file)

    def objects(self, number: int, file: BufferedReader) -> bytes:
        """What predictions.tsv says of an image, in JSON."""
        start, stop = self.object_starts[number : number + 2].tolist()
        return self.content.rows("objects", start, stop, file).tobytes()


@dataclass(frozen=True, slots=True)
class ShardRow(DetectionSource):
    """One image of a folder of shards."""

    image: str
    shard: Path
    number: int  # in the shard, from 0

    @property
    def file(self) -> Path:
        return self.shard

    def read(self) -> bytes:
        """Its boxes as they stand in the file, then its objects."""
        try:
            with self.shard.open("rb") as file:
                shard = self._shard(file)
                return shard.boxes(self.number, None, file).tobytes() + shard.objects(self.number, file)
        except OSError as error:
            raise unreadable(self.shard, error) from None

    def detections(self, numbers: int | None = None, most: int | None = None) -> Detections:
        try:
            with self.shard.open("rb") as file:
                shard = self._shard(file)
                if numbers not in (None, shard.numbers):
                    raise BadRow("wrong size", f"{shard.numbers:,} numbers a box", ANOTHER, f"{numbers:,}")
                boxes = shard.boxes(self.number, most, file).astype(np.float32, copy=False)
                return Detections(self.image, boxes, read_objects([self.image.encode(), shard.objects(self.number, file)]))
        except OSError as error:
            raise unreadable(self.shard, error) from None
        except BadRow as bad:
            raise DataError(f"{self.shard}, image {self.image}: {bad}") from None

    def _shard(self, file: BufferedReader) -> Shard:
        status = os.fstat(file.fileno())
        shard = _remembered(self.shard, status.st_size, status.st_mtime_ns)
        if self.number >= len(shard.images) or shard.images[self.number] != self.image:
            raise DataError(f"{self.shard} was changed since it was opened: image {self.image} is not there; start again")
        return shard


@dataclass(frozen=True)
class ShardFolder(DetectionFolder):
    """The images of a folder of shards."""

    path: Path
    shards: Mapping[str, tuple[str, ...]]  # the images of each file, both in order

    @classmethod
    def open(cls, path: Path) -> "ShardFolder":
        """The folder at `path`; DataError where a shard is missing or not as long as it was. No shard is read."""
        shards = {}
        for entry in read_list(path)["shards"]:
            file = path / entry["file"]
            try:
                size = file.stat().st_size
            except OSError as error:
                raise unreadable(file, error) from None
            if size != entry["bytes"]:
                raise DataError(
                    f"{file} has {size:,} bytes where {entry['bytes']:,} were expected; copy it again, or delete it and "
                    f"{SHARDS} and convert again"
                )
            shards[entry["file"]] = tuple(entry["images"])
        return cls(path, shards)

    def images(self) -> list[str]:
        return list(self._rows)

    def of_id(self, image: str) -> ShardRow | None:
        if image not in self._rows:
            return None
        shard, number = self._rows[image]
        return ShardRow(image, self.path / shard, number)

    @cached_property
    def _rows(self) -> dict[str, tuple[str, int]]:
        return {image: (shard, number) for shard, images in self.shards.items() for number, image in enumerate(images)}


def is_shard_folder(path: Path) -> bool:
    """Whether the folder holds shards, be they all or, of a conversion that was stopped, some."""
    return (path / SHARDS).is_file() or any(path.glob(PATTERN))


def read_list(path: Path) -> dict[str, Any]:
    """What shards.json in the folder says; DataError unless it lists shards."""
    try:
        value: dict[str, Any] = json.loads((path / SHARDS).read_bytes())
        if value["format"] == FORMAT and all(map(_is_entry, value["shards"])):
            return value
    except FileNotFoundError:
        raise DataError(f"{path} has no {SHARDS}, so its conversion is not finished; give the same command again") from None
    except OSError as error:
        raise unreadable(path / SHARDS, error) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise DataError(f"{path / SHARDS} is no list of {FORMAT}; delete it and convert the features again")


@lru_cache(KEPT)
def _remembered(path: Path, size: int, modified: int) -> Shard:
    return Shard.open(path)


def _is_entry(entry: dict[str, Any]) -> bool:
    name, images = entry["file"], entry["images"]
    if type(name) is not str or Path(name).name != name or type(entry["bytes"]) is not int:
        return False
    return all(type(image) is str for image in images)


def _is_divided(starts: np.ndarray, rows: int, images: int) -> bool:
    """Whether as many images begin there, one after the other, up to the last row."""
    if starts.shape != (images + 1,):
        return False
    return bool(starts[0] == 0 and starts[-1] == rows and (np.diff(starts) >= 0).all())
