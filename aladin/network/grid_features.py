"""Trunk maps and tags of a data set's photographs, computed once and kept on disk while the trunk is frozen.

A photograph has several views: view 0 is the whole picture, the others are random crops, mirrored half of the time. Training
reads a random view, evaluation view 0.
"""

import contextlib
import errno
import hashlib
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float16, Int, Int16
from PIL import Image
from torch import Tensor, nn

from aladin.datasets import Dataset, Example, FileOnDisk, placing_undecodable
from aladin.errors import DataError
from aladin.files import write_whole
from aladin.network.detections import check_photographs
from aladin.network.grid import MAP_SHRINKAGE, GridNetwork, top_classes
from aladin.network.onnx_graph import to_onnx
from aladin.pictures.fitting import Fitting
from aladin.pictures.pixels import Pixels, open_image, to_pixels
from aladin.progress import SILENT, Progress

BLOCK = 32  # pictures between two records of progress
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MIN_CROP = 0.4  # smallest share of the picture's area that a view shows


@dataclass(frozen=True)
class GridRows:
    """Those of some images."""

    maps: Float16[Tensor, "images channels rows columns"]
    tags: Int16[Tensor, "images tags"]


@dataclass(frozen=True)
class GridFeatures:
    """Cached input of the network's trainable part, one row for each example of the data set."""

    maps: Float16[np.ndarray, "views images channels rows columns"]
    tags: Int16[np.ndarray, "views images tags"]  # class numbers, best first

    def __len__(self) -> int:
        return int(self.maps.shape[1])

    @property
    def views(self) -> int:
        return len(self.maps)

    def read(self, rows: Int[np.ndarray, " images"], views: int | Int[np.ndarray, " images"] = 0) -> GridRows:
        return GridRows(torch.from_numpy(self.maps[views, rows]), torch.from_numpy(self.tags[views, rows]))


@dataclass(frozen=True)
class PhotographReader:
    """Reads photographs through image networks (the seam of backbone.py)."""

    network: GridNetwork
    fitting: Fitting  # of a photograph
    tags: int  # that are kept of each photograph

    def read(self, dataset: Dataset, views: int, cache: Path, progress: Progress = SILENT) -> GridFeatures:
        """DataError if an image is a detector's, or cannot be decoded."""
        check_photographs(dataset)
        with placing_undecodable(dataset):
            return cached_features(dataset, self.network, self.fitting, self.tags, views, cache, progress)

    def missing_bytes(self, dataset: Dataset, views: int, cache: Path) -> int:
        return _Cached.of(dataset, self.network, self.fitting, self.tags, views, cache).missing_bytes


def cached_features(
    dataset: Dataset,
    network: GridNetwork,
    fitting: Fitting,
    tags: int,
    views: int,
    cache: Path,
    progress: Progress = SILENT,
) -> GridFeatures:
    """The features of every example, from `cache` as far as they are there; an interrupted run goes on where it was.

    `progress` counts pictures (views singly). DataError where the disk has no room for all
    of them, before the first is read.
    """
    cached = _Cached.of(dataset, network, fitting, tags, views, cache)
    # Views come one after the other, so that fewer are the beginning of more. The arrays are only believed up to here.
    done, total = cached.done, views * len(dataset)
    cached.check_beginning()
    if done < total:
        cached.make_room()
    mode: Literal["r+", "r"] = "r+" if done < total else "r"  # what is whole may be somebody else's
    maps, classes = (np.memmap(path, dtype, mode=mode, shape=shape) for path, dtype, shape in cached.arrays)
    flat_maps, flat_tags = maps.reshape(total, *maps.shape[2:]), classes.reshape(total, tags)
    for start, block_maps, block_tags in _computed(dataset, network, fitting, tags, done, total):
        stop = start + len(block_maps)
        flat_maps[start:stop], flat_tags[start:stop] = block_maps, block_tags
        if stop // 1024 > start // 1024 or stop == total:
            maps.flush()
            classes.flush()
            _replace(cached.state, str(stop))
        progress(stop, total)
    return GridFeatures(maps, classes)


