"""Stage 1: the images whose vectors are nearest to a query's, of all that can be found.

Up to 50,000 images every vector is compared, so the result is exact. Beyond that FAISS compares codes of one bit a dimension
(RaBitQ) in a quarter of 256 cells, and the best five times as many as asked for are compared exactly, by the vectors that the
collection holds at that moment. So an image that is gone or has changed is never a wrong hit; a code that is wrong may cost a
right one. Images that are new get their code before the next search.

The codes are a cache: a file in the folder that carries the collection's name and ".cache", named by the generation that it was
made at, replaced by renaming, and made anew when it is missing, damaged, another collection's or too old.
"""

import importlib
import json
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float16, Float32, Int64

from aladin.collection.cache import cache_folder, keep
from aladin.collection.store import Nearest
from aladin.progress import SILENT, Progress

EXACT_ROWS = 50_000  # images up to which all are compared
CELLS = 256  # of the vectors' space; each is scanned whole
PROBES = 64  # cells that are scanned: many, because queries are texts and lie apart from the images
CANDIDATES = 5  # times as many as asked for are compared exactly
TRAINING_ROWS = 25_600  # vectors that the cells are found on
MAX_GROWTH = 2.0  # times as many images as the cells were found on: they are found again; so many codes for one image too
SAVED_SHARE = 0.01  # of the images: so many new codes are worth a new file
CHECKED_ROWS = 32  # whose vectors tell whether the codes are this collection's
NOBODY = -1  # the id of a row that is out of use
FORMAT = 1  # of the file

Ids = Int64[np.ndarray, " rows"]


class VectorSource(ABC):
    """What a collection tells of its vectors."""

    @property
    @abstractmethod
    def path(self) -> Path: ...
    @property
    @abstractmethod
    def generation(self) -> int: ...
    @property
    @abstractmethod
    def fingerprint(self) -> str | None: ...
    @abstractmethod
    def __len__(self) -> int: ...
    @abstractmethod
    def vector_blocks(self) -> Iterator[tuple[Ids, Float16[np.ndarray, "rows dim"]]]: ...
    @abstractmethod
    def findable_vectors(self, asked: Ids) -> tuple[Ids, Float16[np.ndarray, "rows dim"]]: ...
    @abstractmethod
    def stored_vectors(self, asked: Ids) -> tuple[Ids, Float16[np.ndarray, "rows dim"]]: ...
    @abstractmethod
    def ids_changed_since(self, generation: int) -> Ids: ...
    @abstractmethod
    def ids_meeting(self, condition: None) -> Ids: ...


class _Vectors(Protocol):
    """All vectors of a collection, in some form."""

    def best(self, vector: Float32[np.ndarray, " dim"], count: int, allowed: Ids | None) -> Nearest: ...


class NearestImages:
    """The vectors of a collection, ready to be compared; follows its changes. Use it within a snapshot of the collection."""

    def __init__(self, collection: VectorSource, progress: Progress = SILENT) -> None:
        """`progress` counts the vectors read when codes are built."""
        self._collection = collection
        self._progress = progress
        self._generation: int | None = None
        self._vectors: _Vectors = _ExactVectors(np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32))

    def find(
        self,
        vector: Float32[np.ndarray, " dim"],
        count: int,
        allowed: Ids | None = None,
        excluded: frozenset[int] = frozenset(),
    ) -> Nearest:
        """The `count` nearest images; of `allowed` ones (ids, rising) when that is given, and never an excluded one."""
        self.refresh()
        # An excluded image may be among the nearest, so as many more are looked for.
        wanted = count + len(excluded)
        if allowed is not None and len(allowed) <= EXACT_ROWS:
            found = _best(*_compared(self._collection, allowed, vector), wanted)
        else:
            found = self._vectors.best(vector, wanted, allowed)
        if not excluded:
            return found
        without = np.array(sorted(excluded), dtype=np.int64)
        kept = ~np.isin(found.ids, without)
        compared, _ = self._collection.findable_vectors(without if allowed is None else np.intersect1d(without, allowed))
        return Nearest(found.ids[kept][:count], found.scores[kept][:count], found.searched - len(compared))

    def refresh(self) -> None:
        """Catch up with the collection, if it has changed since the last look."""
        generation = self._collection.generation
        if generation == self._generation:
            return
        rows = len(self._collection)
        if rows <= EXACT_ROWS:
            self._vectors = _ExactVectors.load(self._collection)
        else:
            codes = self._vectors if isinstance(self._vectors, _Codes) else _Codes.load(self._collection)
            if codes is None or not codes.catch_up(rows):
                codes = _Codes.build(self._collection, rows, self._progress)
            self._vectors = codes
        self._generation = generation


