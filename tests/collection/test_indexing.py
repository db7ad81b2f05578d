import io
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aladin.collection import indexing
from aladin.collection.comparison import compare
from aladin.collection.indexing import IndexReport, index_folder
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import EncodedImages, Encoder
from aladin.errors import DataError
from aladin.pictures.decoding import Decoders
from aladin.pictures.fitting import Fitting
from aladin.pictures.limits import DecodingLimits
from aladin.pictures.listing import FileState, list_images
from aladin.pictures.photographs import Decoded, Unreadable
from tests.conftest import paint, stored
from tests.tiny_model import COLOURS

ODD_NAMES = [
    b"-leading-dash.png", b"new\nline.png", b"tab\t.png", b"\xff\xfe bytes.png", b"x" * 251 + b".png", b" .png", b"a .jpg",
    b"dot.png.", b"space.png ",
    b"UPPER.PNG", b"upper.png", b"'quote\".png", b"$(rm).png", b"%s.png", b"back\\slash.png",
    *(name.encode() for name in ("\N{DOG FACE}.png", "\u202egnp.png", "caf\u00e9.png", "cafe\u0301.png")),
]  # fmt: skip


class CountingEncoder(Encoder):
    """The encoder itself, which also counts the images that it is given."""

    encoded = 0

    def encode_images(self, pixels: np.ndarray) -> EncodedImages:
        self.encoded += len(pixels)
        return super().encode_images(pixels)


@pytest.fixture
def encoder(model_path: Path) -> CountingEncoder:
    return CountingEncoder.load(model_path, threads=1)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    names = list(COLOURS)
    for number in range(60):
        paint(folder / f"{number % 7}" / f"{number}.png", names[number % 6], names[number % 5], seed=number)
    (folder / "3" / "empty.jpg").touch()
    return folder


def index(folder: Path, encoder: Encoder, config: IndexConfig | None = None, place: Path | None = None) -> IndexReport:
    with CollectionWriter.create(place or default_file(folder), folder) as collection:
        return index_folder(collection, encoder, config)


def contents(folder: Path, place: Path | None = None) -> dict[str, tuple[object, ...]]:
    with Collection.open(place or default_file(folder)) as collection:
        return stored(collection)


def read_photograph(root: Path, file: FileState, size: int) -> Decoded | Unreadable:
    with Decoders(DecodingLimits(workers=1, seconds=20.0, memory_mb=512)) as decoders:
        return decoders.submit(root, file, Fitting(size)).result()


# One run, two runs, half a run.


def test_indexing_twice_changes_nothing(many: Path, encoder: CountingEncoder) -> None:
    first = index(many, encoder)
    assert (first.added, first.skipped) == (60, {"is empty": 1})
    file, before = default_file(many), contents(many)
    bytes_before = file.read_bytes()
    second = index(many, encoder)
    assert (second.added, second.unchanged, second.skipped) == (0, 61, {"is empty": 1})
    assert contents(many) == before
    assert file.read_bytes() == bytes_before
    assert encoder.encoded == 60


@pytest.mark.slow
@pytest.mark.parametrize("config", [IndexConfig(1, 1), IndexConfig(7, 2), IndexConfig(16, 8), IndexConfig(1000, 3)])
def test_batch_size_and_threads_change_nothing(many: Path, tmp_path: Path, encoder: Encoder, config: IndexConfig) -> None:
    index(many, encoder)
    other = tmp_path / "other.sqlite"
    index(many, encoder, config, other)
    assert contents(many, other) == contents(many)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 10, 30, 50])
def test_an_interrupted_run_that_goes_on_equals_a_clean_one(
    many: Path, tmp_path: Path, encoder: CountingEncoder, stop_after: int
) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 61
        if done > stop_after:
            raise KeyboardInterrupt

    clean = tmp_path / "clean.sqlite"
    index(many, encoder, place=clean)
    encoder.encoded = 0
    with CollectionWriter.create(default_file(many), many) as collection, pytest.raises(KeyboardInterrupt):
        index_folder(collection, encoder, IndexConfig(batch_images=10), interrupt)
    index(many, encoder)
    assert contents(many) == contents(many, clean)
    assert encoder.encoded == 60, "what was committed is not encoded again"


