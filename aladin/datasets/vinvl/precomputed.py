"""Precomputed features in the files of SCAN and VSE++: `coco_precomp`, `f30k_precomp` and their like.

A folder holds for each part (train, dev, test, testall) the captions and what was computed of their images:

- `{part}_ims.npy`: images x regions x numbers (SCAN: 36 x 2,048), or images x numbers (VSE++: 4,096), one region an image;
- `{part}_caps.txt`: one caption a line, five an image, in the order of the images;
- `{part}_ids.txt`: the images' ids, one a line; it may be missing.

Some files hold every image five times, once a caption; then every fifth row counts. There are no boxes and no objects' names.
An image's id is its part and what stands in `{part}_ids.txt`, or without it the image's number from 0: test/391895.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.vinvl.detections import BARE_SIZE, Detections, Objects
from aladin.datasets.vinvl.problems import Problem
from aladin.datasets.vinvl.sources import DetectionFolder, DetectionSource
from aladin.errors import DataError
from aladin.progress import SILENT, Progress

PARTS = {"train": "train", "dev": "val", "val": "val", "test": "test", "testall": "test"}  # with their splits
IMAGES, CAPTIONS, IDS = "_ims.npy", "_caps.txt", "_ids.txt"
EACH = 5  # captions of an image
LOOKS = 8  # at so many places it is looked whether rows stand five times
BLOCK = 64  # rows read at once to check them


@dataclass(frozen=True, slots=True)
class PrecomputedRow(DetectionSource):
    """One image of a part."""

    image: str
    array: Path
    number: int  # of its row, from 0

    @property
    def file(self) -> Path:
        return self.array

    def read(self) -> bytes:
        return self._row(None).tobytes()

    def detections(self, numbers: int | None = None, most: int | None = None) -> Detections:
        regions = self._row(most)
        if numbers not in (None, regions.shape[1]):
            raise DataError(
                f"{self} has {regions.shape[1]:,} numbers a region and no boxes; expected {numbers:,}: train a model with "
                f"region_features = {regions.shape[1]} and region_geometry = 0"
            )
        if not np.isfinite(regions).all():
            raise DataError(f"{self} has numbers that are not finite; run the detector on the image again")
        return Detections(self.image, regions, Objects((), *BARE_SIZE))

    def __str__(self) -> str:
        return f"{self.array}, row {self.number + 1} (image {self.image})"

    def _row(self, most: int | None) -> Float32[np.ndarray, "regions numbers"]:
        try:
            array = open_array(self.array)
            row = array[self.number]
        except (BadRow, IndexError) as error:
            raise DataError(f"{self.array} was changed since the data set was read ({error}); read it anew") from None
        return np.atleast_2d(row)[:most].astype(np.float32)


@dataclass(frozen=True)
class Part:
    """One part of a folder: its images and their captions in the same order."""

    folder: Path
    name: str
    rows: tuple[PrecomputedRow, ...]
    captions: tuple[bytes, ...]  # lines as they stand there, without line ends
    each: int  # captions of an image

    @property
    def captions_path(self) -> Path:
        return self.folder / f"{self.name}{CAPTIONS}"

    @classmethod
    def open(cls, folder: Path, name: str) -> "Part":
        """The part of that name; DataError where its files do not fit together."""
        try:
            return opened_part(folder, name)
        except BadFile as bad:
            raise DataError(f"{bad.path}: {bad.row}") from None


@dataclass(frozen=True)
class PrecomputedFolder(DetectionFolder):
    """The images of all parts; where an id is in one part alone, it may be left out which."""

    path: Path
    rows: Mapping[str, PrecomputedRow]  # by their whole ids

    @classmethod
    def open(cls, path: Path) -> "PrecomputedFolder":
        """All parts at `path`, a folder or a file of one part."""
        folder = path if path.is_dir() else path.parent
        rows = (row for part in parts_of(path) for row in Part.open(folder, part).rows)
        return cls(path, {row.image: row for row in rows})

    def images(self) -> list[str]:
        return list(self.rows)

    def of_id(self, image: str) -> PrecomputedRow | None:
        found = [self.rows[name] for part in ("", *PARTS) if (name := f"{part}/{image}".lstrip("/")) in self.rows]
        if len(found) > 1 and found[0].image != image:
            raise DataError(f"{self.path} has an image {image} in several parts, such as {found[0].image}; name the part too")
        return found[0] if found else None


class BadFile(Exception):
    """What is wrong with a file of a part."""

    def __init__(self, path: Path, row: BadRow) -> None:
        super().__init__(str(row))
        self.path, self.row = path, row


def parts_of(path: Path) -> list[str]:
    """The parts that a folder of precomputed features holds, or the one that a file of it belongs to; none elsewhere."""
    if path.is_dir():
        return [part for part in PARTS if (path / f"{part}{IMAGES}").is_file()]
    for ending in (IMAGES, CAPTIONS, IDS):
        part = path.name.removesuffix(ending)
        if part in PARTS and part != path.name and (path.parent / f"{part}{IMAGES}").is_file():
            return [part]
    return []


def opened_part(folder: Path, name: str) -> Part:
    """As `Part.open`, but BadFile where the files do not fit together."""
    path, texts = folder / f"{name}{IMAGES}", folder / f"{name}{CAPTIONS}"
    captions = _lines(texts)
    with _within(path):
        rows = open_array(path)
        count = len(captions)
        step = _repetition(rows) if len(rows) == count and count and count % EACH == 0 else 1
    images = len(rows) // step
    if not images or count % images or count // images not in (1, EACH):
        found = f"{len(rows):,} rows for {count:,} captions in {texts.name}"
        expected = f"an image for every {EACH} captions, or each image {EACH} times"
        raise BadFile(path, BadRow("wrong size", found, "copy both files again", expected))
    ids = _ids(folder / f"{name}{IDS}", images, len(rows))
    sources = (PrecomputedRow(f"{name}/{image}", path, row * step) for row, image in enumerate(ids))
    return Part(folder, name, tuple(sources), tuple(captions), count // images)


def open_array(path: Path) -> np.ndarray:
    """The features of a part, memory-mapped; BadRow unless they are a matrix for each image, or a vector, of numbers."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is cut off, or something else"
        raise BadRow(
            "wrong size", f"no whole .npy of numbers ({reason})", "copy the file again", "what numpy.save writes"
        ) from None
    if array.ndim not in (2, 3) or array.dtype.kind != "f" or 0 in array.shape[1:]:
        found = f"an array of {' x '.join(map(str, array.shape))} {array.dtype}"
        expected = "images x regions x numbers, or images x numbers, of floats"
        raise BadRow("wrong type", found, "save it so", expected)
    return array


