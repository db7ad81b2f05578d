"""Arrays in a file of the safetensors format, written and read by numpy alone: any stretch of one, without the others.

The package `safetensors` reads such files too. It comes with PyTorch's half, which data sets do without.

Files are read, not mapped: where a network disk fails, or somebody cuts the file short, a mapping ends the process.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from aladin.errors import DataError
from aladin.files import replacing

DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # bytes, as in the format
DIGEST = "sha256"  # of everything after the header, among the file's own words
PARTIAL = ".partial"
BLOCK = 1 << 22  # bytes read at once to compute it

Parts = Sequence[np.ndarray]  # of one array, which are joined along the first axis


@dataclass(frozen=True)
class Stored:
    """One array of a file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # of its first byte in the file

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclass(frozen=True)
class TensorFile:
    """What the beginning of a file says of the rest."""

    path: Path
    arrays: Mapping[str, Stored]
    words: Mapping[str, str]  # what its writer said of it
    data_start: int
    size: int  # of the file

    @classmethod
    def open(cls, path: Path) -> "TensorFile":
        """The file at `path`; DataError unless it is of the format and whole."""
        try:
            with path.open("rb") as file:
                return cls.of(path, file)
        except OSError as error:
            raise unreadable(path, error) from None

    @classmethod
    def of(cls, path: Path, file: BufferedReader) -> "TensorFile":
        """The same of an open file."""
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, LONGEST_HEADER):
            raise DataError(f"{path} is no safetensors file, or only the beginning of one; {_AGAIN}")
        data_start = 8 + length
        try:
            header = json.loads(file.read(length))
            words = {str(name): str(word) for name, word in header.pop("__metadata__", {}).items()}
            arrays = {name: _stored(entry, data_start) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(f"{path} has a beginning that is damaged; {_AGAIN}") from None
        end = max([data_start, *(array.start + math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())])
        if size != end:
            raise DataError(f"{path} has {size:,} bytes where {end:,} were expected; {_AGAIN}")
        return cls(path, arrays, words, data_start, size)

    def rows(self, name: str, start: int, stop: int, file: BufferedReader) -> np.ndarray:
        """Rows `start` to `stop` - 1 of an array, from the open file."""
        array = self.arrays[name]
        found = np.empty((stop - start, *array.shape[1:]), dtype=array.dtype)
        file.seek(array.start + start * array.row_bytes)
        if found.size and file.readinto(found.data.cast("B")) != found.nbytes:
            raise DataError(f"{self.path} ends within {name}; {_AGAIN}")
        return found

    def read(self, name: str) -> np.ndarray:
        """All of an array."""
        try:
            with self.path.open("rb") as file:
                return self.rows(name, 0, self.arrays[name].shape[0], file)
        except OSError as error:
            raise unreadable(self.path, error) from None

    def is_sound(self) -> bool:
        """Whether all arrays hold what was written; reads the whole file."""
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                file.seek(self.data_start)
                while block := file.read(BLOCK):
                    digest.update(block)
        except OSError as error:
            raise unreadable(self.path, error) from None
        return digest.hexdigest() == self.words.get(DIGEST)


def write_tensors(path: Path, arrays: Mapping[str, Parts], words: Mapping[str, str]) -> None:
    """The arrays in one file, whole or not at all; `words` are said of it, beside a digest. OSError where there is no room."""
    header: dict[str, object] = {}
    digest, start = hashlib.sha256(), 0
    for name, parts in arrays.items():
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        end = start + sum(part.nbytes for part in parts)
        header[name] = {"dtype": NAMES[parts[0].dtype], "shape": shape, "data_offsets": (start, end)}
        start = end
        for part in parts:
            digest.update(np.ascontiguousarray(part).data)
    text = json.dumps({"__metadata__": {**words, DIGEST: digest.hexdigest()}, **header}).encode()
    text += b" " * (-len(text) % 8)  # so that arrays begin where a processor likes it
    # Two that write the same folder at once then do so without harm.
    own_draft = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    with replacing(path, own_draft) as draft, draft.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for parts in arrays.values():
            for part in parts:
                file.write(np.ascontiguousarray(part).data)


def unreadable(path: Path, error: OSError) -> DataError:
    """That a file cannot be read."""
    return DataError(f"{path} cannot be read: {error.strerror}; put it back or check the disk")


_AGAIN = "copy it again, or delete it and convert again"


def _stored(entry: dict[str, Any], data_start: int) -> Stored:
    dtype: np.dtype = DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if not shape or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("no shape")
    if type(start) is not int or start < 0 or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("no such stretch")
    return Stored(dtype, shape, data_start + start)
