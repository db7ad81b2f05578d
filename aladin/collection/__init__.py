"""One SQLite file that knows every image of a folder: read, written, indexed, verified, repaired, exported."""

from aladin.collection.sqlite import Collection
from aladin.collection.store import ImageRow, default_file
from aladin.collection.writer import CollectionWriter

__all__ = ["Collection", "CollectionWriter", "ImageRow", "default_file"]