@pytest.mark.slow
def test_progress_is_told_after_the_rows_are_on_the_disk(many: Path, encoder: Encoder) -> None:
    told = []

    def check(done: int, total: int) -> None:
        with Collection.open(default_file(many)) as reader:
            assert sum(reader.counts().values()) == done
        told.append((done, total))

    with CollectionWriter.create(default_file(many), many) as collection:
        index_folder(collection, encoder, IndexConfig(batch_images=25), check)
    assert told == [(25, 61), (50, 61), (61, 61)]


@pytest.mark.slow
def test_a_killed_run_loses_no_acknowledged_row(many: Path, tmp_path: Path, model_path: Path, encoder: Encoder) -> None:
    script = (
        "import sys; from pathlib import Path; from aladin.collection.indexing import *\n"
        "folder, place = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "with CollectionWriter.create(place, folder) as collection:\n"
        "    index_folder(collection, Encoder.load(Path(sys.argv[3])), IndexConfig(batch_images=4),\n"
        "                 lambda done, total: print(done, flush=True))"
    )
    clean, place = tmp_path / "clean.sqlite", tmp_path / "killed.sqlite"
    index(many, encoder, place=clean)
    random, present = np.random.default_rng(0), 0
    for _cycle in range(6):
        child = subprocess.Popen([sys.executable, "-c", script, many, place, model_path], stdout=subprocess.PIPE)
        with child:
            assert child.stdout is not None
            acknowledged = [child.stdout.readline()]
            time.sleep(random.uniform(0, 0.02))
            child.send_signal(signal.SIGKILL)
            acknowledged += child.stdout.readlines()
        done = max((int(line) for line in acknowledged if line.strip()), default=0)
        with Collection.open(place) as collection:
            rows = list(collection.images())
            assert collection.database.rows("PRAGMA integrity_check") == [("ok",)]
        assert len(rows) >= present + done
        assert len({row.path for row in rows}) == len(rows)
        present = len(rows)
    index(many, encoder, place=place)
    assert contents(many, place) == contents(many, clean)


# Files that move, change, go and come back.


def ids(folder: Path) -> dict[str, int]:
    with Collection.open(default_file(folder)) as collection:
        return {row.path: row.id for row in collection.images()}


def statuses(folder: Path) -> dict[str, str]:
    with Collection.open(default_file(folder)) as collection:
        return {row.path: row.status for row in collection.images()}


def test_a_moved_file_keeps_its_id_and_is_not_encoded_again(photos: Path, encoder: CountingEncoder) -> None:
    index(photos, encoder)
    before, encoded = ids(photos), encoder.encoded
    (photos / "new place").mkdir()
    (photos / "red.png").rename(photos / "new place" / "rot.png")
    report = index(photos, encoder)
    assert (report.moved, report.added, report.offline) == (1, 0, 0)
    after = ids(photos)
    assert after.pop("new place/rot.png") == before.pop("red.png")
    assert after == before
    assert encoder.encoded == encoded


@pytest.mark.slow
def test_files_that_are_gone_stay_known_and_come_back_without_encoding(photos: Path, encoder: CountingEncoder) -> None:
    index(photos, encoder)
    before, encoded = contents(photos), encoder.encoded
    shutil.move(photos / "red.png", photos.parent / "red.png")
    assert index(photos, encoder).offline == 1
    assert statuses(photos)["red.png"] == "offline"
    shutil.move(photos.parent / "red.png", photos / "red.png")
    report = index(photos, encoder)
    assert (report.returned, report.offline) == (1, 0)
    assert contents(photos) == before
    assert encoder.encoded == encoded


def test_an_unmounted_root_loses_nothing(photos: Path, tmp_path: Path, encoder: CountingEncoder) -> None:
    place, away = tmp_path / "elsewhere.sqlite", tmp_path / "away"
    index(photos, encoder, place=place)
    before, encoded = contents(photos, place), encoder.encoded
    photos.rename(away)
    photos.mkdir()
    report = index(photos, encoder, place=place)
    assert (report.offline, report.forgotten) == (len(COLOURS), 0)
    photos.rmdir()
    away.rename(photos)
    assert index(photos, encoder, place=place).returned == len(COLOURS)
    assert contents(photos, place) == before
    assert encoder.encoded == encoded