@dataclass(frozen=True)
class _ExactVectors:
    """Every vector in memory."""

    ids: Ids  # rising
    vectors: Float32[np.ndarray, "rows _"]

    @classmethod
    def load(cls, collection: VectorSource) -> "_ExactVectors":
        ids, vectors = [np.empty(0, dtype=np.int64)], []
        for some, block in collection.vector_blocks():
            ids.append(some)
            vectors.append(block.astype(np.float32))
        return cls(np.concatenate(ids), np.concatenate(vectors) if vectors else np.empty((0, 0), dtype=np.float32))

    def best(self, vector: Float32[np.ndarray, " dim"], count: int, allowed: Ids | None) -> Nearest:
        assert allowed is None, "a condition that so few images meet is answered without this"
        return _best(self.ids, _scores(self.vectors, vector), count)


class _Codes:
    """The vectors of a large collection as codes."""

    def __init__(self, collection: VectorSource, index: Any, ids: Ids, generation: int, trained_on: int) -> None:
        self._collection = collection
        self._index = index  # row r of it is the image ids[r]
        self._ids = ids
        self._current = ids != NOBODY  # False for a row whose image has another row now, or none
        self._generation = generation
        self._trained_on = trained_on  # images that there were when the cells were found
        self._saved = 0  # rows that have been written
        self._findable = len(ids)

    @classmethod
    def load(cls, collection: VectorSource) -> "_Codes | None":
        """The newest file of codes that fits the collection; None when there is none."""
        for path in sorted(cache_folder(collection.path).glob("nearest-*.npz"), key=_generation_of, reverse=True):
            try:
                with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                    header = json.loads(file["header"].tobytes())
                    if _fits(header, collection):
                        index = _faiss().deserialize_index(file["codes"])
                        codes = cls(collection, index, file["ids"], header["generation"], header["trained_on"])
                        codes._saved = len(codes._ids)
                        return codes
            except (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error):
                continue  # damaged; FAISS raises RuntimeError
        return None

    @classmethod
    def build(cls, collection: VectorSource, rows: int, progress: Progress) -> "_Codes":
        """Codes of all images that can be found, kept in a file where one can be written."""
        faiss = _faiss()
        ids = collection.ids_meeting(None)
        sample = ids[np.linspace(0, rows - 1, min(rows, TRAINING_ROWS)).astype(np.int64)]
        _, training = collection.findable_vectors(sample)
        index = faiss.index_factory(training.shape[1], f"IVF{CELLS},RaBitQfs", faiss.METRIC_INNER_PRODUCT)
        index.train(training.astype(np.float32))
        for _, vectors in collection.vector_blocks():
            index.add(vectors.astype(np.float32))
            progress(index.ntotal, rows)
        codes = cls(collection, index, ids, collection.generation, rows)
        codes._save()
        return codes

    def catch_up(self, rows: int) -> bool:
        """Codes for what has come or changed since; False when so much has that all should be made anew."""
        generation = self._collection.generation
        changed = self._collection.ids_changed_since(self._generation)
        new, vectors = self._collection.findable_vectors(changed)
        if max(rows, len(self._ids) + len(new)) > MAX_GROWTH * min(rows, self._trained_on):
            return False
        if len(changed):
            self._current &= ~np.isin(self._ids, changed)
        if len(new):
            self._index.add(vectors.astype(np.float32))
            self._ids = np.concatenate([self._ids, new])
            self._current = np.concatenate([self._current, np.ones(len(new), dtype=bool)])
        self._generation, self._findable = generation, rows
        if len(self._ids) - self._saved > SAVED_SHARE * rows:
            self._save()
        return True

    def best(self, vector: Float32[np.ndarray, " dim"], count: int, allowed: Ids | None) -> Nearest:
        usable = self._current if allowed is None else self._current & np.isin(self._ids, allowed)
        searched = self._findable if allowed is None else len(allowed)
        wanted = CANDIDATES * count
        while True:
            # What has lost its place among the findable since the last look has changed, and is not usable; what was forgotten
            # has no vector.
            ids, vectors = self._collection.stored_vectors(self._candidates(vector, wanted, usable))
            scores = _scores(vectors.astype(np.float32), vector)
            # Images that are gone leave gaps; how many is not known before.
            if len(ids) >= min(CANDIDATES * count // 2, searched) or wanted >= len(self._ids):
                found = _best(ids, scores, count)
                return Nearest(found.ids, found.scores, searched)
            wanted *= CANDIDATES

    def _candidates(self, vector: Float32[np.ndarray, " dim"], count: int, usable: Any) -> Ids:
        faiss = _faiss()
        selector = None if usable.all() else faiss.IDSelectorBitmap(np.packbits(usable, bitorder="little"))
        probes = PROBES if count < len(self._ids) else CELLS
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        with _one_thread(faiss):
            _, rows = self._index.search(vector[None], min(count, len(self._ids)), params=parameters)
        found: Ids = self._ids[rows[0][rows[0] >= 0]]
        return np.unique(found)

    def _save(self) -> None:
        """Into a file that takes the place of older ones; nothing where none can be written."""
        self._saved = len(self._ids)  # or tried to
        folder = cache_folder(self._collection.path)
        present = self._ids[self._current]
        header = {
            "format": FORMAT,
            "generation": self._generation,
            "fingerprint": self._collection.fingerprint,
            "trained_on": self._trained_on,
            "checked": _checksums(self._collection, np.sort(present[:: max(len(present) // CHECKED_ROWS, 1)])),
        }
        name = f"nearest-{self._generation}.npz"

        def write(draft: Path) -> None:
            arrays = {"ids": np.where(self._current, self._ids, NOBODY), "codes": _faiss().serialize_index(self._index)}
            with draft.open("wb") as file:
                np.savez(file, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)

        keep(folder / name, write, instead_of=(other for other in folder.glob("nearest-*") if other.name != name))


def _faiss() -> Any:
    """FAISS, loaded when it is first needed: that takes a third of a second, and few collections are large. Its type stubs lack
    what its own classes take.
    """
    return importlib.import_module("faiss")


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """Within it FAISS works in the calling thread: a search takes a millisecond, and waking others on a busy machine ten."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _fits(header: dict[str, Any], collection: VectorSource) -> bool:
    """Whether codes with this header were made of this collection, at its present state or an earlier one."""
    if header["format"] != FORMAT or header["fingerprint"] != collection.fingerprint:
        return False
    if header["generation"] > collection.generation:
        return False
    changed = set(collection.ids_changed_since(header["generation"]).tolist())
    expected = {int(image_id): checksum for image_id, checksum in header["checked"].items() if int(image_id) not in changed}
    present = _checksums(collection, np.array(sorted(expected), dtype=np.int64))
    return all(expected[int(image_id)] == checksum for image_id, checksum in present.items())


def _checksums(collection: VectorSource, ids: Ids) -> dict[str, int]:
    found, vectors = collection.findable_vectors(ids)
    return {str(image_id): zlib.crc32(vector.tobytes()) for image_id, vector in zip(found.tolist(), vectors, strict=True)}


def _generation_of(path: Path) -> int:
    number = path.name.removeprefix("nearest-").removesuffix(".npz")
    return int(number) if number.isdigit() else -1


def _compared(
    collection: VectorSource, ids: Int64[np.ndarray, " asked"], vector: Float32[np.ndarray, " dim"]
) -> tuple[Ids, Float32[np.ndarray, " rows"]]:
    """Those of the images with these ids that can be found, and their matching scores."""
    found, vectors = collection.findable_vectors(ids)
    return found, _scores(vectors.astype(np.float32), vector)


def _scores(vectors: Float32[np.ndarray, "rows _"], vector: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, " rows"]:
    if not len(vectors):  # of no images, whose dimensions nobody knows
        return np.empty(0, dtype=np.float32)
    # Not a matrix product: there, what a row scores in the last digit depends on where in the block it stands.
    scores: Float32[np.ndarray, " rows"] = np.einsum("rd,d->r", vectors, vector)
    return scores


def _best(ids: Ids, scores: Float32[np.ndarray, " rows"], count: int) -> Nearest:
    """The `count` best, by score and then by id."""
    searched = len(ids)
    if count < searched:
        limit = np.partition(scores, searched - count)[searched - count]
        kept = scores >= limit
        ids, scores = ids[kept], scores[kept]
    order = np.lexsort((ids, -scores))[:count]
    return Nearest(ids[order], scores[order], searched)
