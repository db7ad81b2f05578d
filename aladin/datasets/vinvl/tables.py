"""Tab-separated files whose rows are found by their offset."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from aladin.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file. It holds no open file, so it may be sent to other processes."""

    path: Path
    number: int  # from 0
    offset: int  # of its first byte

    def __str__(self) -> str:
        return f"{self.path}, line {self.number + 1}"

    def read(self) -> bytes:
        """The row without its end of line; DataError when none starts at the offset."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, self.offset - 1))
                before = file.read(1) if self.offset else b"\n"
                row = file.readline()
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}; put it back or check the disk") from None
        if before != b"\n" or not row:
            raise self.no_row()
        return row.rstrip(b"\r\n")

    def columns(self) -> list[bytes]:
        """The row's fields without white space around them."""
        return columns_of(self.read())

    def no_row(self) -> DataError:
        """The error that there is no row at the offset."""
        index = self.path.with_suffix(".lineidx")
        return DataError(f"{self}: no row starts at byte {self.offset}, as {index} says; delete {index}, it is not needed")


@dataclass(frozen=True)
class Table:
    """A file of rows and where each of them starts."""

    path: Path
    offsets: Int64[np.ndarray, " rows"]

    @classmethod
    def open(cls, path: Path) -> "Table":
        """The rows as the .lineidx beside the file says, or, without one, as they are found by reading the whole file."""
        index = path.with_suffix(".lineidx")
        return cls(path, read_offsets(index) if index.is_file() else found_offsets(path))

    def __len__(self) -> int:
        return len(self.offsets)

    def row(self, number: int) -> Row:
        return Row(self.path, number, int(self.offsets[number]))

    def images(self) -> list[str]:
        """The first column of every row."""
        if not len(self):
            return []
        try:
            with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return [self._image(content, number) for number in range(len(self))]
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise DataError(f"{self.path} cannot be read: {error}; copy it again") from None

    def _image(self, content: mmap.mmap, number: int) -> str:
        row = self.row(number)
        if row.offset >= len(content) or (row.offset and content[row.offset - 1] != ord("\n")):
            raise row.no_row()
        end = content.find(b"\t", row.offset)
        if end < 0:
            raise DataError(f"{row} has one column; expected an image id, a tab and more; write the row again")
        return content[row.offset : end].decode("utf-8", "replace").strip()


def columns_of(row: bytes) -> list[bytes]:
    """The fields of a row without white space around them."""
    return [column.strip() for column in row.split(b"\t")]


def read_offsets(path: Path) -> Int64[np.ndarray, " rows"]:
    """The offsets that a .lineidx states."""
    try:
        return np.array(path.read_bytes().split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise DataError(f"{path} holds something else than one decimal offset a line; delete it, it is not needed") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the disk and its permissions") from None


def found_offsets(path: Path) -> Int64[np.ndarray, " rows"]:
    """Where each line of the file starts."""
    offsets, offset = [], 0
    try:
        with path.open("rb") as file:
            for line in file:
                offsets.append(offset)
                offset += len(line)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; give a folder with features.tsv and predictions.tsv") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the disk and its permissions") from None
    return np.array(offsets, dtype=np.int64)


def read_keys(path: Path) -> list[str]:
    """The image ids of a file such as test_img_keys.tsv, one a line, in its order; DataError if one stands there twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of image ids ({error}); give a file with one id a line") from None
    keys = [line.split("\t")[0].strip() for line in lines if line.strip()]
    if len(set(keys)) < len(keys):
        repeated = next(key for number, key in enumerate(keys) if key in keys[:number])
        raise DataError(f"{path} names image {repeated} twice; remove one of the two")
    if not keys:
        raise DataError(f"{path} names no image; give a file with one image id a line")
    return keys