def test_a_touched_file_is_read_but_not_encoded_again(photos: Path, encoder: CountingEncoder) -> None:
    index(photos, encoder)
    encoded = encoder.encoded
    os.utime(photos / "red.png", ns=(1, 1))
    report = index(photos, encoder)
    assert (report.unchanged, report.updated) == (len(COLOURS), 0)
    assert encoder.encoded == encoded


def test_a_changed_file_keeps_its_id_and_gets_a_new_vector(photos: Path, encoder: Encoder) -> None:
    index(photos, encoder)
    before_ids, before = ids(photos), contents(photos)
    paint(photos / "red.png", "blue", seed=77)
    assert index(photos, encoder).updated == 1
    assert ids(photos) == before_ids
    assert contents(photos)["red.png"][-1] != before["red.png"][-1]


def captioned(folder: Path, *names: str) -> dict[str, int]:
    """Give each image its own name as a caption; their ids."""
    with CollectionWriter.create(default_file(folder), folder) as collection:
        with collection.transaction():
            for name in names:
                collection.describe(name, {"captions": [name]})
        return {row.path: row.id for row in collection.images()}


def captions_and_ids(folder: Path) -> dict[str, tuple[int, list[str] | None, str]]:
    with Collection.open(default_file(folder)) as collection:
        return {row.path: (row.id, row.metadata.get("captions"), row.status) for row in collection.images()}


def test_files_that_trade_their_names_keep_their_ids_and_what_is_said_of_them(photos: Path, encoder: CountingEncoder) -> None:
    index(photos, encoder)
    ids = captioned(photos, "red.png", "blue.png")
    before, encoder.encoded = contents(photos), 0
    (photos / "red.png").rename(photos / "aside")
    (photos / "blue.png").rename(photos / "red.png")
    (photos / "aside").rename(photos / "blue.png")
    report = index(photos, encoder)
    assert (report.updated, report.added, report.offline, encoder.encoded) == (0, 0, 0, 0)
    after = captions_and_ids(photos)
    assert after["red.png"] == (ids["blue.png"], ["blue.png"], "ok")
    assert after["blue.png"] == (ids["red.png"], ["red.png"], "ok")
    assert contents(photos)["red.png"][1] == before["blue.png"][1]
    assert index(photos, encoder).unchanged == len(COLOURS)
    assert verify(default_file(photos)).whole


@pytest.mark.parametrize("batch", [1, 64])
def test_files_that_each_take_the_name_of_the_one_before_keep_their_ids(
    photos: Path, encoder: CountingEncoder, batch: int
) -> None:
    index(photos, encoder)
    names = sorted(f"{name}.png" for name in COLOURS)
    ids = captioned(photos, *names)
    encoder.encoded = 0
    (photos / names[0]).unlink()
    for here, there in pairwise(names):
        (photos / there).rename(photos / here)
    report = index(photos, encoder, IndexConfig(batch_images=batch))
    assert (report.moved, report.updated, report.added, report.offline, encoder.encoded) == (len(names) - 1, 0, 0, 1, 0)
    after = captions_and_ids(photos)
    for here, there in pairwise(names):
        assert after[here] == (ids[there], [there], "ok")
    assert after[names[-1]] == (ids[names[0]], [names[0]], "offline")


def test_a_new_file_under_an_old_name_does_not_take_the_id_of_the_one_that_went_on(
    photos: Path, encoder: CountingEncoder
) -> None:
    index(photos, encoder)
    ids = captioned(photos, "red.png")
    (photos / "red.png").rename(photos / "zebra.png")
    paint(photos / "red.png", "green", "pink", seed=991)
    report = index(photos, encoder)
    assert (report.moved, report.added, report.updated, report.offline) == (1, 1, 0, 0)
    after = captions_and_ids(photos)
    assert after["zebra.png"] == (ids["red.png"], ["red.png"], "ok")
    assert after["red.png"][0] not in ids.values()


