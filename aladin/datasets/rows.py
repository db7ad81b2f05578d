"""The one way from rows of data to examples: every row is checked, and a bad one ends the reading or is counted."""

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aladin.datasets.bad_rows import BadRow, BadRows
from aladin.datasets.examples import Dataset, Example
from aladin.datasets.sources import ImageSource, ImageSources
from aladin.datasets.vinvl import DetectionSource
from aladin.errors import DataError

SPLITS: Mapping[str, str] = {"train": "train", "restval": "train", "val": "val", "test": "test", "": ""}


class Gathering:
    """Rows added one by one, on their way to a dataset. Of rows outside the wanted split only image and split are checked."""

    def __init__(self, images: ImageSources, split: str | None, skip_bad: bool) -> None:
        self._images = images
        self._split = split
        self._bad = BadRows(skip_bad)
        self._splits: dict[str, str] = {}  # of every image, in whatever split
        self._sources: dict[str, ImageSource] = {}
        self._names: dict[str, str] = {}  # of images, by the rows of features that they meet
        self._captions: dict[str, list[str]] = {}  # with white space around them
        self._row = ""  # the position of the row that is being read
        self._positions: dict[str, str] = {}

    @contextmanager
    def row(self, position: str) -> Iterator[None]:
        """Within it a BadRow becomes a DataError that begins with `position`, or, if bad rows are skipped, a count."""
        self._row = position
        with self._bad.at(position):
            yield

    def add_image(self, name: Any, captions: Any, split: Any) -> None:
        """An image with all its captions; the same again is ignored, the same with other captions is bad."""
        image = image_name(name)
        if not self._wanted(image, split):
            return
        texts = _caption_list(image, captions)
        if _trimmed(self._captions.get(image, texts)) != _trimmed(texts):
            raise BadRow("image is repeated", f"image {image!r} came before with other captions", "keep one of the two")
        self._locate(image)
        self._captions.setdefault(image, texts)

    def add_pair(self, name: Any, caption: Any, split: Any) -> None:
        """One more caption of an image, which may be new."""
        image = image_name(name)
        if not self._wanted(image, split):
            return
        text = caption_as_written(image, caption)
        self._locate(image)
        self._captions.setdefault(image, []).append(text)

    def dataset(self, path: Path) -> Dataset:
        """What was gathered; DataError if that is nothing."""
        if not self._captions:
            raise DataError(f"{path}{self._why_empty()}")
        return Dataset(tuple(map(self._example, self._captions)), dict(self._bad.counts))

    def _example(self, image: str) -> Example:
        written = tuple(self._captions[image])
        captions = tuple(_trimmed(written))
        untrimmed = written if written != captions else ()
        return Example(image, captions, self._splits[image], self._sources[image], self._positions[image], untrimmed)

    def _wanted(self, image: str, value: Any) -> bool:
        split = _split_name(image, value)
        before = self._splits.setdefault(image, split)
        if before != split:
            raise BadRow("image in two splits", f"image {image!r} is in split {split!r}, before in {before!r}", "keep one")
        return self._split is None or split == self._split

    def _locate(self, image: str) -> None:
        if image not in self._sources:
            source = self._images.find(image)
            if source is None:
                raise BadRow("image is missing", f"image {image!r} is not in {self._images.path}", "add it, correct --images")
            if isinstance(source, DetectionSource) and self._names.setdefault(source.image, image) != image:
                raise BadRow(
                    "one row for two images",
                    f"images {self._names[source.image]!r} and {image!r} both meet row {source.image!r} of {self._images.path}",
                    "name each image as its row is, or with the row's number at the end",
                )
            self._sources[image], self._positions[image] = source, self._row

    def _why_empty(self) -> str:
        sizes = Counter(self._splits.values())
        if self._split is not None and sizes and self._split not in sizes:
            if set(sizes) == {""}:
                return f" has no splits, so none called {self._split!r}; read it without --split"
            known = ", ".join(f"{split or 'none'} ({count})" for split, count in sorted(sizes.items()))
            return f" has no split {self._split!r}; its images are in {known}"
        if self._bad.counts:
            counts = ", ".join(f"{reason} ({count})" for reason, count in sorted(self._bad.counts.items()))
            return f" has no row that can be used; skipped were {counts}: read it without --skip-bad to see where"
        return " holds no images with captions; add some or give another path"


def image_name(value: Any) -> str:
    """The image's path in plain form ("./a.jpg" is "a.jpg"), which never leaves the folder of the images."""
    name = expect(value, str, "the image's path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    # Backslashes and drives count on every system, so that a dataset is as safe on Windows.
    if name.startswith(("/", "\\")) or name[1:2] == ":" or ".." in name.replace("\\", "/").split("/"):
        raise BadRow("path leaves the folder", f"image path {name!r} leads out of the folder", "make it relative to it")
    if not name.strip() or not parts:
        raise BadRow("missing key", f"the image's path is {name!r}", "name a file")
    return "/".join(parts)


def caption_as_written(image: str, value: Any) -> str:
    """The caption with the white space around it, once it is sure to hold more than that."""
    if value is None:
        raise BadRow("no captions", f"image {image!r} has no captions", "add at least one")
    text: str = expect(value, str, f"a caption of image {image!r}")
    if not text.strip():
        raise BadRow("blank caption", f"image {image!r} has a blank caption", "write it or remove it,")
    return text


def first_of(record: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first of `keys` that the record has."""
    for key in keys:
        if key in record:
            return record[key]
    raise BadRow("missing key", f"there is no {' or '.join(map(repr, keys))}", "add it")


def expect(value: Any, kind: type, label: str) -> Any:
    """`value`, once it is sure to be of `kind`: str, list or dict."""
    if isinstance(value, kind):
        return value
    shown = repr(value)
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    raise BadRow("wrong type", f"{label} is {shown if len(shown) < 60 else shown[:57] + '...'}", f"make it {names[kind]}")


def json_object(data: bytes) -> dict[str, Any]:
    """One JSON object from its bytes."""
    try:
        value = json.loads(utf8(data.removeprefix(codecs.BOM_UTF8)))
    except (ValueError, RecursionError) as error:
        raise BadRow("not JSON", f"this is not JSON ({error})", "correct it") from None
    found: dict[str, Any] = expect(value, dict, "this")
    return found


def utf8(data: bytes) -> str:
    """Text from its bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"byte {error.start + 1} is not UTF-8", "save it as UTF-8") from None


def _caption_list(image: str, value: Any) -> list[str]:
    if value is None or value == []:
        raise BadRow("no captions", f"image {image!r} has no captions", "add at least one")
    captions = expect(value, list, f"'captions' of image {image!r}")
    return [caption_as_written(image, caption) for caption in captions]


def _trimmed(captions: Iterable[str]) -> list[str]:
    return [caption.strip() for caption in captions]


def _split_name(image: str, value: Any) -> str:
    split = "" if value is None else value
    if not isinstance(split, str) or split not in SPLITS:
        raise BadRow("unknown split", f"image {image!r} is in split {split!r}", "write train, restval, val, test or nothing,")
    return SPLITS[split]
