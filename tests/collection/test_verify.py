"""Damage is noticed, wherever it is."""

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from aladin.collection.indexing import index_folder
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError, IndexMismatch
from tests.conftest import fill, paint, stored
from tests.flipping import flip, flips, said
from tests.tiny_model import COLOURS

NO_COLLECTIONS = {"text": b"no database " * 999, "empty": b"", "noise": os.urandom(9999)}


@pytest.fixture
def model(model_path: Path) -> ModelFolder:
    return ModelFolder.open(model_path)


@pytest.fixture
def place(photos: Path, encoder: Encoder) -> Path:
    """A collection of pictures, one of them gone, one unreadable, one removed."""
    for number in range(60):
        paint(photos / "more" / f"{number}.png", *list(COLOURS)[: 1 + number % 5], seed=100 + number)
    (photos / "empty.jpg").touch()
    place = default_file(photos)
    bring_up_to_date(photos, encoder)
    (photos / "pink.png").unlink()
    bring_up_to_date(photos, encoder)
    with CollectionWriter.create(place, photos) as writer, writer.transaction():
        writer.remove(writer.ids_below("more/7.png"))
    return place


def bring_up_to_date(photos: Path, encoder: Encoder) -> None:
    with CollectionWriter.create(default_file(photos), photos) as writer:
        index_folder(writer, encoder)


def contents(place: Path) -> dict[str, tuple[object, ...]]:
    with Collection.open(place) as collection:
        return stored(collection)


def found_ones(rows: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """Of what `contents` gives, the images that can be found."""
    return {path: row for path, row in rows.items() if row[5] == "ok"}


def change(place: Path, *statements: str) -> None:
    """Change the file behind the back of the collection."""
    connection = sqlite3.connect(place)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_sound_collection_is_whole_and_reading_it_changes_nothing(place: Path) -> None:
    before = place.read_bytes()
    found = verify(place)
    assert (found.whole, found.rows, found.bytes) == (True, len(COLOURS) + 61, len(before))
    assert place.read_bytes() == before


# R9: any bit.


@pytest.mark.slow
def test_every_flipped_bit_that_means_anything_is_noticed(place: Path, tmp_path: Path) -> None:
    original, copy, truth = place.read_bytes(), tmp_path / "copy.sqlite", said(place)
    for position, bit in flips(1000, len(original), seed=0):
        copy.write_bytes(flip(original, position, bit))
        if verify(copy).whole:
            assert said(copy) == truth, f"bit {bit} of byte {position} went unnoticed"


@pytest.mark.slow
def test_every_flipped_bit_of_a_stored_value_is_noticed(place: Path, tmp_path: Path) -> None:
    """The same where nothing is unused: the bytes of all vectors, tokens, paths and checksums themselves."""
    original, copy = place.read_bytes(), tmp_path / "copy.sqlite"
    connection = sqlite3.connect(place)
    blobs = [blob for (blob,) in connection.execute("SELECT vector FROM vectors UNION ALL SELECT tokens FROM tokens")]
    blobs += [path for (path,) in connection.execute("SELECT path FROM images")]
    connection.close()
    random = np.random.default_rng(1)
    for number in random.permutation(len(blobs))[:100]:
        start = original.find(blobs[number])
        position = start + int(random.integers(len(blobs[number])))
        copy.write_bytes(flip(original, position, int(random.integers(8))))
        assert not verify(copy).whole


def test_changed_settings_are_noticed(place: Path) -> None:
    change(place, "UPDATE meta SET value = 77777 WHERE key = 'generation'")
    assert verify(place).structure == ("the settings or the tables' definitions are not as they were written",)


def test_a_lost_next_id_is_noticed(place: Path) -> None:
    change(place, "UPDATE sqlite_sequence SET seq = 3")
    assert not verify(place).whole


def test_a_collection_without_rows_is_whole(tmp_path: Path, model: ModelFolder) -> None:
    CollectionWriter.create(default_file(tmp_path), tmp_path).close()
    assert verify(default_file(tmp_path)).whole


def test_verifying_beside_a_writer_sees_a_committed_state(tmp_path: Path, model: ModelFolder) -> None:
    place = default_file(tmp_path)
    with CollectionWriter.create(place, tmp_path) as writer:
        fill(writer, model, 5)
        with writer.transaction():
            writer.database.execute("DELETE FROM tokens WHERE id = 2")
            assert verify(place).whole


def test_something_else_is_not_verified(tmp_path: Path) -> None:
    for name, content in NO_COLLECTIONS.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            verify(tmp_path / name)


def test_a_newer_format_is_no_damage(place: Path, photos: Path) -> None:
    with CollectionWriter.create(place, photos) as writer, writer.transaction():
        writer.database.set("schema_version", 99)
    with pytest.raises(IndexMismatch, match="has format 99"):
        verify(place)