def precomputed_problems(path: Path, progress: Progress = SILENT) -> Iterator[Problem]:
    """What is wrong with a folder of precomputed features, part by part; `progress` counts rows."""
    folder = path if path.is_dir() else path.parent
    opened = {part: _array_length(folder / f"{part}{IMAGES}") for part in parts_of(path)}
    done, total = 0, sum(opened.values())
    for name, length in opened.items():
        try:
            part = opened_part(folder, name)
        except BadFile as bad:
            yield Problem.of(bad.row, bad.path.name, None, None)
            continue
        for number, line in enumerate(part.captions, start=1):
            if reason := _bad_caption(line):
                image = part.rows[(number - 1) // part.each].image
                yield Problem.of(reason, part.captions_path.name, number, image)
        yield from _not_finite(part)
        done += length
        progress(done, total)


def _not_finite(part: Part) -> Iterator[Problem]:
    array = open_array(part.rows[0].array)
    for start in range(0, len(part.rows), BLOCK):
        some = part.rows[start : start + BLOCK]
        rows = array[[row.number for row in some]]
        for row, bad in zip(some, ~np.isfinite(rows).reshape(len(some), -1).all(axis=1), strict=True):
            if bad:
                found, remedy = "a number that is not finite", "run the detector on the image again"
                yield Problem(row.array.name, row.number + 1, row.image, "not a number", found, "finite numbers", remedy)


def _bad_caption(line: bytes) -> BadRow | None:
    try:
        return (
            None if line.decode("utf-8").strip() else BadRow("blank caption", "a blank line", "write the caption", "a caption")
        )
    except UnicodeDecodeError as error:
        return BadRow("not UTF-8", f"byte {error.start + 1} that is not UTF-8", "save it as UTF-8", "text")


def _array_length(path: Path) -> int:
    try:
        return len(open_array(path))
    except BadRow:
        return 0


@contextmanager
def _within(path: Path) -> Iterator[None]:
    try:
        yield
    except BadRow as bad:
        raise BadFile(path, bad) from None


def _lines(path: Path) -> list[bytes]:
    """The lines of a text without their ends; nothing behind the last line end is no line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"it cannot be read ({error.strerror})"
        raise BadFile(path, BadRow("missing file", found, "copy it again", "one caption a line")) from None
    return [line.removesuffix(b"\r") for line in (lines if lines[-1] else lines[:-1])]


def _repetition(array: np.ndarray) -> int:
    """How many equal rows stand side by side in an array with a row a caption: five or one."""
    groups = np.unique(np.linspace(0, len(array) // EACH - 1, LOOKS).astype(int))
    equal = {len({row.tobytes() for row in array[EACH * group : EACH * (group + 1)]}) == 1 for group in groups.tolist()}
    if len(equal) > 1:
        found, expected = "rows that stand five times and others that do not", "each image once, or each five times"
        raise BadRow("wrong size", found, "write it again", expected)
    return EACH if equal == {True} else 1


def _ids(path: Path, images: int, rows: int) -> list[str]:
    if not path.is_file():
        return [str(row) for row in range(images)]
    try:
        ids = [line.decode("utf-8").strip() for line in _lines(path)]
    except UnicodeDecodeError:
        raise BadFile(path, BadRow("not UTF-8", "ids that are not UTF-8", "delete it, it is not needed", "text")) from None
    if len(ids) in (rows, EACH * images):
        ids = ids[:: len(ids) // images]
    if len(ids) != images:
        found, expected = f"{len(ids):,} ids", f"one for each of {images:,} images, or of their captions"
        raise BadFile(path, BadRow("wrong size", found, "delete it, it is not needed", expected))
    if repeated := next((image for image, count in Counter(ids).items() if count > 1), None):
        bad = BadRow("duplicate image", f"the id {repeated!r} of two images", "delete it, it is not needed", "each id once")
        raise BadFile(path, bad)
    return ids
