"""Writing a folder of shards, image by image. Who was stopped goes on after the last whole shard."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from aladin.datasets.vinvl.detections import Detections, predictions_row
from aladin.datasets.vinvl.shards import FORMAT, SHARDS, Shard
from aladin.datasets.vinvl.tensor_file import DIGEST, PARTIAL, write_tensors
from aladin.datasets.vinvl.writer import check_image
from aladin.errors import DataError
from aladin.files import write_whole

SHARD_BYTES = 256_000_000  # of boxes, at which a shard is full
HALF = np.dtype("<f2")


class ShardWriter:
    """Writes a new folder of shards, or goes on with a begun one: the context of `add`.

    Each shard gets its name when it is whole and was read again, and the folder its list, shards.json, at the end. After an
    error the whole shards stay, to go on from.
    """

    def __init__(self, folder: Path, half: bool = False, shard_bytes: int = SHARD_BYTES) -> None:
        """With `half` boxes are stored in float16. DataError if the folder is finished, or was begun otherwise."""
        if (folder / SHARDS).exists():
            raise DataError(f"{folder} has a {SHARDS} already; give another folder or delete that one")
        self.folder, self._shard_bytes = folder, shard_bytes
        self._dtype = HALF if half else np.dtype("<f4")
        self._numbers: int | None = None  # of a box
        self._pending: list[tuple[str, np.ndarray, np.ndarray]] = []  # images, their boxes and their objects
        self._pending_bytes = 0
        self._whole: list[Shard] = []
        self._seen: set[str] = set()
        while (path := self._path(len(self._whole))).exists():
            self._believe(path)

    @property
    def begun(self) -> list[str]:
        """The images that an earlier writer of the folder has added, in order; the next image is the one after them."""
        return [image for shard in self._whole for image in shard.images]

    def __enter__(self) -> "ShardWriter":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.folder} cannot be written: {error.strerror}; give another folder") from None
        return self

    def check_last(self, detections: Detections | None) -> None:
        """DataError unless the last of the images that were begun is this one: else shards would hold two detectors' boxes."""
        shard = self._whole[-1]
        with shard.content.path.open("rb") as file:
            boxes = shard.boxes(len(shard.images) - 1, None, file)
        if detections is None or detections.image != shard.images[-1] or not np.array_equal(self._stored(detections), boxes):
            raise DataError(f"{self.folder} was begun from other features; give another folder or delete that one")

    def add(self, detections: Detections) -> None:
        """One more image; its id must be new."""
        check_image(detections, self._seen, self._numbers)
        self._numbers = detections.boxes.shape[1]
        self._seen.add(detections.image)
        boxes = self._stored(detections)
        self._pending.append((detections.image, boxes, np.frombuffer(_objects(detections), dtype=np.uint8)))
        self._pending_bytes += boxes.nbytes
        if self._pending_bytes >= self._shard_bytes:
            self._write()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is not None:
            return
        if self._pending:
            self._write()
        shards = [
            {
                "file": shard.content.path.name,
                "bytes": shard.content.size,
                "boxes": int(shard.box_starts[-1]),
                DIGEST: shard.content.words[DIGEST],
                "images": shard.images,
            }
            for shard in self._whole
        ]
        listed = {"format": FORMAT, "numbers": self._numbers, "type": self._dtype.name, "shards": shards}
        try:
            write_whole(self.folder / SHARDS, json.dumps(listed))
        except OSError as failure:
            raise self._no_room(self.folder / SHARDS, failure) from None
        for draft in self.folder.glob(f"boxes-*{PARTIAL}"):  # of a writer that was killed
            draft.unlink(missing_ok=True)

    def _write(self) -> None:
        path = self._path(len(self._whole))
        images, boxes, objects = zip(*self._pending, strict=True)
        arrays = {
            "boxes": boxes,
            "box_starts": [_starts(boxes)],
            "objects": objects,
            "object_starts": [_starts(objects)],
            "ids": [np.frombuffer(json.dumps(images).encode(), dtype=np.uint8)],
        }
        try:
            write_tensors(path, arrays, {"format": FORMAT})
        except OSError as error:
            raise self._no_room(path, error) from None
        self._believe(path)
        self._pending, self._pending_bytes = [], 0

    def _believe(self, path: Path) -> None:
        """One more whole shard, once it was read; DataError if it does not hold what was written."""
        shard = Shard.open(path)
        if not shard.content.is_sound():
            raise DataError(f"{path} does not hold what was written; check the disk, delete the file and convert again")
        stored, before = shard.content.arrays["boxes"].dtype, self._numbers
        if stored != self._dtype or before not in (None, shard.numbers):
            raise DataError(
                f"{path} was begun with boxes of {shard.numbers:,} numbers in {stored}, not {before or shard.numbers:,} in "
                f"{self._dtype}; convert as before, or delete {self.folder}"
            )
        self._numbers = shard.numbers
        self._whole.append(shard)
        self._seen.update(shard.images)

    def _stored(self, detections: Detections) -> np.ndarray:
        with np.errstate(over="ignore"):
            boxes = np.ascontiguousarray(detections.boxes, dtype=self._dtype)
        if not np.isfinite(boxes).all():
            raise DataError(f"image {detections.image} has numbers that float16 cannot hold; leave out --half")
        return boxes

    def _path(self, number: int) -> Path:
        return self.folder / f"boxes-{number:05}.safetensors"

    def _no_room(self, path: Path, error: OSError) -> DataError:
        return DataError(
            f"{path} cannot be written: {error.strerror}; make room and give the same command again, which goes on there"
        )


def _objects(detections: Detections) -> bytes:
    return predictions_row(detections).split(b"\t", 1)[1].rstrip(b"\n")


def _starts(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Where each begins when they are joined, and where the last ends."""
    return np.cumsum([0, *map(len, parts)], dtype="<i8")
