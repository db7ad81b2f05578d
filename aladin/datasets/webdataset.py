"""Tars as img2dataset writes them: the files of one entry share their name up to the first dot."""

import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from aladin.datasets.bad_rows import BadRow
from aladin.datasets.rows import Gathering, json_object, utf8
from aladin.datasets.sources import ImageSource, ImageSources, TarDetections, TarMember

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
REGIONS = "npz"  # a detector's, of an entry without a photograph (vinvl/npz.py)
Entry = dict[str, TarMember]  # by extension


class Shards:
    """The images of all tars that were read so far, by their path from `root`, the folder of the tars or the only tar."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: dict[str, ImageSource] = {}

    @property
    def sources(self) -> ImageSources:
        return ImageSources(self._root, self._images.get)

    def read(self, shard: Path, gathering: Gathering) -> None:
        """Adds every entry of the tar, except those whose json has a status other than success."""
        for key, entry in _entries(shard, gathering).items():
            with gathering.row(f"{shard}, entry {key!r}"):
                record = json_object(entry["json"].read()) if "json" in entry else {}
                if record.get("status", "success") == "success":
                    self._add(shard, entry, record, gathering)

    def _add(self, shard: Path, entry: Entry, record: Mapping[str, Any], gathering: Gathering) -> None:
        image = next((entry[extension] for extension in (*IMAGE_EXTENSIONS, REGIONS) if extension in entry), None)
        if image is None:
            raise BadRow("image is missing", f"there is no image ({', '.join((*IMAGE_EXTENSIONS, REGIONS))})", "add it")
        # Shards of other tools than img2dataset may use the same names.
        name = image.member if shard == self._root else f"{shard.name}/{image.member}"
        self._images[name] = TarDetections(name, image) if image is entry.get(REGIONS) else image
        if "captions" in record:
            captions = record["captions"]
        elif "txt" in entry:
            captions = [utf8(entry["txt"].read())]
        else:
            captions = [record.get("caption")]
        gathering.add_image(name, captions, record.get("split"))


def _entries(shard: Path, gathering: Gathering) -> Mapping[str, Entry]:
    """The entries in order of their first file; those before the damage if the tar is damaged and bad rows are skipped."""
    entries: dict[str, Entry] = {}
    with gathering.row(str(shard)):
        try:
            for member in _members(shard):
                name = PurePosixPath(member.member)
                stem, _, extension = name.name.partition(".")
                # A name that begins with a dot is the system's, such as macOS's ._000000000.jpg.
                if stem and extension.lower() in (*IMAGE_EXTENSIONS, REGIONS, "txt", "json"):
                    entries.setdefault(str(name.with_name(stem)), {})[extension.lower()] = member
        except tarfile.TarError as error:
            raise BadRow("damaged tar", f"not a whole, uncompressed tar ({error})", "fetch it again, unpack .gz,") from None
    return entries


def _members(shard: Path) -> Iterable[TarMember]:
    end = shard.stat().st_size
    with tarfile.open(shard, "r:") as archive:
        for info in archive:
            if info.isreg():
                if info.offset_data + info.size > end:
                    raise tarfile.ReadError(f"it ends within {info.name}")
                yield TarMember(shard, str(PurePosixPath(info.name)), info.offset_data, info.size)
        # tarfile takes a spoilt header for the end, and all images behind it would be lost unseen.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"a header is spoilt at byte {archive.offset}")