def test_a_copy_shares_the_vector_and_is_a_row_of_its_own(photos: Path, encoder: CountingEncoder) -> None:
    index(photos, encoder)
    encoded = encoder.encoded
    shutil.copy(photos / "red.png", photos / "copy.png")
    assert index(photos, encoder).added == 1
    assert contents(photos)["copy.png"] == contents(photos)["red.png"]
    assert encoder.encoded == encoded


def test_two_files_that_change_names_end_with_their_own_vectors(photos: Path, encoder: Encoder) -> None:
    index(photos, encoder)
    before = contents(photos)
    (photos / "red.png").rename(photos / "x.png")
    (photos / "blue.png").rename(photos / "red.png")
    (photos / "x.png").rename(photos / "blue.png")
    for name in ("red.png", "blue.png"):
        os.utime(photos / name)
    index(photos, encoder)
    after = contents(photos)
    assert (after["red.png"], after["blue.png"]) == (before["blue.png"], before["red.png"])


def test_a_failed_file_is_tried_again_once_it_changes(photos: Path, encoder: Encoder) -> None:
    (photos / "new.jpg").touch()
    assert index(photos, encoder).skipped == {"is empty": 1}
    paint(photos / "new.jpg", "green", seed=9)
    report = index(photos, encoder)
    assert (report.updated, report.skipped) == (1, {})
    assert statuses(photos)["new.jpg"] == "ok"


def test_an_image_that_becomes_unreadable_is_no_longer_found(photos: Path, encoder: Encoder) -> None:
    index(photos, encoder)
    (photos / "red.png").write_bytes(b"")
    index(photos, encoder)
    with Collection.open(default_file(photos)) as collection:
        number = next(row.id for row in collection.images("failed"))
        assert number not in np.concatenate([rows for rows, _ in collection.vector_blocks()])


@pytest.mark.slow
def test_a_rebuild_reads_everything_by_the_new_model_and_keeps_ids(
    photos: Path, encoder: Encoder, other_model_path: Path, tmp_path: Path
) -> None:
    index(photos, encoder)
    before, other = ids(photos), Encoder.load(other_model_path)
    with CollectionWriter.create(default_file(photos), photos) as collection:
        collection.rebuild(other.model)
        assert index_folder(collection, other).updated == len(COLOURS)
    assert ids(photos) == before
    clean = tmp_path / "clean.sqlite"
    index(photos, other, place=clean)
    assert contents(photos) == contents(photos, clean)


# Files of every kind.


