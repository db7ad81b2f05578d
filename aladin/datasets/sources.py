"""Where an image's bytes are: a file on disk, or a stretch of a zip or tar.

A source holds no open file, so it may be pickled, forked and read by many threads at once; reading it is one open and one seek,
however many members the archive has.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from aladin.datasets.vinvl import Detections, DetectionSource, is_feature_folder, open_features, read_npz
from aladin.errors import ConfigError, DataError

ZIP_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, ..., length of the name, length of the extra field


@runtime_checkable
class ImageSource(Protocol):
    """Where an image's bytes are; `read` raises DataError when they are not there any more."""

    def read(self) -> bytes: ...


@dataclass(frozen=True)
class ImageSources:
    """Where a dataset's images are looked for, and how: by path from there, None if there is no such image."""

    path: Path
    find: Callable[[str], ImageSource | None]


@dataclass(frozen=True, slots=True)
class FileOnDisk:
    """An image in a file of its own."""

    path: Path

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"image {self.path} cannot be read: {error.strerror}; put it back or read the data anew") from None


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member of a zip, stored or deflated."""

    path: Path
    member: str
    offset: int  # of the member's header
    stored_size: int
    size: int
    crc: int
    deflated: bool

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                signature, name_length, extra_length = ZIP_HEADER.unpack(file.read(ZIP_HEADER.size))
                file.seek(name_length + extra_length, 1)
                content = file.read(self.stored_size)
            if self.deflated:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, max(self.size, 1))
        except OSError as error:
            raise DataError(f"{self._label} cannot be read: {error.strerror}; put {self.path} back") from None
        except (struct.error, zlib.error):
            raise self._damaged() from None
        if signature != b"PK\x03\x04" or len(content) != self.size or zlib.crc32(content) != self.crc:
            raise self._damaged()
        return content

    @property
    def _label(self) -> str:
        return f"image {self.member!r} in {self.path}"

    def _damaged(self) -> DataError:
        return DataError(f"{self._label} is damaged or was changed since the dataset was read; restore the zip or read it anew")


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member of an uncompressed tar."""

    path: Path
    member: str
    offset: int  # of the member's content
    size: int

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"{self.member!r} in {self.path} cannot be read: {error.strerror}; put {self.path} back") from None
        if len(content) != self.size:
            raise DataError(f"{self.path} ends within {self.member!r}; restore the tar or read the dataset anew")
        return content


@dataclass(frozen=True, slots=True)
class TarDetections(DetectionSource):
    """A detector's regions in an .npz of a tar."""

    image: str
    member: TarMember

    @property
    def file(self) -> Path:
        return self.member.path

    def read(self) -> bytes:
        return self.member.read()

    def detections(self, numbers: int | None = None, most: int | None = None) -> Detections:
        label = f"{self.member.member!r} in {self.member.path}"
        found = read_npz(io.BytesIO(self.read()), label, self.image)
        (count, each), finite = found.boxes.shape, bool(np.isfinite(found.boxes).all())
        if not count or not finite or numbers not in (None, each):
            what = f"{count} boxes of {each:,} numbers, {'all' if finite else 'not all'} finite"
            raise DataError(
                f"{label} has {what}; expected at least one of {numbers or each:,} finite numbers: run the model's detector on "
                "the image"
            )
        return Detections(self.image, found.boxes[:most], found.objects)


def byte_count(source: ImageSource) -> int:
    """The size of an image's bytes, without reading them; 0 for a detector's regions, which do not tell."""
    match source:
        case FileOnDisk():
            try:
                return source.path.stat().st_size
            except OSError as error:
                raise DataError(
                    f"image {source.path} cannot be read: {error.strerror}; put it back or read the data anew"
                ) from None
        case ZipMember() | TarMember():
            return source.size
        case TarDetections():
            return source.member.size
        case _:
            return 0


def image_sources(path: Path) -> ImageSources:
    """A folder or a zip of images, or a folder of a detector's features."""
    if is_feature_folder(path):
        return ImageSources(path, open_features(path).find)
    if path.is_dir():
        return ImageSources(path, lambda name: FileOnDisk(path / name) if (path / name).is_file() else None)
    if path.suffix.lower() == ".zip" and path.is_file():
        with open_zip(path) as archive:
            return ImageSources(path, zip_members(archive).get)
    raise ConfigError(f"there is no folder or zip of images {path}; give the one that the dataset's image paths start from")


def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip at `path`; DataError if it is none."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is not a readable zip ({error}); copy or pack it again") from None


def zip_members(archive: zipfile.ZipFile, folder: str = "") -> Mapping[str, ImageSource]:
    """Every file below `folder` ("" or ending in "/") of the zip, by its name from there."""
    path = Path(str(archive.filename))
    members: dict[str, ImageSource] = {}
    for info in archive.infolist():
        if info.is_dir() or not info.filename.startswith(folder):
            continue
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{info.filename!r} in {path} is encrypted or not deflated; pack the zip again")
        members[info.filename.removeprefix(folder)] = ZipMember(
            path,
            info.filename,
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            info.compress_type == zipfile.ZIP_DEFLATED,
        )
    return members
