"""Folders of precomputed features with captions, as SCAN and VSE++ have them (aladin.datasets.vinvl.precomputed)."""

from pathlib import Path

from aladin.datasets.examples import Dataset
from aladin.datasets.rows import Gathering, utf8
from aladin.datasets.sources import ImageSources
from aladin.datasets.vinvl.precomputed import PARTS, Part, parts_of
from aladin.errors import DataError


def read_precomputed(path: Path, split: str | None, skip_bad: bool) -> Dataset:
    """The images of `split` (all if None) of a folder, or of the one part that `path` is a file of.

    Parts are told by their names: dev is "val", and "test" is all of testall where that is there, since test is its beginning.
    """
    parts = _of_split(path, parts_of(path), split)
    folder = path if path.is_dir() else path.parent
    opened = [Part.open(folder, part) for part in parts]
    sources = {row.image: row for part in opened for row in part.rows}
    gathering = Gathering(ImageSources(path, sources.get), split, skip_bad)
    for part in opened:
        for number, line in enumerate(part.captions):
            with gathering.row(f"{part.captions_path}, line {number + 1}"):
                gathering.add_pair(part.rows[number // part.each].image, utf8(line), PARTS[part.name])
    return gathering.dataset(path)


def _of_split(path: Path, parts: list[str], split: str | None) -> list[str]:
    found = [part for part in parts if split in (None, PARTS[part])]
    if not found:
        held = ", ".join(parts)
        raise DataError(f"{path} has no split {split!r}; its parts are {held}, of which dev is val and testall is test")
    return [part for part in found if part != "test" or "testall" not in found]
