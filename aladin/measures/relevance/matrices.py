"""Relevance as one number for each caption and image: read from a file, or computed once and kept on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from aladin.errors import DataError
from aladin.files import sha256_of, write_whole
from aladin.measures.recalls import Direction
from aladin.measures.relevance.sources import RelevanceRows, Rows
from aladin.progress import SILENT, Progress

NPY = b"\x93NUMPY"
BLOCK = 2**22  # numbers looked at at a time, 16 MB
Matrix = Float32[np.ndarray, "captions images"]


@dataclass(frozen=True)
class RelevanceMatrix:
    """Relevance between 0 and 1 of every image to every caption, and of the caption to the image."""

    matrix: Matrix

    def queries(self, direction: Direction) -> Rows:
        return np.arange(self.matrix.shape[0 if direction == "text_to_image" else 1])

    def rows(self, direction: Direction, queries: Rows, candidates: slice) -> RelevanceRows:
        # A stretch, for which fewer pages of the file are read than for single rows or columns.
        asked = slice(queries[0], queries[-1] + 1)
        if direction == "text_to_image":
            rows: RelevanceRows = np.asarray(self.matrix[asked, candidates])[queries - queries[0]]
            return rows
        return np.ascontiguousarray(self.matrix[candidates, asked][:, queries - queries[0]].T)


def computed_matrix(
    compute: Callable[[slice], RelevanceRows],
    shape: tuple[int, int],
    block: int,
    path: Path,
    progress: Progress = SILENT,
) -> Matrix:
    """The matrix at `path`, as far as it is there; `compute` gives the other rows, `block` at a time.

    Beside it `path`.done counts the rows that are on disk, so that an interrupted run goes on there.
    """
    state = path.with_suffix(".done")
    done = int(state.read_text()) if state.is_file() and path.is_file() else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = np.lib.format.open_memmap(path, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
    for start in range(done, shape[0], block):
        rows = slice(start, min(start + block, shape[0]))
        matrix[rows] = compute(rows)
        matrix.flush()
        write_whole(state, str(rows.stop))
        progress(rows.stop, shape[0])
    return matrix


def read_matrix(path: Path, shape: tuple[int, int]) -> tuple[Matrix, str]:
    """A relevance matrix of (captions, images) from a file, memory-mapped, and the SHA-256 of the file.

    It is a .npy of floats, or the same numbers as bare float32, as the paper's own code keeps them (spec section 4.2).
    """
    try:
        with path.open("rb") as file:
            bare = file.read(len(NPY)) != NPY
        digest = sha256_of(path)
        matrix = _bare(path, shape) if bare else np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"there is no relevance matrix {path}; give a .npy of captions x images") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a relevance matrix: {error}; write it again with numpy.save") from None
    if matrix.shape != shape:
        raise DataError(
            f"{path} holds {' x '.join(map(str, matrix.shape))} numbers where {shape[0]} captions x {shape[1]} images were "
            "expected; compute it for these data and this protocol"
        )
    if matrix.dtype != np.float32:
        raise DataError(f"{path} holds {matrix.dtype} where float32 was expected; convert it with .astype('float32')")
    _check_values(path, matrix)
    return matrix, digest


def _bare(path: Path, shape: tuple[int, int]) -> Matrix:
    size = path.stat().st_size
    if size != 4 * shape[0] * shape[1]:
        raise DataError(
            f"{path} is no .npy and has {size} bytes where bare float32 for {shape[0]} captions x {shape[1]} images would have "
            f"{4 * shape[0] * shape[1]}; compute it for these data and this protocol"
        )
    return np.memmap(path, dtype=np.float32, mode="r", shape=shape)


def _check_values(path: Path, matrix: Matrix) -> None:
    some, size = False, max(1, BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), size):
        values = np.asarray(matrix[start : start + size])
        broken = ~((values >= 0) & (values <= 1 + 1e-6))
        if broken.any():
            row, column = np.argwhere(broken)[0]
            raise DataError(
                f"{path} holds {values[row, column]} for caption {start + row} and image {column} where 0 to 1 was "
                "expected; finish the computation that wrote it"
            )
        some = some or bool(values.any())
    if not some:
        raise DataError(f"{path} holds nothing but zeros; the computation that made the file has not run, so run it")
