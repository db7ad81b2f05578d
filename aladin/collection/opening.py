"""Which store a location stands for."""

from pathlib import Path

from aladin.collection.sqlite import Collection
from aladin.collection.store import Store


def open_store(location: Path) -> Store:
    """The store at a location, for reading; DataError when there is none. Every location is a file of SQLite's by now."""
    return Collection.open(location)
