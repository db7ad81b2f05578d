"""Collections out of and into files that other tools read: clip-retrieval's layout, and COCO's captions JSON.

clip-retrieval's layout is img_emb/img_emb_0.npy and, row by row beside it, metadata/metadata_0.parquet, in numbered parts. With
them stand the region tokens and aladin.json, which names the model, so that an export is also a backup: imported for the same
folder, nothing is encoded again. Vectors of another model are of no use here, so from such files only paths and captions
come in, and the images are encoded when the folder is indexed next.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from aladin.collection.formats import file_and_frame, stored_path
from aladin.collection.sqlite import Collection
from aladin.collection.store import ImageRow
from aladin.collection.writer import CollectionWriter
from aladin.datasets.coco import coco_records, content_of, json_document
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError, IndexMismatch
from aladin.files import check_replaceable, write_whole
from aladin.pictures.listing import FileState

PART_ROWS = 100_000
BLOCK_ROWS = 1000
FORMAT = 1
COCO_DESCRIPTION = "images of "  # and their folder; by it a file of ours is known
OWN_COLUMNS = {"size": int, "mtime_ns": int, "sha256": bytes, "width": int, "height": int, "taken": str, "status": str}


@dataclass(frozen=True)
class Imported:
    """What an import brought in."""

    encoded: int  # rows with vector and tokens
    described: int  # rows with metadata alone: images new to the collection are read when the folder is indexed next
    outside: int  # rows of files that are not below the folder
    unknown: int = 0  # captions of images that the file does not list


def export_clip_retrieval(collection: Collection, out: Path, with_tokens: bool = True) -> int:
    """All images that have a vector, offline ones too, to the new folder `out`; how many. DataError when something is there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already; give the name of a new folder")
    unfinished = out.with_name(out.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with collection.snapshot():
            count = _export_parts(collection, unfinished, with_tokens)
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; make room or name another place") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def export_coco(collection: Collection, out: Path) -> int:
    """All images that can be found, with their captions, as COCO's captions JSON; how many."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in collection.images("ok"):
        image = {"id": row.id, "file_name": row.path, "width": row.width, "height": row.height}
        image |= {"frame": row.frame} if row.frame else {}
        images.append(image | ({"date_captured": row.taken} if row.taken else {}))
        for caption in _captions_of(row):
            annotations.append({"id": len(annotations) + 1, "image_id": row.id, "caption": caption})
    content = {"info": {"description": f"{COCO_DESCRIPTION}{collection.root}"}, "images": images, "annotations": annotations}
    check_replaceable(out, json.dumps({"info": {"description": COCO_DESCRIPTION}})[:-3].encode())
    try:
        write_whole(out, json.dumps(content))
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; make room or name another place") from None
    return len(images)


def import_clip_retrieval(collection: CollectionWriter, source: Path, model: ModelFolder) -> Imported:
    """Rows of an export, ours or clip-retrieval's, for the files that are below the collection's folder. A row that is there
    already is overwritten and keeps its id. IndexMismatch when the export is ours but of another model.
    """
    parts = sorted((source / "metadata").glob("metadata_*.parquet"))
    if not parts:
        raise DataError(f"{source} has no metadata/metadata_0.parquet; expected an export in clip-retrieval's layout")
    own = _check_own(source, model)
    collection.use_model(model)
    encoded = described = outside = 0
    for part in parts:
        arrays = _arrays(source, part.stem.rpartition("_")[2]) if own else None
        for start, rows in _row_blocks(part):
            with collection.transaction():
                for position, row in enumerate(rows, start):
                    path = _path_below(collection.root, row)
                    if path is None:
                        outside += 1
                    elif arrays is None:
                        collection.describe(path, _metadata(row))
                        described += 1
                    else:
                        facts = _facts(row)
                        file = FileState(path, facts["size"], facts["mtime_ns"], _frame(row))
                        collection.put_encoded(file, facts, *(array[position] for array in arrays))
                        encoded += 1
    return Imported(encoded, described, outside)


def import_coco(collection: CollectionWriter, source: Path) -> Imported:
    """Captions of a COCO captions JSON to the metadata of the images with these file names.

    Captions of images that it does not list are left out and counted. DataError where it is of another kind.
    """
    content = json_document(source, content_of(source))
    images = coco_records(source, content, "images", id=(int, str), file_name=(str,))
    names = {image["id"]: image["file_name"] for image in images}
    captions: dict[str, list[str]] = {name: [] for name in names.values()}
    unknown = 0
    for annotation in coco_records(source, {"annotations": []} | content, "annotations", image_id=(int, str), caption=(str,)):
        if annotation["image_id"] not in names:
            unknown += 1
        elif annotation["caption"] not in (texts := captions[names[annotation["image_id"]]]):
            texts.append(annotation["caption"])  # once, though several pictures of one file have its captions
    described = outside = 0
    with collection.transaction():
        for name, texts in captions.items():
            path = _path_below(collection.root, {"image_path": name})
            outside += path is None
            if path is not None:
                collection.describe(path, {"captions": texts} if texts else {})
                described += 1
    return Imported(0, described, outside, unknown)


def _export_parts(collection: Collection, out: Path, with_tokens: bool) -> int:
    for name in ("img_emb", "metadata", *(("tokens",) if with_tokens else ())):
        (out / name).mkdir(parents=True)
    ids = collection.encoded_ids()
    for part, start in enumerate(range(0, len(ids), PART_ROWS)):
        _export_part(collection, ids[start : start + PART_ROWS], out, part, with_tokens)
    about = {"format": FORMAT, "model_name": collection.model_name, "model_parts": collection.model_parts}
    (out / "aladin.json").write_text(json.dumps(about, indent=2), encoding="ascii")
    return len(ids)


def _export_part(collection: Collection, ids: list[int], out: Path, part: int, with_tokens: bool) -> None:
    table = None
    with ExitStack() as stack:
        vectors, values, scales = (
            stack.enter_context(_Array(out / name.format(part), len(ids)))
            for name in ("img_emb/img_emb_{}.npy", "tokens/tokens_{}.npy", "tokens/scales_{}.npy")
        )
        for start in range(0, len(ids), BLOCK_ROWS):
            block = ids[start : start + BLOCK_ROWS]
            vectors.append(collection.vectors_of(block))
            if with_tokens:
                tokens = collection.tokens(block)
                values.append(tokens.values)
                scales.append(tokens.scales)
            columns = _columns(collection.root, collection.rows(block))
            if table is None:
                path = out / "metadata" / f"metadata_{part}.parquet"
                table = stack.enter_context(_parquet().ParquetWriter(path, columns.schema))
            table.write_table(columns)


class _Array:
    """An .npy file of a known number of rows, written a block at a time; no file without a block."""

    def __init__(self, path: Path, rows: int) -> None:
        self._path, self._rows = path, rows
        self._file: BinaryIO | None = None

    def append(self, block: np.ndarray) -> None:
        if self._file is None:
            self._file = self._path.open("wb")
            header = np.lib.format.header_data_from_array_1_0(block)
            np.lib.format.write_array_header_1_0(self._file, header | {"shape": (self._rows, *block.shape[1:])})
        self._file.write(np.ascontiguousarray(block).tobytes())

    def __enter__(self) -> "_Array":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()


def _columns(root: Path, rows: list[ImageRow]) -> Any:
    import pyarrow

    kinds = {int: pyarrow.int64(), bytes: pyarrow.binary(), str: pyarrow.string()}
    table: dict[str, Any] = {
        "image_path": pyarrow.array([os.fsencode(root / row.path).decode("utf-8", "replace") for row in rows]),
        "path": pyarrow.array([stored_path(row.path, row.frame) for row in rows], pyarrow.binary()),
        "caption": pyarrow.array([next(iter(_captions_of(row)), None) for row in rows], pyarrow.string()),
        "metadata": pyarrow.array([json.dumps(row.metadata) for row in rows], pyarrow.string()),
    }
    for name, kind in OWN_COLUMNS.items():
        table[name] = pyarrow.array([getattr(row, name) for row in rows], kinds[kind])
    return pyarrow.table(table)


def _captions_of(row: ImageRow) -> list[str]:
    """The captions that a row's metadata holds, from wherever they came."""
    found = row.metadata.get("captions") or row.metadata.get("caption") or row.metadata.get("description") or []
    return [str(text) for text in found] if isinstance(found, list) else [str(found)]


def _check_own(source: Path, model: ModelFolder) -> bool:
    """Whether vectors and tokens can be taken as they are: False where they come from another program, or tokens lack."""
    path = source / "aladin.json"
    if not path.is_file():
        return False
    try:
        about = json.loads(path.read_bytes())
        parts, name = about["model_parts"], about["model_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path} cannot be read; export again, or delete it to import paths and captions alone") from None
    if parts != model.parts:
        raise IndexMismatch(
            f"{source} was exported with model {name}, this is {model.name}; give the first with --model, or delete {path} "
            "to import paths and captions alone"
        )
    return (source / "tokens").is_dir()


def _arrays(source: Path, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors, token values and their scales of one part, mapped rather than read; DataError when one is not as expected."""
    names = (f"img_emb/img_emb_{part}.npy", f"tokens/tokens_{part}.npy", f"tokens/scales_{part}.npy")
    try:
        vectors, values, scales = (np.load(source / name, mmap_mode="r", allow_pickle=False) for name in names)
    except (OSError, ValueError) as error:
        raise DataError(f"{source}, part {part} cannot be read ({error}); export the collection again") from None
    kinds = (vectors.dtype, values.dtype, scales.dtype) == (np.float16, np.int8, np.float32)
    if not kinds or (vectors.ndim, values.ndim, scales.ndim) != (2, 3, 2) or not len(vectors) == len(values) == len(scales):
        raise DataError(f"{source}, part {part} has arrays of another kind; export the collection again")
    return vectors, values, scales


def _row_blocks(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The rows of a Parquet file in blocks, each with the number of its first row."""
    parquet = _parquet()
    import pyarrow

    try:
        with parquet.ParquetFile(path) as file:
            start = 0
            for batch in file.iter_batches(BLOCK_ROWS):
                yield start, batch.to_pylist()
                start += len(batch)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); export the collection again") from None


def _path_below(root: Path, row: dict[str, Any]) -> str | None:
    """The row's path relative to the root; None when it lies elsewhere."""
    stored = row.get("path")
    path = file_and_frame(stored)[0] if isinstance(stored, bytes) else row.get("image_path")
    if not isinstance(path, str) or not path or "\0" in path:
        return None
    relative = os.path.normpath(os.path.relpath(path, root) if Path(path).is_absolute() else path)
    return None if relative == "." or relative.split("/")[0] == ".." else relative


def _frame(row: dict[str, Any]) -> int:
    return file_and_frame(row["path"])[1] if isinstance(row.get("path"), bytes) else 0


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    missing = [name for name in (*OWN_COLUMNS, "metadata") if name not in row]
    if missing or any(not isinstance(row[name], kind | None) for name, kind in OWN_COLUMNS.items()):
        raise DataError("a row of the export has other columns than expected; export the collection again")
    return {name: row[name] for name in (*OWN_COLUMNS, "metadata")}


def _metadata(row: dict[str, Any]) -> dict[str, Any]:
    """What a row of clip-retrieval says of its image besides the path: words and numbers."""
    return {name: value for name, value in row.items() if name != "image_path" and isinstance(value, str | int | float)}


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise DataError("Parquet files need the package pyarrow; run pip install 'aladin[parquet]'") from None
    return pyarrow.parquet
