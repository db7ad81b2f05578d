"""Detections as one .npz an image, a form that any detector's script can write with numpy alone.

`features` (boxes x features) with `boxes` (boxes x 4: x1, y1, x2, y2 in px), `image_h` and `image_w`; or `regions`, features
and geometry together, as the model reads them. `classes` holds the names of the objects, in an order of their own; `rects`
(objects x 4) and `confidences` may say more of these. The file's path in the folder, without .npz, is the image's id.
"""

import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float32

from aladin.datasets.vinvl.detections import BARE_SIZE, Detections, Objects, with_geometry
from aladin.errors import DataError

Arrays = dict[str, np.ndarray]


def npz_files(folder: Path) -> list[Path]:
    """The .npz files of a folder and its subfolders, by path."""
    return sorted(folder.rglob("*.npz"))


def npz_detections(folder: Path) -> Iterator[Detections]:
    """What each .npz of the folder holds, in the order of their paths; DataError for one that holds something else."""
    for path in npz_files(folder):
        yield read_npz(path, str(path), path.relative_to(folder).with_suffix("").as_posix())


def read_npz(content: Path | BytesIO, path: str, image: str) -> Detections:
    """What one .npz holds of an image; DataError, which calls it `path`, where it holds something else."""
    arrays = _arrays(content, path)
    boxes = _boxes(arrays, path)
    names = tuple(map(str, arrays["classes"].tolist())) if "classes" in arrays else ()
    rects = _matrix(arrays, "rects", path) if "rects" in arrays else None
    confidences = arrays["confidences"].astype(np.float32) if "confidences" in arrays else None
    for name, array in (("rects", rects), ("confidences", confidences)):
        if array is not None and len(array) != len(names):
            raise DataError(f"{path} has {len(array)} {name} for {len(names)} classes; expected one for each")
    size = (_number(arrays, "image_h", path), _number(arrays, "image_w", path)) if "image_h" in arrays else BARE_SIZE
    return Detections(image, boxes, Objects(names, *size, rects, confidences))


def write_npz(detections: Detections, folder: Path) -> None:
    """One image's .npz in the folder, under its id."""
    parts = PurePosixPath(detections.image).parts
    if not parts or PurePosixPath(detections.image).is_absolute() or ".." in parts or "\\" in detections.image:
        raise DataError(f"image id {detections.image!r} would lead out of {folder}; give the image another id")
    objects = detections.objects
    arrays: dict[str, Any] = {"regions": detections.boxes, "classes": np.array(objects.names, dtype=np.str_)}
    arrays |= {"image_h": objects.height, "image_w": objects.width}
    if objects.rects is not None:
        arrays["rects"] = objects.rects
    if objects.confidences is not None:
        arrays["confidences"] = objects.confidences
    path = folder / f"{detections.image}.npz"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}; give another folder") from None


def _arrays(content: Path | BytesIO, path: str) -> Arrays:
    try:
        with np.load(content, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}; save plain arrays, names as an array of text") from None


def _boxes(arrays: Arrays, path: str) -> Float32[np.ndarray, "boxes numbers"]:
    if "regions" in arrays:
        return _matrix(arrays, "regions", path)
    missing = [name for name in ("features", "boxes", "image_h", "image_w") if name not in arrays]
    if missing:
        held = ", ".join(arrays) or "nothing"
        raise DataError(
            f"{path} holds {held}, but no {missing[0]}; expected features, boxes, image_h and image_w, or regions: save it so"
        )
    features, rects = _matrix(arrays, "features", path), _matrix(arrays, "boxes", path)
    if rects.shape != (len(features), 4):
        raise DataError(f"{path} has boxes of shape {rects.shape} for {len(features)} features; expected {len(features)} x 4")
    return with_geometry(features, rects, _number(arrays, "image_h", path), _number(arrays, "image_w", path))


def _matrix(arrays: Arrays, name: str, path: str) -> Float32[np.ndarray, "rows columns"]:
    array = arrays[name]
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(f"{path} has {name} of shape {array.shape} and type {array.dtype}; expected a matrix of numbers")
    return array.astype(np.float32)


def _number(arrays: Arrays, name: str, path: str) -> float:
    array = arrays.get(name, np.empty(0))
    if array.size != 1 or array.dtype.kind not in "fiu" or not 0 < float(array.item()) < np.inf:
        raise DataError(f"{path} has no {name} that is one number above 0; save the image's height and width in px")
    return float(array.item())
