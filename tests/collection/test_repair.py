"""Damage is repaired at the least cost: what checksums confirm is kept, the rest is read again."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from aladin.collection.repair import repair
from aladin.collection.salvage import Repair
from aladin.collection.sqlite import Collection
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.errors import CollectionLocked, DataError, IndexMismatch
from tests.collection.test_schema import everything, in_older_format, new
from tests.collection.test_verify import NO_COLLECTIONS, bring_up_to_date, change, contents, found_ones, model, place
from tests.conftest import fill
from tests.flipping import flip, flips
from tests.tiny_model import COLOURS

__all__ = ["model", "new", "place"]  # the fixtures
PAGE = 4096
TABLE_LEAF = 13  # how a page of a table's rows begins


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_repair_keeps_whatever_the_flipped_bit_did_not_touch(
    place: Path, photos: Path, tmp_path: Path, model: ModelFolder, encoder: Encoder, seed: int
) -> None:
    original, before = place.read_bytes(), contents(place)
    with Collection.open(place) as collection:
        ids = {row.path: row.id for row in collection.images()}
    repaired = 0
    for position, bit in flips(40, len(original), seed=seed + 10):
        for left in place.parent.glob("*"):
            left.unlink()
        place.write_bytes(flip(original, position, bit))
        if verify(place).whole:
            continue
        repaired += 1
        done = repair(place, photos, model)
        assert verify(place).whole
        assert done.lost <= 60, "no more than the rows of a page"
        with Collection.open(place) as collection:
            for row in collection.images():
                if row.status == "ok":
                    assert ids[row.path] == row.id
        after = contents(place)
        same = sum(after.get(path) == row for path, row in before.items())
        assert same >= len(before) - done.to_read_again - done.lost
        if repaired % 8 == 1:
            bring_up_to_date(photos, encoder)
            assert found_ones(before).items() <= contents(place).items()
    assert repaired >= 10


@pytest.mark.parametrize("page", [1, 2, 5, 9])
def test_a_page_overwritten_with_noise_is_noticed_and_repaired(
    place: Path, photos: Path, model: ModelFolder, encoder: Encoder, page: int
) -> None:
    before, content = contents(place), bytearray(place.read_bytes())
    content[page * PAGE : (page + 1) * PAGE] = np.random.default_rng(page).bytes(PAGE)
    place.write_bytes(content)
    assert not verify(place).whole
    done = repair(place, photos, model)
    assert verify(place).whole
    assert done.damaged_copy is not None
    assert done.damaged_copy.read_bytes() == bytes(content)
    bring_up_to_date(photos, encoder)
    assert found_ones(before).items() <= contents(place).items()


def test_a_truncated_file_is_repaired_as_far_as_it_goes(
    place: Path, photos: Path, model: ModelFolder, encoder: Encoder
) -> None:
    before = contents(place)
    content = place.read_bytes()
    place.write_bytes(content[: len(content) * 2 // 3 // PAGE * PAGE])
    assert not verify(place).whole
    assert repair(place, photos, model).damaged_copy is not None
    assert verify(place).whole
    bring_up_to_date(photos, encoder)
    assert found_ones(before).items() <= contents(place).items()


@pytest.fixture
def large(tmp_path: Path, model: ModelFolder) -> Path:
    """A collection whose tables and indexes have many pages each."""
    place = tmp_path / "large" / "c.sqlite"
    place.parent.mkdir()
    with CollectionWriter.create(place, tmp_path) as writer:
        fill(writer, model, 600, seed=0)
    return place


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def overwritten(start: int, content: bytes) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:start] + content + whole[start + len(content) :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    **{f"page {page}": overwritten(page * PAGE, noise(PAGE)) for page in range(12)},
    **{f"byte {byte} of the header": overwritten(byte, b"\xa5") for byte in (1, 16, 17, 28, 31, 60)},
    "first bytes": overwritten(0, noise(50)),
    "one page short": lambda whole: whole[:-PAGE],
    "short": lambda whole: whole[: len(whole) * 3 // 4 + 100],
    "too long": lambda whole: whole + noise(PAGE),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_one_place_costs_few_images_more_than_their_reading(
    large: Path, tmp_path: Path, model: ModelFolder, damage: str
) -> None:
    before = contents(large)
    with Collection.open(large) as collection:
        ids = {row.path: row.id for row in collection.images()}
        roots = [
            f"page {page - 1}"
            for (page,) in collection.database.rows("SELECT rootpage FROM sqlite_master WHERE type = 'table'")
        ]
    large.write_bytes(DAMAGES[damage](large.read_bytes()))
    with suppress(DataError):  # it is not even a collection
        if verify(large).whole:
            assert contents(large) == before
            return
    done = repair(large, tmp_path, model)
    assert verify(large).whole
    assert done.kept + done.to_read_again >= (0.7 if damage == "short" else 0.9) * len(before)
    with Collection.open(large) as collection:
        assert all(ids[row.path] == row.id for row in collection.images())
    after = contents(large)
    assert sum(after.get(path) == row for path, row in before.items()) >= done.kept
    # Without the root of a table none of its pages is found, and all is read again, under its own id and path.
    assert done.kept >= 0.7 * len(before) or damage in roots


def test_a_damaged_row_with_the_path_of_a_later_sound_row_costs_that_row_nothing(
    place: Path, photos: Path, model: ModelFolder, encoder: Encoder
) -> None:
    """One bit makes the path of a row that of the row behind it, which the repair must keep with its vector and tokens."""
    before, content = contents(place), bytearray(place.read_bytes())
    with Collection.open(place) as collection:
        ids = {row.path: row.id for row in collection.images()}
    assert ids["more/4.png"] < ids["more/5.png"]
    tables = [start for start in range(0, len(content), PAGE) if content[start] == TABLE_LEAF]
    (at,) = (found for start in tables if (found := content.find(b"more/4.png", start, start + PAGE)) >= 0)
    content[at + len("more/")] ^= 1
    place.write_bytes(content)
    done = repair(place, photos, model)
    assert (done.to_read_again, done.lost) == (0, 1)
    assert verify(place).whole
    with Collection.open(place) as collection:
        assert {row.path: row.id for row in collection.images()} == {path: ids[path] for path in before if path != "more/4.png"}
        for table in ("vectors", "tokens"):
            assert not collection.database.rows(f"SELECT id FROM {table} WHERE id NOT IN (SELECT id FROM images)")
    assert contents(place) == {path: row for path, row in before.items() if path != "more/4.png"}
    bring_up_to_date(photos, encoder)
    assert found_ones(contents(place)) == found_ones(before)


def test_what_holds_no_image_any_more_is_left_as_it_is(large: Path, tmp_path: Path, model: ModelFolder) -> None:
    content = bytearray(large.read_bytes())
    content[PAGE:] = noise(len(content) - PAGE)
    large.write_bytes(content)
    with pytest.raises(DataError, match="no image can be read"):
        repair(large, tmp_path, model)
    assert large.read_bytes() == bytes(content)
    assert not list(large.parent.glob("*.damaged*")) + list(large.parent.glob("*.re*"))


# Rows.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = 5", "vectors are not as they were written"),
        ("UPDATE tokens SET tokens = substr(tokens, 2) WHERE id = 5", "tokens are not as they were written"),
        ("DELETE FROM tokens WHERE id = 5", "tokens are missing"),
        ("UPDATE images SET width = 99 WHERE id = 5", "row is not as it was written"),
        ("UPDATE images SET metadata = '{' WHERE id = 5", "row is not as it was written"),
        ("INSERT INTO vectors SELECT 5000, vector, checksum FROM vectors WHERE id = 5", "vectors without an image"),
    ],
)
def test_a_damaged_row_is_named_mended_in_place_and_read_again(
    place: Path, photos: Path, model: ModelFolder, encoder: Encoder, damage: str, says: str
) -> None:
    before = contents(place)
    change(place, damage)
    found = verify(place)
    assert says in " ".join(item.what for item in found.damage)
    assert {item.id for item in found.damage} <= {5, 5000}
    done = repair(place, photos, model)
    assert (done.damaged_copy, verify(place).whole) == (None, True)
    assert done.to_read_again + done.lost == 1
    bring_up_to_date(photos, encoder)
    assert found_ones(contents(place)) == found_ones(before)


def test_changed_settings_are_noticed_and_restored(place: Path, photos: Path, model: ModelFolder) -> None:
    before = contents(place)
    change(
        place,
        "UPDATE meta SET value = replace(value, 'a', 'b') WHERE key = 'model_name'",
        "UPDATE meta SET value = 77777 WHERE key = 'generation'",
    )
    assert "settings" in verify(place).structure[0]
    repair(place, photos, model)
    assert verify(place).whole
    with Collection.open(place) as collection:
        assert collection.root == photos
        collection.check_model(model)
    assert contents(place) == before


def test_a_repair_of_a_sound_collection_changes_nothing(place: Path, photos: Path, model: ModelFolder) -> None:
    before = place.read_bytes()
    assert repair(place, photos, model) == Repair(len(COLOURS) + 61, 0, 0, None)
    assert place.read_bytes() == before


def test_a_repair_waits_for_nobody_and_disturbs_no_writer(place: Path, photos: Path, model: ModelFolder) -> None:
    change(place, "DELETE FROM tokens WHERE id = 5")
    with CollectionWriter.create(place, photos), pytest.raises(CollectionLocked):
        repair(place, photos, model)


def test_something_else_is_not_repaired(tmp_path: Path, model: ModelFolder) -> None:
    for name, content in NO_COLLECTIONS.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            repair(tmp_path / name, tmp_path, model)
        assert (tmp_path / name).read_bytes() == content


def test_a_newer_format_is_not_repaired(place: Path, photos: Path, model: ModelFolder) -> None:
    with CollectionWriter.create(place, photos) as writer, writer.transaction():
        writer.database.set("schema_version", 99)
    before = place.read_bytes()
    with pytest.raises(IndexMismatch, match="has format 99"):
        repair(place, photos, model)
    assert place.read_bytes() == before


# Format 2, and the columns of format 3.


@pytest.mark.parametrize("damage", [slice(0, 50), slice(0, PAGE)])
@pytest.mark.parametrize("version", [2, 3])
def test_a_file_without_its_first_page_keeps_every_row(
    new: Path, tmp_path: Path, model: ModelFolder, version: int, damage: slice
) -> None:
    damaged = new
    if version == 2:
        damaged = tmp_path / "old.sqlite"
        in_older_format(new, damaged, version)
    with Collection.open(damaged) as collection:
        before = everything(collection)
    content = bytearray(damaged.read_bytes())
    content[damage] = np.random.default_rng(0).bytes(len(content[damage]))
    damaged.write_bytes(content)
    done = repair(damaged, tmp_path, model)
    assert (done.kept, done.to_read_again, done.lost) == (22, 0, 0)
    assert verify(damaged).whole
    with Collection.open(damaged) as collection:
        assert everything(collection) == before


@pytest.mark.parametrize("column", ["path", "frame", "date"])
def test_a_damaged_name_or_date_is_not_trusted(new: Path, tmp_path: Path, model: ModelFolder, column: str) -> None:
    value = {"path": "x'2F657463'", "frame": "'second'", "date": "'1066-10-14'"}[column]
    change(new, f"UPDATE images SET {column} = {value} WHERE id = 22")
    done = repair(new, tmp_path, model)
    assert verify(new).whole
    with Collection.open(new) as collection:
        dates = collection.database.rows("SELECT path, frame, date, status FROM images WHERE id = 22")
    assert dates == ([(b"film\xff", 2, "", "pending")] if column == "date" else [])
    assert (done.kept, done.to_read_again, done.lost) == (21, column == "date", column != "date")
