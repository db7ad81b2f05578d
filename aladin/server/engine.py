"""What a process searches with."""

import os
from pathlib import Path

from aladin.collection.store import ImageRow
from aladin.encoder.encoder import Encoder
from aladin.search.search import Searcher
from aladin.server.browsing import BrowsedCollection
from aladin.server.ids import OpaqueIds
from aladin.server.problems import NoCollection, no_image


class Engine:
    """One collection's file, open and ready to be searched, and what clients call its images."""

    def __init__(self, place: Path, encoder: Encoder, identity: tuple[int, int]) -> None:
        self.collection = BrowsedCollection.open(place)
        self.encoder = encoder
        self.searcher = Searcher(self.collection, encoder)
        self.ids = OpaqueIds(place)
        self.identity = identity  # of the file: device and inode

    def row(self, opaque: str) -> ImageRow:
        """The image with that id; Problem 404 when there is none."""
        return named_row(self.collection, self.ids, opaque)

    def encoded(self, opaque: list[str]) -> list[int]:
        """The numbers of images that have tokens; Problem 404 for the first that has none."""
        rows = [self.row(name) for name in opaque]
        for name, row in zip(opaque, rows, strict=True):
            if row.status not in ("ok", "offline"):
                raise no_image(name)
        return [row.id for row in rows]


class CurrentEngine:
    """The engine for the collection's file that lies in its place now."""

    def __init__(self, place: Path, model: Path) -> None:
        self._place = place
        self.encoder = Encoder.load(model)
        self._engine: Engine | None = None

    def get(self) -> Engine:
        """NoCollection before the first index."""
        try:
            stat = os.stat(self._place)  # noqa: PTH116, its errors are wanted
        except OSError:
            raise NoCollection from None
        identity = (stat.st_dev, stat.st_ino)
        if self._engine is None or self._engine.identity != identity:
            self.close()
            self._engine = Engine(self._place, self.encoder, identity)
        return self._engine

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.collection.close()


def named_row(collection: BrowsedCollection, ids: OpaqueIds, opaque: str) -> ImageRow:
    """The image of the collection with that id; Problem 404 when there is none."""
    number = ids.number(opaque)
    if number is None:
        raise no_image(opaque)
    try:
        row = collection.image(number)
    except KeyError:
        raise no_image(opaque) from None
    if row.status == "removed":
        raise no_image(opaque)
    return row
