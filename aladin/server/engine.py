"""What a process searches with."""

import os
from pathlib import Path

from aladin.collection.opening import open_store
from aladin.collection.store import ImageRow, Store
from aladin.encoder.encoder import Encoder
from aladin.search.search import Searcher
from aladin.server.ids import PublicIds
from aladin.server.problems import NoCollection, no_image


class Engine:
    """One collection's file, open and ready to be searched, and what clients call its images."""

    def __init__(self, file: Path, encoder: Encoder, identity: tuple[int, int]) -> None:
        self.collection = open_store(file)
        self.encoder = encoder
        self.searcher = Searcher(self.collection, encoder)
        self.ids = PublicIds(file)
        self.identity = identity  # of the file: device and inode

    def row(self, public_id: str) -> ImageRow:
        """The image with that id; Problem 404 when there is none."""
        return named_row(self.collection, self.ids, public_id)

    def encoded(self, public_ids: list[str]) -> list[int]:
        """The stored ids of images that have tokens; Problem 404 for the first that has none."""
        rows = [self.row(name) for name in public_ids]
        for name, row in zip(public_ids, rows, strict=True):
            if row.status not in ("ok", "offline"):
                raise no_image(name)
        return [row.id for row in rows]


class CurrentEngine:
    """The engine for the collection's file that is there now."""

    def __init__(self, file: Path, model: Path) -> None:
        self._file = file
        self.encoder = Encoder.load(model)
        self._engine: Engine | None = None

    def get(self) -> Engine:
        """NoCollection before the first index."""
        try:
            stat = os.stat(self._file)  # noqa: PTH116, its errors are wanted
        except OSError:
            raise NoCollection from None
        identity = (stat.st_dev, stat.st_ino)
        if self._engine is None or self._engine.identity != identity:
            self.close()
            self._engine = Engine(self._file, self.encoder, identity)
        return self._engine

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.collection.close()


def named_row(collection: Store, ids: PublicIds, public_id: str) -> ImageRow:
    """The image of the collection with that id; Problem 404 when there is none."""
    image_id = ids.stored(public_id)
    if image_id is None:
        raise no_image(public_id)
    try:
        row = collection.row(image_id)
    except KeyError:
        raise no_image(public_id) from None
    if row.status == "removed":
        raise no_image(public_id)
    return row