def check_room(cache: Path, needed: int, views: int) -> None:
    """DataError if the disk of a folder, which need not exist yet, has no room for that many bytes of features."""
    if needed > _free(cache):
        raise _no_room(cache, needed, views)


@dataclass(frozen=True)
class _Cached:
    """The files in which the features of one content are kept."""

    folder: Path
    shape: tuple[int, int, int, int, int]  # of the maps: views, images, channels, rows, columns
    tags: int

    @classmethod
    def of(cls, dataset: Dataset, network: GridNetwork, fitting: Fitting, tags: int, views: int, cache: Path) -> "_Cached":
        side = fitting.size // MAP_SHRINKAGE
        shape = (views, len(dataset), network.map_channels, side, side)
        return cls(cache / cache_name(dataset, network, fitting, tags), shape, tags)

    @property
    def state(self) -> Path:
        return self.folder / "done.json"

    @property
    def done(self) -> int:
        """How many pictures the arrays hold."""
        return int(self.state.read_text()) if self.state.exists() else 0

    @property
    def arrays(self) -> tuple[tuple[Path, type[np.generic], tuple[int, ...]], ...]:
        maps, tags = self.folder / "maps.float16", self.folder / "tags.int16"
        return (maps, np.float16, self.shape), (tags, np.int16, (*self.shape[:2], self.tags))

    @property
    def missing_bytes(self) -> int:
        if self.done >= self.shape[0] * self.shape[1]:
            return 0
        return sum(max(0, _bytes(dtype, shape) - _allocated(path)) for path, dtype, shape in self.arrays)

    def check_beginning(self) -> None:
        """DataError unless the arrays hold as many pictures as were done."""
        for path, dtype, shape in self.arrays:
            expected = min(self.done, shape[0] * shape[1]) * _bytes(dtype, shape[2:])
            found = path.stat().st_size if path.exists() else 0
            if found < expected:
                raise DataError(f"{path} has {found} bytes where {expected} were expected; delete {path.parent}")

    def make_room(self) -> None:
        """All of the arrays' bytes on the disk; DataError where there is no room for them, everything then as it was before.

        A mapped array with holes would end the process, by a bus error, when the disk is full.
        """
        needed, cache, views = self.missing_bytes, self.folder.parent, self.shape[0]
        check_room(cache, needed, views)
        before = [path.stat().st_size if path.exists() else None for path, _, _ in self.arrays]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path, dtype, shape in self.arrays:
                _allocate(path, _bytes(dtype, shape))
        except OSError as error:
            with contextlib.suppress(OSError):
                for (path, _, _), length in zip(self.arrays, before, strict=True):
                    if length is None:
                        path.unlink(missing_ok=True)
                    else:
                        os.truncate(path, length)
                self.folder.rmdir()  # if there is nothing else in it
            if error.errno in NO_ROOM:
                raise _no_room(cache, needed, views, error.strerror or "") from None
            raise DataError(f"{self.folder} cannot be written: {error.strerror}; give another folder by --cache") from None


def view_pixels(picture: Image.Image, fitting: Fitting, view: int, seed: int) -> Pixels:
    """View 0: the whole picture. Others: a crop of two fifths of it or more, mirrored half of the time, fixed by `seed`."""
    if view == 0:
        return to_pixels(picture, fitting)
    random = np.random.default_rng((seed, view))
    area, stretch = random.uniform(MIN_CROP, 1.0), np.exp(random.uniform(-0.2, 0.2))
    width = min(1.0, np.sqrt(area) * stretch) * picture.width
    height = min(1.0, np.sqrt(area) / stretch) * picture.height
    left, top = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
    crop = picture.crop((round(left), round(top), round(left + width), round(top + height)))
    if random.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_pixels(crop, fitting)


