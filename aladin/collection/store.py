"""What searching and serving ask of a collection: the values, and what every store of them can do.

`sqlite.Collection` is the one store that there is. Another is a module of its own, and a line in `opening`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float16, Float32, Int64

from aladin.collection.conditions import Condition
from aladin.collection.tokens import QuantizedTokens
from aladin.encoder.folder import ModelFolder
from aladin.progress import SILENT, Progress

Opened = TypeVar("Opened", bound="Store")
# failed: cannot be read; offline: the file is gone; pending: known, but not encoded by the present model; removed: not wanted
Status = Literal["ok", "failed", "offline", "pending", "removed"]


@dataclass(frozen=True)
class ImageRow:
    """What the collection knows of one image file; `reason` says why a failed one could not be read."""

    id: int
    path: str  # of the file, from the root, with '/'; bytes that are not UTF-8 as surrogates (os.fsencode gives them back)
    size: int  # bytes
    mtime_ns: int
    sha256: bytes | None
    width: int | None  # px, upright
    height: int | None
    taken: str | None  # local time of the camera, as 2026-05-01T12:30:00
    metadata: dict[str, Any]
    status: Status
    reason: str | None
    generation: int
    frame: int = 0  # which of the file's pictures, where it holds several and more than the first were asked for


Position = tuple[str, int]  # the date and the id of an image
Order = Literal["newest first", "oldest first"]


@dataclass(frozen=True)
class Nearest:
    """Images by falling matching score, ties by id, and how many were compared."""

    ids: Int64[np.ndarray, " hits"]
    scores: Float32[np.ndarray, " hits"]
    searched: int


@dataclass(frozen=True)
class Span:
    """Images of the days from the first to the last, written as 2026-05-01, without an end where that is None."""

    first: str | None = None
    last: str | None = None


@dataclass(frozen=True)
class Page:
    """Some images, and the position of the last, after which the next ones begin; None at the end."""

    rows: tuple[ImageRow, ...]
    next: Position | None


@dataclass(frozen=True)
class Facets:
    """What a person can filter by."""

    folders: tuple[tuple[str, int], ...]  # of the images directly in it, by name; '' is the collection's own
    first_date: str | None  # as 2026-05-01
    last_date: str | None


def default_file(folder: Path) -> Path:
    """Where the collection of a folder is kept unless the user says otherwise."""
    return folder / ".aladin" / "collection.sqlite"


class Store(ABC):
    """Images, their vectors and tokens, for reading. Only images that can be found are found, sampled and leafed through."""

    @property
    @abstractmethod
    def path(self) -> Path:
        """Of its file, or of what stands for it; what can be computed again is kept beside it."""

    @property
    @abstractmethod
    def root(self) -> Path:
        """The folder whose images these are."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """A number that grows with every change."""

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """The fingerprint of the model whose vectors these are; None before the first image."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images can be found."""

    @abstractmethod
    def check_model(self, model: ModelFolder) -> None:
        """IndexMismatch unless the vectors are those of `model`."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[None]:
        """Within it every read sees the same state."""

    @abstractmethod
    def nearest(
        self,
        vector: Float32[np.ndarray, " dim"],
        count: int,
        condition: Condition | None = None,
        excluded: frozenset[int] = frozenset(),
        progress: Progress = SILENT,
    ) -> Nearest:
        """The `count` nearest images that meet the condition, none of them excluded, within a snapshot."""

    @abstractmethod
    def row(self, image_id: int) -> ImageRow:
        """The image with that id; KeyError when there is none."""

    @abstractmethod
    def row_at(self, path: str, frame: int = 0) -> ImageRow | None:
        """The image at a path relative to the root, if there is one."""

    @abstractmethod
    def rows(self, ids: Sequence[int]) -> list[ImageRow]:
        """The images with these ids, in the order asked."""

    @abstractmethod
    def images(self, status: Status | None = None) -> Iterator[ImageRow]:
        """All images, or those of one status, by id."""

    @abstractmethod
    def tokens(self, ids: Sequence[int]) -> QuantizedTokens:
        """The region tokens of the images with these ids, in the order asked."""

    @abstractmethod
    def vectors_of(self, ids: Sequence[int]) -> Float16[np.ndarray, "rows dim"]:
        """The vectors of the images with these ids, in the order asked."""

    @abstractmethod
    def findable_vectors(
        self, ids: Int64[np.ndarray, " asked"]
    ) -> tuple[Int64[np.ndarray, " rows"], Float16[np.ndarray, "rows dim"]]:
        """Those of the images with these ids that can be found, by id, and their vectors."""

    @abstractmethod
    def sample(self, count: int) -> Int64[np.ndarray, " sampled"]:
        """The ids, rising, of at most so many images, evenly spread over all."""

    @abstractmethod
    def page(
        self,
        after: Position | None,
        count: int,
        span: Span = Span(),
        condition: Condition | None = None,
        order: Order = "newest first",
    ) -> Page:
        """The next `count` images by date. Of equal dates the lower id is newer."""

    @abstractmethod
    def facets(self) -> Facets:
        """The folders and days that there are."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How many images there are of each status that occurs."""

    @abstractmethod
    def failure_counts(self) -> dict[str, int]:
        """How many files could not be read, by reason, the most frequent first."""

    @abstractmethod
    def has_folder(self, path: str) -> bool:
        """Whether some image, of any state, lies below the folder at a path relative to the root; "." is the root."""

    @abstractmethod
    def check_root(self, folder: Path) -> None:
        """DataError unless these are the images of `folder`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