@pytest.fixture
def mess(photos: Path, tmp_path: Path) -> Path:
    outside = paint(tmp_path / "outside" / "outside.png", "red", seed=50)
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, "JPEG")
    (photos / "truncated.jpg").write_bytes(whole.getvalue()[:400])
    (photos / "empty.jpg").touch()
    (photos / "text.jpg").write_text("<html>not found</html>")
    (photos / "vector.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (photos / "black.png").unlink(missing_ok=True)
    Image.new("RGB", (20, 20)).save(photos / "black.png")
    os.mkfifo(photos / "pipe.jpg")
    (photos / "dangling.jpg").symlink_to("nowhere.jpg")
    (photos / "link out.png").symlink_to(outside)
    (photos / "folder out").symlink_to(outside.parent)
    (photos / "loop").symlink_to(photos)
    (photos / "folder.jpg").mkdir()
    (photos / ".hidden.png").write_bytes((photos / "red.png").read_bytes())
    paint(photos / ".hidden" / "red.png", "red")
    (photos / "notes.txt").write_text("red")
    (photos / "really a jpeg.png").write_bytes(whole.getvalue())
    return photos


def test_bad_files_become_rows_with_reasons_and_end_no_run(mess: Path, encoder: Encoder) -> None:
    report = index(mess, encoder)
    assert report.added == len(COLOURS) + 1
    assert sum(report.skipped.values()) == 5
    assert report.skipped["is empty"] == report.skipped["has no finite vector from this model"] == 1
    with Collection.open(default_file(mess)) as collection:
        reasons = {row.path: row.reason for row in collection.images("failed")}
    assert reasons.keys() == {"truncated.jpg", "empty.jpg", "text.jpg", "vector.png", "black.png"}
    assert "truncated" in (reasons["truncated.jpg"] or "").lower()


def test_a_file_of_something_else_is_told_from_a_damaged_image(mess: Path, encoder: Encoder) -> None:
    skipped = index(mess, encoder).skipped
    assert (skipped["is not an image of a known format"], skipped["cannot be decoded"]) == (2, 1)


def test_links_pipes_and_hidden_files_are_passed_over(mess: Path, encoder: Encoder) -> None:
    index(mess, encoder)
    assert contents(mess).keys() == {
        *(f"{colour}.png" for colour in COLOURS),
        *("truncated.jpg", "empty.jpg", "text.jpg", "vector.png", "black.png", "really a jpeg.png"),
    }


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "nothing"])
def test_a_file_replaced_after_it_was_listed_is_a_reason_not_a_wait(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    {
        "pipe": lambda: os.mkfifo(path),
        "folder": lambda: path.mkdir(),
        "link": lambda: path.symlink_to("/etc/passwd"),
        "nothing": lambda: None,
    }[kind]()
    outcome = read_photograph(tmp_path, FileState("a.jpg", 10, 10), 16)
    assert isinstance(outcome, Unreadable)
    assert outcome.vanished == (kind == "nothing")


def test_a_file_that_may_not_be_read_is_tried_again_every_time(tmp_path: Path, encoder: Encoder) -> None:
    (tmp_path / "a.jpg").symlink_to("a.jpg")
    refused = read_photograph(tmp_path, FileState("a.jpg", 10, 10), 16)
    assert isinstance(refused, Unreadable)
    (tmp_path / "a.jpg").unlink()
    paint(tmp_path / "a.jpg", "red")
    with CollectionWriter.create(default_file(tmp_path), tmp_path) as collection:
        with collection.transaction():
            collection.mark_failed(refused.file, refused.reason)
        assert index_folder(collection, encoder).updated == 1


def test_a_file_that_vanishes_while_the_folder_is_read_is_counted_and_gets_no_row(photos: Path, encoder: Encoder) -> None:
    def vanishing(done: int, total: int) -> None:
        with suppress(FileNotFoundError):
            (photos / "yellow.png").unlink()

    with CollectionWriter.create(default_file(photos), photos) as collection:
        report = index_folder(collection, encoder, IndexConfig(batch_images=1, workers=1), vanishing)
        assert sum(collection.counts().values()) + report.skipped.get("vanished while the folder was read", 0) == len(COLOURS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_NAMES, ids=repr)
def test_odd_names_are_stored_without_loss(tmp_path: Path, encoder: Encoder, name: bytes) -> None:
    path = tmp_path / "folder" / os.fsdecode(name)
    shutil.copy(paint(tmp_path / "red.png", "red"), (path.parent.mkdir(), path)[1])
    index(path.parent, encoder)
    with Collection.open(default_file(path.parent)) as collection:
        row = next(collection.images())
        assert os.fsencode(row.path) == name
        assert collection.row_at(row.path) == row
        assert (path.parent / row.path).is_file()


def test_names_that_differ_little_are_different_files(tmp_path: Path, encoder: Encoder) -> None:
    folder = tmp_path / "folder"
    for seed, name in enumerate(ODD_NAMES):
        shutil.copy(paint(tmp_path / "red.png", "red", seed=seed), (folder.mkdir(exist_ok=True), folder / os.fsdecode(name))[1])
    assert index(folder, encoder).added == len(ODD_NAMES)
    assert {os.fsencode(path) for path in contents(folder)} == set(ODD_NAMES)


def test_a_missing_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file or directory"):
        list(list_images(tmp_path / "none"))


def test_a_folder_is_listed_by_name_whatever_order_the_disk_has(mess: Path) -> None:
    first = [found.path for found in list_images(mess)]
    assert first == sorted(first)
    assert first == [found.path for found in list_images(mess)]


# What a photograph says of itself.


def photograph_with(tmp_path: Path, exif: Image.Exif | bytes) -> Path:
    folder = tmp_path / "exif"
    folder.mkdir()
    Image.new("RGB", (40, 20), "red").save(folder / "a.jpg", exif=exif)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_are_those_of_the_upright_picture(tmp_path: Path, encoder: Encoder, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    folder = photograph_with(tmp_path, exif)
    index(folder, encoder)
    with Collection.open(default_file(folder)) as collection:
        row = next(collection.images())
    assert (row.width, row.height) == ((20, 40) if orientation >= 5 else (40, 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "read"),
    [("2026:05:01 12:30:00", "2026-05-01T12:30:00"), ("0000:00:00 00:00:00", None), ("    ", None), ("last summer", None)],
)
def test_the_camera_s_time_is_kept_where_it_is_one(tmp_path: Path, encoder: Encoder, written: str, read: str | None) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[36867] = written
    folder = photograph_with(tmp_path, exif)
    index(folder, encoder)
    with Collection.open(default_file(folder)) as collection:
        assert next(collection.images()).taken == read


@pytest.mark.slow
def test_the_full_size_is_kept_though_a_jpeg_is_decoded_smaller(tmp_path: Path, encoder: Encoder) -> None:
    folder = tmp_path / "large"
    paint(folder / "a.jpg", "red", "blue", size=(1600, 1200))
    index(folder, encoder)
    with Collection.open(default_file(folder)) as collection:
        row = next(collection.images())
    assert (row.width, row.height) == (1600, 1200)


# R7: the guard against taking an absent disk for deletions.


def absent(photos: Path, how: str) -> Path:
    """Make the photographs be away; where they are now."""
    away = photos.with_name("away")
    if how == "60 % gone":
        away.mkdir()
        for name in list(COLOURS)[:4]:
            shutil.move(photos / f"{name}.png", away)
        return away
    photos.rename(away)
    if how == "root empty":
        photos.mkdir()
    elif how == "another disk":
        paint(photos / "another.png", "red", seed=1234)
    return away


@pytest.mark.slow
@pytest.mark.parametrize("how", ["root missing", "root empty", "another disk", "60 % gone"])
def test_photographs_that_are_away_stay_known_and_come_back_without_encoding(
    photos: Path, tmp_path: Path, encoder: CountingEncoder, how: str
) -> None:
    place = tmp_path / "elsewhere.sqlite"
    index(photos, encoder, place=place)
    before = contents(photos, place)
    away = absent(photos, how)
    if how == "root missing":
        with pytest.raises(DataError, match=f"is not there; its {len(COLOURS)} images are kept as offline"):
            index(photos, encoder, place=place)
    else:
        report = index(photos, encoder, place=place)
        assert report.forgotten == 0
        assert f"of {len(COLOURS)} known images are gone" in (report.warning or "")
        assert ("is its disk there?" in (report.warning or "")) == (how == "root empty")
    kept = contents(photos, place)
    assert kept.keys() >= before.keys()
    gone = [path for path, row in kept.items() if row[5] == "offline"]
    assert len(gone) == (4 if how == "60 % gone" else len(COLOURS))
    encoded = encoder.encoded
    if how == "60 % gone":
        for path in away.iterdir():
            shutil.move(path, photos)
    else:
        shutil.rmtree(photos, ignore_errors=True)
        away.rename(photos)
    report = index(photos, encoder, place=place)
    assert report.returned == len(gone)
    assert {path: row for path, row in contents(photos, place).items() if row[5] == "ok"} == before
    assert encoder.encoded == encoded


def test_another_disk_is_named_in_the_warning(photos: Path, encoder: Encoder) -> None:
    index(photos, encoder)
    (photos / "red.png").unlink()
    with CollectionWriter.create(default_file(photos), photos) as collection:
        with collection.transaction():
            collection.database.set("device", 1)
        report = index_folder(collection, encoder)
    assert "is on another disk than before" in (report.warning or "")


def test_a_few_deletions_give_no_warning_and_are_kept_until_confirmed(photos: Path, encoder: Encoder) -> None:
    index(photos, encoder)
    (photos / "red.png").unlink()
    report = index(photos, encoder)
    assert (report.warning, report.offline, report.forgotten) == (None, 1, 0)
    report = index(photos, encoder, IndexConfig(confirm_deletes=True))
    assert (report.offline, report.forgotten) == (0, 1)
    assert "red.png" not in contents(photos)
    shutil.copy(photos / "blue.png", photos / "red.png")
    index(photos, encoder)
    assert max(ids(photos).values()) == len(COLOURS) + 1, "an id is not given twice"


def test_another_folder_does_not_take_the_place_of_one_that_is_away(photos: Path, tmp_path: Path, encoder: Encoder) -> None:
    place, other = tmp_path / "elsewhere.sqlite", tmp_path / "other"
    index(photos, encoder, place=place)
    photos.rename(tmp_path / "away")
    paint(other / "x.png", "red")
    with pytest.raises(DataError, match="holds the images of"):
        index(other, encoder, place=place)
    index(tmp_path / "away", encoder, place=place)
    assert all(row[5] == "ok" for row in contents(photos, place).values())


# R8: files that change between the listing and the reading.

RACES = 1000


@pytest.mark.slow
def test_a_thousand_races_end_no_run_and_each_has_its_reason(tmp_path: Path, encoder: Encoder) -> None:
    folder = tmp_path / "races"
    picture = paint(tmp_path / "red.png", "red", size=(8, 8)).read_bytes()
    folder.mkdir()
    for number in range(RACES):
        (folder / f"{number:04}.png").write_bytes(picture + bytes([number % 256, number // 256]))
    random = np.random.default_rng(0)
    kinds = ["vanish", "shrink", "replace", "pipe", "folder", "link", "empty"]
    done: dict[str, str] = {}

    def race(path: Path) -> None:
        kind = str(random.choice(kinds))
        done[path.name] = kind
        path.unlink()
        if kind == "shrink":
            path.write_bytes(picture[: len(picture) // 2])
        elif kind == "replace":
            path.write_bytes(picture + b"another")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/etc/passwd")
        elif kind == "empty":
            path.touch()

    with CollectionWriter.create(default_file(folder), folder) as collection:
        collection.use_model(encoder.model)
        compare(collection, list_images(folder))  # the listing, after which everything changes
        for path in sorted(folder.glob("*.png")):
            race(path)
        tally = indexing._Tally()
        for batch in indexing._batches(collection, Fitting(16), IndexConfig(workers=1)):
            indexing._store(collection, encoder, batch, tally)
        reasons = {row.path: row.reason for row in collection.images("failed")}
        found = {row.path for row in collection.images("ok")}
    expected = {
        "shrink": "cannot be decoded", "pipe": "is not a regular file", "folder": "is not a regular file",
        "link": "cannot be read (Too many levels of symbolic links)", "empty": "is empty",
    }  # fmt: skip
    assert len(done) == RACES
    assert tally.skipped == {"vanished while the folder was read": sum(kind == "vanish" for kind in done.values())}
    assert found == {name for name, kind in done.items() if kind == "replace"}
    assert reasons.keys() == {name for name, kind in done.items() if kind in expected}
    assert all((reason or "").startswith(expected[done[name]]) for name, reason in reasons.items())


# Q2: vectors that are none.


class PoisonedEncoder(Encoder):
    """Gives some images vectors that are not finite, zero, too large or too small for what they are stored in."""

    def encode_images(self, pixels: np.ndarray) -> EncodedImages:
        encoded = super().encode_images(pixels)
        vectors, regions = encoded.vectors.copy(), encoded.regions.copy()
        for row, value in zip(range(len(vectors)), (np.nan, np.inf, 0.0, 1e30, 1e-30), strict=False):
            vectors[row] = value
        if len(regions) > 5:
            regions[5, 0, 0] = np.nan
        return EncodedImages(vectors, regions, encoded.usable)


def test_a_poisoned_vector_is_never_stored_and_its_row_says_so(photos: Path, model_path: Path, encoder: Encoder) -> None:
    for number in range(4):
        paint(photos / f"more {number}.png", "red", seed=40 + number)
    report = index(photos, PoisonedEncoder.load(model_path, threads=1), IndexConfig(batch_images=16))
    assert report.skipped == {"has no finite vector from this model": 6}
    assert report.added == len(COLOURS) - 2
    with Collection.open(default_file(photos)) as collection:
        for _, vectors in collection.vector_blocks():
            assert np.isfinite(vectors).all()
            assert (vectors != 0).any(axis=1).all()
    assert index(photos, encoder, IndexConfig(retry_failed=True)).updated == 6
    assert index(photos, encoder).skipped == {}


def test_failed_files_are_tried_again_only_when_asked(photos: Path, encoder: CountingEncoder) -> None:
    Image.new("RGB", (20, 20)).save(photos / "black.png")
    assert index(photos, encoder).skipped == {"has no finite vector from this model": 1}
    encoded = encoder.encoded
    index(photos, encoder)
    assert encoder.encoded == encoded
    index(photos, encoder, IndexConfig(retry_failed=True))
    assert encoder.encoded == encoded + 1


# What is not wanted.


@pytest.mark.slow
def test_a_removed_image_stays_removed_when_its_folder_is_renamed(photos: Path, encoder: CountingEncoder) -> None:
    (photos / "sub").mkdir()
    (photos / "red.png").rename(photos / "sub" / "red.png")
    index(photos, encoder)
    with CollectionWriter.create(default_file(photos), photos) as collection, collection.transaction():
        collection.remove(collection.ids_below("sub"))
    (photos / "sub").rename(photos / "other")
    report = index(photos, encoder)
    assert (report.added, report.moved, report.offline) == (0, 0, 0)
    with Collection.open(default_file(photos)) as collection:
        assert [(row.path, row.status) for row in collection.images() if row.status != "ok"] == [("other/red.png", "removed")]
    assert index(photos, encoder).unchanged == len(COLOURS)
    assert verify(default_file(photos)).whole
    shutil.copy(photos / "other" / "red.png", photos / "copy.png")  # the removed one is still there: this is another
    assert index(photos, encoder).added == 1


def test_a_removed_image_is_not_read_again_until_it_is_taken_back(photos: Path, encoder: CountingEncoder) -> None:
    index(photos, encoder)
    before, encoded = ids(photos), encoder.encoded
    with CollectionWriter.create(default_file(photos), photos) as collection, collection.transaction():
        collection.remove(collection.ids_below("red.png"))
    paint(photos / "red.png", "blue", seed=5)
    assert index(photos, encoder).unchanged == len(COLOURS)
    assert statuses(photos)["red.png"] == "removed"
    with CollectionWriter.create(default_file(photos), photos) as collection, collection.transaction():
        collection.restore(collection.ids_below("."))
    index(photos, encoder)
    assert (statuses(photos)["red.png"], ids(photos)) == ("ok", before)
    assert encoder.encoded == encoded + 1


# R11: memory.


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, model_path: Path) -> None:
    folder = tmp_path / "many"
    for number in range(1200):
        paint(folder / f"{number}.png", "red", "blue", seed=number, size=(8, 8))
    script = (
        "import sys; from pathlib import Path; from aladin.collection.indexing import *\n"
        "from aladin.collection.writer import *\n"
        "def kilobytes():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])\n"
        "seen = {}\n"
        "with CollectionWriter.create(Path(sys.argv[1]) / 'c.sqlite', Path(sys.argv[1])) as collection:\n"
        "    index_folder(collection, Encoder.load(Path(sys.argv[2]), threads=1), IndexConfig(workers=1),\n"
        "                 lambda done, total: seen.update({done: kilobytes()}))\n"
        "half = min(done for done in seen if done >= 600)\n"
        "print(seen[1200] - seen[half])"
    )
    grown = subprocess.run([sys.executable, "-c", script, folder, model_path], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 1024, "kilobytes for 600 images; what allocators keep is no leak"
