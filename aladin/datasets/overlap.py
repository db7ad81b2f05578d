"""Images that two data sets have in common: a model must not be judged by what it learned from."""

import functools
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path, PurePosixPath

from aladin.datasets.examples import Dataset, Example
from aladin.datasets.sources import FileOnDisk, TarMember, ZipMember, byte_count
from aladin.errors import DataError


def check_apart(training: Dataset, validation: Dataset) -> None:
    """DataError if an image is in both data sets."""
    shared = shared_images(training, validation)
    if shared:
        raise DataError(
            f"{len(shared):,} of the {len(validation):,} validation images are training images too, such as {shared[0].id!r}, "
            "and a model would be judged by what it learned by heart; choose other data, or splits of it by --train-split and "
            "--val-split"
        )


def shared_images(one: Dataset, other: Dataset) -> list[Example]:
    """Those of `other` that are in `one`, in their order.

    An image is the same if its bytes are in the same place, or are equal and either both in zips, whose checksums are known, or
    under the same file name. Nothing is read but files of the same name and size, so a copy under another name, in a
    folder or a tar, is not found; paths alone say nothing, since every data set may have its 1.jpg.
    """
    sources = {_where(example) for example in one.examples}
    contents = {checksum for example in one.examples if (checksum := _checksum(example))}
    names = {_name(example) for example in other.examples}
    named: dict[Hashable, list[Example]] = defaultdict(list)
    for example in one.examples:
        if _name(example) in names:  # so that few files are asked for their size
            named[_name(example), byte_count(example.source)].append(example)

    def known(example: Example) -> bool:
        if _where(example) in sources or _checksum(example) in contents:
            return True
        alike = named.get((_name(example), byte_count(example.source)), ())
        return any(example.source.read() == same.source.read() for same in alike)

    return [example for example in other.examples if known(example)]


def _where(example: Example) -> Hashable:
    source = example.source
    match source:
        case FileOnDisk():
            return _resolved(source.path.parent), source.path.name
        case ZipMember() | TarMember():
            return _resolved(source.path), source.member
        case _:
            return id(source)  # in memory


@functools.lru_cache(maxsize=1024)
def _resolved(path: Path) -> Path:
    """Without links, so that a folder is the same by every path to it. Each one once, since that asks the disk."""
    return path.resolve()


def _checksum(example: Example) -> tuple[int, int] | None:
    source = example.source
    return (source.size, source.crc) if isinstance(source, ZipMember) else None


def _name(example: Example) -> str:
    return PurePosixPath(example.id).name
