"""A folder of shards: what is read is what was written, and what is damaged is named."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from aladin.datasets.vinvl import (
    Detections,
    DetectionSource,
    FeatureFolder,
    Objects,
    ShardFolder,
    ShardWriter,
    check_folder,
    is_feature_folder,
    open_features,
)
from aladin.datasets.vinvl.detections import GeometryOrder
from aladin.errors import DataError
from tests.tiny_official import TINY, random_images, write_features

NUMBERS = TINY.region
BOX = 4 * NUMBERS  # bytes
COUNTS = [3, 1, 5, 2, 4, 4, 1]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_features(tmp_path / "tables", random_images(COUNTS))


@pytest.fixture
def shards(tables: Path, tmp_path: Path) -> Path:
    return write_shards(tables, tmp_path / "shards")


def detections_of(folder: Path) -> list[Detections]:
    opened = open_features(folder)
    return [source_of(opened.find(image)).detections() for image in opened.images()]


def source_of(found: DetectionSource | None) -> DetectionSource:
    assert found is not None
    return found


def write_shards(tables: Path, out: Path, half: bool = False) -> Path:
    """Shards of at least six boxes, so three of them."""
    return write(detections_of(tables), out, half, 6 * BOX // 2 if half else 6 * BOX)


def write(found: Iterable[Detections], out: Path, half: bool = False, shard_bytes: int = 6 * BOX) -> Path:
    with ShardWriter(out, half, shard_bytes) as writer:
        for detections in found:
            writer.add(detections)
    return out


def same(one: Detections, other: Detections) -> bool:
    a, b = one.objects, other.objects
    arrays = [(one.boxes, other.boxes), (a.rects, b.rects), (a.confidences, b.confidences)]
    equal = all(x is y if x is None or y is None else np.array_equal(x, y) for x, y in arrays)
    return equal and (one.image, a.names, a.height, a.width) == (other.image, b.names, b.height, b.width)


def problems(folder: Path) -> list[tuple[str, str, str | None]]:
    return [(problem.kind, problem.file, problem.image) for problem in check_folder(folder, NUMBERS)]


def test_shards_hold_what_the_tables_hold_to_the_bit(tables: Path, shards: Path) -> None:
    opened = open_features(shards)
    assert isinstance(opened, ShardFolder)
    assert is_feature_folder(shards)
    assert opened.images() == FeatureFolder.open(tables).images()
    assert len(opened) == len(COUNTS)
    assert list(opened.shards) == [f"boxes-{number:05}.safetensors" for number in range(3)]
    for from_tables, from_shards in zip(detections_of(tables), detections_of(shards), strict=True):
        assert same(from_tables, from_shards)
        assert from_shards.boxes.dtype == np.float32
    assert not list(shards.glob("*.partial"))


def test_the_first_boxes_of_an_image_are_read_without_the_others(tables: Path, shards: Path) -> None:
    for folder in (tables, shards):
        for count, image in zip(COUNTS, open_features(folder).images(), strict=True):
            source = source_of(open_features(folder).find(image))
            assert len(source.detections(NUMBERS, 2).boxes) == min(count, 2)
            assert np.array_equal(source.detections(NUMBERS, 2).boxes, source.detections().boxes[:2])


def test_an_image_is_found_by_the_id_in_its_files_name_as_in_tables(shards: Path) -> None:
    opened = ShardFolder.open(shards)
    assert source_of(opened.find("val2014/COCO_val2014_000000000107.jpg")).image == "107"
    assert opened.find("dog.jpg") is None


def test_half_precision_takes_half_the_room_and_keeps_three_digits(tables: Path, tmp_path: Path) -> None:
    write_shards(tables, tmp_path / "half", half=True)
    content = load_file(tmp_path / "half" / "boxes-00000.safetensors")
    assert content["boxes"].dtype == np.float16
    for one, other in zip(detections_of(tables), detections_of(tmp_path / "half"), strict=True):
        assert other.boxes.dtype == np.float32
        np.testing.assert_allclose(other.boxes, one.boxes, rtol=1e-3, atol=1e-6)
    assert not problems(tmp_path / "half")


def test_numbers_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    boxes = np.full((1, NUMBERS), 1e5, dtype=np.float32)
    with pytest.raises(DataError, match="image a has numbers that float16 cannot hold; leave out --half"):
        write([Detections("a", boxes, Objects((), 1.0, 1.0))], tmp_path / "half", half=True)


def test_the_package_safetensors_reads_a_shard(tables: Path, shards: Path) -> None:
    content = load_file(shards / "boxes-00001.safetensors")
    images = json.loads(content["ids"].tobytes())
    first = FeatureFolder.open(tables).find(images[0])
    assert np.array_equal(content["boxes"][: content["box_starts"][1]], source_of(first).detections().boxes)


names = st.text(st.characters(exclude_categories=("Cs",)))
ids = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=("Cs",)), min_size=1).filter(
    lambda t: t.strip() == t
)


@settings(max_examples=25, deadline=None)
@given(
    ids=st.lists(ids, min_size=1, max_size=5, unique=True),
    names=st.lists(names, max_size=4),
    size=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_whatever_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], names: list[str], size: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    written = []
    for image in ids:
        boxes = random.normal(size=(random.integers(0, 4), 9)).astype(np.float32)
        rects = random.normal(size=(len(names), 4)).astype(np.float32) if names and random.random() < 0.5 else None
        written.append(Detections(image, boxes, Objects(tuple(names), 480.0, 640.0, rects)))
    folder = write(written, tmp_path_factory.mktemp("shards") / "out", shard_bytes=size * 9)
    assert all(map(same, detections_of(folder), written))


@pytest.mark.slow
def test_many_threads_and_another_process_read_the_same(shards: Path) -> None:
    sources = [source_of(ShardFolder.open(shards).find(image)) for image in ShardFolder.open(shards).images()]
    expected = [source.detections().boxes for source in sources]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: sources[number % 7].detections().boxes, range(700)))
    assert all(np.array_equal(boxes, expected[number % 7]) for number, boxes in enumerate(found))
    (shards / "source.pickle").write_bytes(pickle.dumps(sources[3]))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).detections().boxes.tobytes().hex())"
    read = [sys.executable, "-c", code, str(shards / "source.pickle")]
    assert bytes.fromhex(subprocess.check_output(read, text=True)) == expected[3].tobytes()


def test_sound_shards_have_no_problems_and_tell_their_order_of_width_and_height(shards: Path) -> None:
    orders: Counter[GeometryOrder] = Counter()
    seen: list[tuple[int, int]] = []
    assert not list(check_folder(shards, NUMBERS, lambda done, total: seen.append((done, total)), orders))
    assert orders.total() == len(COUNTS)
    assert seen[-1] == (sum(path.stat().st_size for path in shards.glob("*.safetensors")),) * 2


def test_a_folder_that_is_not_finished_is_refused(shards: Path) -> None:
    (shards / "shards.json").unlink()
    with pytest.raises(DataError, match=r"has no shards.json, so its conversion is not finished; give the same command again"):
        open_features(shards)
    assert [kind for kind, *_ in problems(shards)] == ["missing file"]


def test_a_missing_shard_is_named(shards: Path) -> None:
    (shards / "boxes-00001.safetensors").unlink()
    with pytest.raises(DataError, match=r"boxes-00001.safetensors cannot be read: No such file"):
        open_features(shards)
    assert problems(shards) == [("missing file", "boxes-00001.safetensors", None)]


@pytest.mark.parametrize("left", [0, 5, 40, 300, -1])
def test_a_truncated_shard_is_named_when_the_folder_is_opened(shards: Path, left: int) -> None:
    shard = shards / "boxes-00001.safetensors"
    size = shard.stat().st_size
    os.truncate(shard, left if left >= 0 else size + left)
    with pytest.raises(DataError, match=rf"boxes-00001.safetensors has [0-9,]+ bytes where {size:,} were expected"):
        open_features(shards)
    assert problems(shards) == [("damaged shard", "boxes-00001.safetensors", None)]


def test_a_shard_that_is_truncated_while_it_is_read_is_a_sentence(shards: Path) -> None:
    source = source_of(ShardFolder.open(shards).find("100"))
    source.detections()
    os.truncate(shards / "boxes-00000.safetensors", 700)
    with pytest.raises(DataError, match=r"boxes-00000.safetensors"):
        source.detections()


def test_a_shard_that_was_written_anew_is_not_mistaken(shards: Path, tmp_path: Path) -> None:
    source = source_of(ShardFolder.open(shards).find("107"))
    source.detections()
    other = write_shards(write_features(tmp_path / "others", random_images([2] * 7, seed=5)[1:]), tmp_path / "other")
    (other / "boxes-00000.safetensors").replace(shards / "boxes-00000.safetensors")
    with pytest.raises(DataError, match=r"boxes-00000.safetensors was changed since it was opened: image 107 is not there"):
        source.detections()


@pytest.mark.parametrize("place", [-1, -30, 8, 60, 800])
def test_any_byte_that_changed_is_seen_by_a_check(shards: Path, place: int) -> None:
    shard = shards / "boxes-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(bytes(content))
    kinds = {(kind, file) for kind, file, _ in problems(shards)}
    assert ("damaged shard", "boxes-00000.safetensors") in kinds


def test_a_list_that_says_otherwise_than_the_shards_is_seen(shards: Path) -> None:
    listed = json.loads((shards / "shards.json").read_text())
    dropped = listed["shards"][2]["images"].pop()
    listed["shards"][0]["images"].append("100")
    (shards / "shards.json").write_text(json.dumps(listed))
    assert ("wrong row", "boxes-00002.safetensors", None) in problems(shards)
    assert open_features(shards).find(dropped) is None
    listed["shards"].pop()
    (shards / "shards.json").write_text(json.dumps(listed))
    assert ("wrong row", "boxes-00002.safetensors", None) in problems(shards)


ESCAPING = json.dumps({"format": "aladin-shards-1", "shards": [{"file": "../a", "bytes": 1, "images": []}]})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other", "shards": []}', ESCAPING])
def test_a_list_that_is_none_is_refused(shards: Path, content: str) -> None:
    (shards / "shards.json").write_text(content)
    with pytest.raises(DataError, match=r"shards.json is no list of aladin-shards-1; delete it and convert"):
        open_features(shards)
    assert [kind for kind, *_ in problems(shards)] == ["missing file"]


def test_boxes_of_another_detector_are_named(shards: Path) -> None:
    with pytest.raises(DataError, match=r"boxes-00000.safetensors, image 100: 14 numbers a box; expected 2,054"):
        source_of(open_features(shards).find("100")).detections(2054)
    assert {problem.kind for problem in check_folder(shards, 20)} == {"wrong size"}


class DiskIsFull(OSError):
    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "No space left on device")


def test_after_a_full_disk_the_same_goes_on_behind_the_whole_shards(
    tables: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def fsync(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise DiskIsFull

    out = tmp_path / "full"
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(DataError, match=r"boxes-00001.safetensors cannot be written: No space left on device; make room and"):
        write_shards(tables, out)
    assert sorted(path.name for path in out.iterdir()) == ["boxes-00000.safetensors"]
    finish(tables, out)
    assert contents(out) == contents(shards)


def finish(tables: Path, out: Path) -> int:
    """Goes on with a begun conversion; how many images were there."""
    with ShardWriter(out, shard_bytes=6 * BOX) as writer:
        begun = writer.begun
        found = detections_of(tables)
        if begun:
            writer.check_last(found[len(begun) - 1])
        for detections in found[len(begun) :]:
            writer.add(detections)
    return len(begun)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_image_that_ends_the_writing_leaves_whole_shards_only(tables: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = detections_of(tables)
    with pytest.raises(DataError, match="image 107 is there twice"):
        write([*found[:4], found[1]], out)
    assert sorted(path.name for path in out.iterdir()) == ["boxes-00000.safetensors"]
    assert finish(tables, out) == 3
    assert contents(out) == contents(shards)


def test_a_begun_folder_goes_on_only_as_it_was_begun(tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_shards(tables, out)
    with pytest.raises(DataError, match=r"has a shards.json already; give another folder or delete that one"):
        ShardWriter(out)
    (out / "shards.json").unlink()
    with pytest.raises(DataError, match=r"boxes-00000.safetensors was begun with boxes of 14 numbers in float32, not"):
        ShardWriter(out, half=True)
    others = write_features(tmp_path / "others", random_images(COUNTS, seed=9))
    (out / "boxes-00002.safetensors").unlink()
    with pytest.raises(DataError, match="was begun from other features; give another folder or delete that one"):
        finish(others, out)
    content = bytearray((out / "boxes-00001.safetensors").read_bytes())
    content[800] ^= 1
    (out / "boxes-00001.safetensors").write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"boxes-00001.safetensors does not hold what was written; check the disk"):
        ShardWriter(out)


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_conversion_that_is_ended_at_any_moment_goes_on_to_the_same_shards(tmp_path: Path, end: signal.Signals) -> None:
    tables = write_features(tmp_path / "tables", random_images([30] * 200, numbers=1030))
    command = [sys.executable, "-m", "aladin", "features", "convert", str(tables), "OUT", "--to", "shards", "--shard-size", "1"]

    def convert(out: Path) -> subprocess.Popen[bytes]:
        asked = [str(out) if word == "OUT" else word for word in command]
        return subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    whole, ended = tmp_path / "whole", tmp_path / "ended"
    _, errors = convert(whole).communicate(timeout=60)
    assert errors == b""
    interrupted = 0
    for attempt in range(60):
        running = convert(ended)
        shards = len(list(ended.glob("*.safetensors")))
        deadline = time.monotonic() + 30
        while running.poll() is None and len(list(ended.glob("*.safetensors"))) < shards + 3 and time.monotonic() < deadline:
            time.sleep(0.001 * (attempt % 3))
        running.send_signal(end)
        _, errors = running.communicate(timeout=60)
        assert b"Traceback" not in errors
        if (ended / "shards.json").exists():
            break
        interrupted += 1
    assert interrupted >= 2
    assert contents(whole) == contents(ended)


def test_two_that_write_one_folder_at_once_do_no_harm(tables: Path, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, other = ShardWriter(out, shard_bytes=6 * BOX), ShardWriter(out, shard_bytes=6 * BOX)
    with one, other:
        for detections in detections_of(tables):
            one.add(detections)
            other.add(detections)
    assert contents(out) == contents(shards)
