"""From a path to a dataset, whatever the format."""

import io
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

from aladin.datasets.examples import Dataset
from aladin.datasets.formats import readers
from aladin.datasets.formats.lines import read_lines
from aladin.datasets.rows import SPLITS, Gathering
from aladin.datasets.scan import read_precomputed
from aladin.datasets.sources import ImageSources, image_sources, open_zip, zip_members
from aladin.datasets.vinvl.precomputed import parts_of
from aladin.datasets.webdataset import Shards
from aladin.errors import ConfigError, DataError
from aladin.files import path_of

CAPTIONS = "captions.jsonl"
Data = Dataset | str | Path  # images with captions, or where they are


def read_dataset(
    path: str | Path, split: str | None = None, images: str | Path | None = None, skip_bad: bool = False
) -> Dataset:
    """The images of `split` (all if None) with their captions, in order of first appearance. `path` is one of

    - a folder or .zip with `captions.jsonl`: {"image": path, "captions": [text, ...], "split": name} a line;
    - Karpathy's `dataset_coco.json`, `dataset_flickr30k.json` or `dataset_flickr8k.json`;
    - COCO's captions as .json, with "images" and "annotations";
    - pairs, one a row, as .csv, .tsv, .jsonl or .parquet: the image's path in a column image, file, filepath, image_path or
      filename, the caption in caption, text or title, and perhaps a split;
    - SCAN's and VSE++'s precomputed features: a folder with train_ims.npy, train_caps.txt and the like, or one of these files;
    - img2dataset's .tar, or a folder of them: the caption in .txt or in .json as "caption", or several as "captions"; the
      .json may name a "split", and an entry with a "status" other than success is passed over.

    Paths in the data start from `images`, a folder or zip, or else from where the data is; in a folder with features.tsv an
    image is a detector's regions (see vinvl), found by its id or by the id in its file's name. That an image is there is
    checked; whether it can be decoded is not. A bad row is a DataError that says where it is, or with `skip_bad` is left out
    and counted. Rows of other splits are not looked at closely, so their images need not be there.
    """
    if split is not None and split not in SPLITS.values():
        raise ConfigError(f"there is no split {split!r}; choose train, val or test")
    path, images = path_of("data", path), None if images is None else path_of("images", images)
    try:
        dataset = _read(path, split, images, skip_bad)
    except FileNotFoundError:
        raise DataError(f"there is no file or folder {path}; give {_known()}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the disk and its permissions") from None
    return replace(dataset, name=path.resolve().name, split=split or "", images=images.resolve().name if images else "")


def dataset_of(data: Data) -> Dataset:
    """The data set; if it is only named, all that `read_dataset` finds there."""
    return data if isinstance(data, Dataset) else read_dataset(data)


def _read(path: Path, split: str | None, images: Path | None, skip_bad: bool) -> Dataset:
    if not (path / CAPTIONS).is_file() and parts_of(path):
        if images:
            raise ConfigError(f"the images of {path} are features beside its captions; leave out --images")
        return read_precomputed(path, split, skip_bad)
    if path.is_dir():
        return _read_folder(path, split, images, skip_bad)
    if path.suffix.lower() == ".zip":
        return _read_zip(path, split, images, skip_bad)
    if path.suffix.lower() == ".tar":
        return _read_tars(path, [path], split, images, skip_bad)
    return _read_file(path, split, images, skip_bad)


def _read_folder(path: Path, split: str | None, images: Path | None, skip_bad: bool) -> Dataset:
    captions = path / CAPTIONS
    if captions.is_file():
        return _read_file(captions, split, images, skip_bad)
    shards = sorted(path.glob("*.tar"))
    if not shards:
        raise DataError(f"{path} has neither {CAPTIONS} nor .tar shards; give {_known()}")
    return _read_tars(path, shards, split, images, skip_bad)


def _read_zip(path: Path, split: str | None, images: Path | None, skip_bad: bool) -> Dataset:
    with open_zip(path) as archive:
        found = [name for name in archive.namelist() if PurePosixPath(name).name == CAPTIONS]
        if len(found) != 1:
            raise DataError(f"{path} has {len(found)} files {CAPTIONS} where one was expected; give {_known()}")
        members = zip_members(archive, found[0].removesuffix(CAPTIONS))
        try:
            lines = io.BytesIO(archive.read(found[0]))
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{found[0]} in {path} cannot be unpacked ({error}); pack it again") from None
    sources = image_sources(images) if images else ImageSources(path, members.get)
    gathering = Gathering(sources, split, skip_bad)
    read_lines(lines, f"{path}/{found[0]}", gathering)
    return gathering.dataset(path)


def _read_tars(root: Path, tars: list[Path], split: str | None, images: Path | None, skip_bad: bool) -> Dataset:
    if images:
        raise ConfigError(f"the images of {root} are inside it; leave out --images")
    shards = Shards(root)
    gathering = Gathering(shards.sources, split, skip_bad)
    for tar in tars:
        shards.read(tar, gathering)
    return gathering.dataset(root)


def _read_file(path: Path, split: str | None, images: Path | None, skip_bad: bool) -> Dataset:
    path.stat()  # before its folder, which is missing too if the path is wrong
    gathering = Gathering(image_sources(images or path.parent), split, skip_bad)
    read = readers().get(path.suffix.lower())
    if path.suffix.lower() == ".pt":
        raise DataError(f"{path} is a pickle; turn captions into lines with `aladin features convert {path} captions.jsonl`")
    if read is None:
        raise DataError(f"{path} is of no known format; give {_known()}")
    read(path, gathering)
    return gathering.dataset(path)


def _known() -> str:
    """The formats, for a sentence."""
    *some, last = (ending for ending in readers() if ending != ".json")
    return (
        f"a folder or .zip with {CAPTIONS}, a folder of .tar shards or of SCAN's features, a .tar, "
        f"a .json of Karpathy's or COCO's, or pairs as {', '.join(some)} or {last}"
    )
