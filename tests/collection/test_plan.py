"""A plan says what indexing will do, and writes nothing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from aladin.collection.indexing import index_folder
from aladin.collection.plan import PROBED, Plan, _Sample, plan_for
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.pictures.listing import FileState
from tests.collection.test_indexing import CountingEncoder
from tests.collection.test_schema import in_older_format
from tests.conftest import paint
from tests.pictures.test_frames import CONFIG, folder, index, rows
from tests.pictures.test_frames import encoder as counting
from tests.tiny_model import COLOURS

__all__ = ["counting", "folder"]  # the fixtures


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "files", "pictures"), [(0, 3, 2, 4), (1, 3, 2, 4), (3, 2, 1, 2), (3, 1, 0, 0)])
def test_a_plan_tells_what_index_then_does(
    folder: Path, counting: CountingEncoder, before: int, after: int, files: int, pictures: int
) -> None:
    if before:
        index(folder, counting, frames=before)
    place = default_file(folder)
    known, row_bytes = len(rows(folder)) if before else 0, plan_for(folder, place / "none", counting, CONFIG).disk_bytes / 2
    plan = plan_for(folder, place, counting, replace(CONFIG, frames=after))
    assert (plan.to_read, plan.pictures, plan.frames) == (files, pictures, after)
    assert plan_for(folder, place, counting, CONFIG).frames == max(before, 1)
    total, counting.encoded = [0], 0
    with CollectionWriter.create(place, folder) as collection:
        index_folder(collection, counting, replace(CONFIG, frames=after), lambda done, all_files: total.append(all_files))
    assert total[-1] == plan.to_read
    assert counting.encoded == round(plan.disk_bytes / row_bytes) == max(len(rows(folder)) - known, 0)
    assert plan_for(folder, place, counting, CONFIG).to_read == 0


def test_a_plan_counts_by_kind_and_says_what_will_be_passed_over(photos: Path, encoder: Encoder) -> None:
    (photos / "empty.jpg").touch()
    (photos / "notes.txt").touch()
    (photos / "link.png").symlink_to("red.png")
    before = sorted(photos.rglob("*"))
    plan = plan_for(photos, default_file(photos), encoder, CONFIG)
    assert (plan.images, plan.to_read, plan.probed) == (len(COLOURS) + 1,) * 3
    assert plan.kinds == {".png": len(COLOURS), ".jpg": 1}
    assert plan.passed_over == {"not named like an image": 1, "link": 1}
    assert plan.unreadable == {"is empty": 1}
    assert sorted(photos.rglob("*")) == before


def test_what_is_known_is_not_read_again_and_what_has_changed_is(photos: Path, encoder: Encoder, tmp_path: Path) -> None:
    file = default_file(photos)
    with CollectionWriter.create(file, photos) as collection:
        index_folder(collection, encoder)
        with collection.transaction():
            collection.remove(collection.ids_below("blue.png"))
    assert plan_for(photos, file, encoder, CONFIG).to_read == 0
    paint(photos / "red.png", "green", seed=50)
    paint(photos / "blue.png", "green", seed=51)  # removed, so it is not wanted whatever it shows
    paint(photos / "new.png", "green", seed=52)
    assert plan_for(photos, file, encoder, CONFIG).to_read == 2


@pytest.mark.parametrize("version", [1, 2])
def test_a_collection_of_an_older_format_is_planned_with_as_it_is(
    photos: Path, encoder: Encoder, tmp_path: Path, version: int
) -> None:
    with CollectionWriter.create(tmp_path / "new.sqlite", photos) as collection:
        index_folder(collection, encoder)
    in_older_format(tmp_path / "new.sqlite", tmp_path / "old.sqlite", version)
    before = (tmp_path / "old.sqlite").read_bytes()
    paint(photos / "new.png", "green", seed=52)
    assert plan_for(photos, tmp_path / "old.sqlite", encoder, CONFIG).to_read == 1
    assert (tmp_path / "old.sqlite").read_bytes() == before


def test_every_file_of_a_long_listing_is_as_likely_to_be_probed() -> None:
    sample, files = _Sample(PROBED), [FileState(str(number), 1, 1) for number in range(10 * PROBED)]
    for file in files:
        sample.offer(file)
    tenths = Counter(int(file.path) // PROBED for file in sample.kept)
    assert len(set(sample.kept)) == PROBED
    assert len(tenths) == 10
    assert max(tenths.values()) < PROBED / 3


def test_a_plan_that_does_not_fit_says_so() -> None:
    plan = Plan(2, 10, 2, 1, 2, {".png": 2}, {}, {"a": 1}, 2, {"is empty": 1}, 4.0, 7200.0, 300, 2_000_000, 1_000_000)
    lines = plan.as_text().splitlines()
    assert "2.0 h at 4 images/s (2 probed)" in lines[2]
    assert lines[-2] == "unreadable   about 1: of 2 probed, 1 is empty"
    assert lines[-1].strip() == "THIS DOES NOT FIT on the disk; name another with --collection"
    assert "not listed   1 a" in lines