def _computed(
    dataset: Dataset, network: GridNetwork, fitting: Fitting, tags: int, done: int, total: int
) -> Iterator[tuple[int, Float16[np.ndarray, "block channels rows columns"], Int16[np.ndarray, "block tags"]]]:
    if done >= total:
        return
    session = _trunk_session(network, fitting.size)
    images = len(dataset.examples)

    def one(number: int) -> list[np.ndarray]:
        view, row = divmod(number, images)
        pixels = _example_pixels(dataset.examples[row], fitting, view, seed=row)
        found: list[np.ndarray] = session.run(None, {"pixels": pixels[None]})
        return found

    # A picture at a time in each thread: the maps of a batch would not fit a processor's cache, which takes twice the time.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(done, total, BLOCK):
            found = list(pool.map(one, range(start, min(start + BLOCK, total))))
            maps, logits = (np.concatenate(part) for part in zip(*found, strict=True))
            yield start, maps.astype(np.float16), top_classes(torch.from_numpy(logits), tags).numpy().astype(np.int16)


def _example_pixels(example: Example, fitting: Fitting, view: int, seed: int) -> Pixels:
    return view_pixels(open_image(example.source.read(), name=example.id), fitting, view, seed)


class _Trunk(nn.Module):
    def __init__(self, network: GridNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.network.maps(pixels)
        return maps, self.network.class_logits(maps)


def _trunk_session(network: GridNetwork, size: int) -> onnxruntime.InferenceSession:
    """The trunk and the tags in ONNX Runtime, whose depthwise convolutions are many times faster than PyTorch's."""
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    graph = to_onnx(_Trunk(network), {"pixels": example}, ["maps", "logits"], {"pixels": {0: "batch"}})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options)


def cache_name(dataset: Dataset, network: GridNetwork, fitting: Fitting, tags: int) -> str:
    """One name for each content: which examples, read by which weights."""
    digest = hashlib.sha256(repr((fitting.size, tags, MIN_CROP, *_unusual(fitting))).encode())
    for example in dataset.examples:
        digest.update(repr((example.id, example.source)).encode("utf-8", "surrogateescape"))
        if isinstance(example.source, FileOnDisk):  # its path stays the same when another picture is put there
            digest.update(repr(_stamp(example.source.path)).encode())
    for name, weight in network.state_dict().items():
        if not name.startswith("region_tails"):
            # Averaging turns -0.0 into 0.0, which computes the same features.
            digest.update((weight.numpy() + 0).tobytes())
    return digest.hexdigest()[:16]


def _unusual(fitting: Fitting) -> tuple[str, ...]:
    """What is told of a way of fitting pictures that was not there when the first caches were made."""
    return () if fitting == Fitting(fitting.size) else (fitting.fit, fitting.resampling, *(["exact"] if fitting.exact else []))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error.strerror}; put it back or read the data anew") from None
    return stat.st_size, stat.st_mtime_ns


def _no_room(cache: Path, needed: int, views: int, reason: str = "") -> DataError:
    room = f"{readable_bytes(_free(cache))} are free{reason and f' ({reason})'}"
    fewer = f", or train with fewer views than {views}" if views > 1 else ""
    return DataError(
        f"the image features need {readable_bytes(needed)} more in {cache}, where {room}; make room, or give a folder on "
        f"another disk by --cache{fewer}"
    )


def _free(folder: Path) -> int:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def _bytes(dtype: type[np.generic], shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def _allocated(path: Path) -> int:
    """How many bytes of a file are on the disk, not counting its holes."""
    return path.stat().st_blocks * 512 if path.exists() else 0


def _allocate(path: Path, size: int) -> None:
    """Make the file at least that long, without holes where the system can tell that to the disk."""
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif file.tell() < size:  # macOS: a disk that others fill meanwhile still ends the process
            file.truncate(size)


def _replace(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; make room on its disk and go on") from None


def readable_bytes(count: int) -> str:
    """A number of bytes as people read it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size / 10:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
