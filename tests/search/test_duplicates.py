import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image, ImageEnhance

import aladin.search.duplicates
import aladin.search.fingerprints
from aladin.cli import main
from aladin.collection.cache import cache_folder
from aladin.collection.indexing import index_folder
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.progress import SILENT
from aladin.search.duplicates import ALIKE_COSINE, LEVELS, Level, find_duplicates
from aladin.search.fingerprints import read_fingerprints
from tests.conftest import fill
from tests.search.test_fingerprints import picture
from tests.tiny_model import COLOURS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """An original with copies of all kinds, one that is alike, and two other pictures of other colours; all indexed."""
    folder = tmp_path_factory.mktemp("duplicates") / "photos"
    (folder / "copies").mkdir(parents=True)
    original = picture(1)
    original.save(folder / "original.png")
    shutil.copy(folder / "original.png", folder / "copies" / "copied.png")
    original.save(folder / "copies" / "saved.jpg", quality=30)
    original.resize((160, 120)).save(folder / "copies" / "small.png")
    ImageEnhance.Brightness(original).enhance(0.8).save(folder / "copies" / "dark.png")
    picture(2).save(folder / "alike.png")  # the model sees but colours
    picture(3, COLOURS["red"]).save(folder / "red.png")
    picture(4, COLOURS["blue"]).save(folder / "blue.png")
    with CollectionWriter.create(default_file(folder), folder) as collection:
        index_folder(collection, Encoder.load(model_path, threads=1))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """All that of one's own, with its collection."""
    return Path(shutil.copytree(made, tmp_path / "photos"))


@pytest.fixture
def indexed(folder: Path) -> Iterator[CollectionWriter]:
    with CollectionWriter.create(default_file(folder), folder) as collection:
        yield collection


def names(collection: Collection, level: Level) -> list[tuple[str, list[str]]]:
    groups = find_duplicates(collection, level).groups
    return [(group.level, [Path(row.path).stem for row in group.images]) for group in groups]


COPIES = ["copied", "dark", "original", "saved", "small"]


def test_each_level_includes_the_one_before(indexed: CollectionWriter) -> None:
    ((level, exact),) = names(indexed, "exact")
    assert (level, sorted(exact)) == ("exact", ["copied", "original"])
    ((level, same),) = names(indexed, "same")
    assert (level, sorted(same)) == ("same", COPIES)
    ((level, alike),) = names(indexed, "alike")
    assert (level, sorted(alike)) == ("alike", sorted([*COPIES, "alike"]))


def test_the_best_comes_first(indexed: CollectionWriter) -> None:
    (group,) = find_duplicates(indexed).groups
    keys = [(-(row.width or 0) * (row.height or 0), -row.size, row.id) for row in group.images]
    assert keys == sorted(keys)
    assert group.images[-1].path.endswith("small.png")


def test_an_empty_collection_has_none(tmp_path: Path) -> None:
    with CollectionWriter.create(tmp_path / "empty.sqlite", tmp_path) as collection:
        assert [find_duplicates(collection, level).groups for level in LEVELS] == [(), (), ()]


def test_without_a_fingerprint_only_content_and_vector_tell(tmp_path: Path, encoder: Encoder) -> None:
    for name in ("one.png", "two.bmp"):
        Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / name)
    with CollectionWriter.create(tmp_path / "c.sqlite", tmp_path) as collection:
        index_folder(collection, encoder)
        assert [len(find_duplicates(collection, level).groups) for level in LEVELS] == [0, 0, 1]


# Files that are not as they were.


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("change", ["written anew", "gone", "older", "touched"])
def test_a_file_that_changed_after_indexing_is_left_out_and_named(
    indexed: CollectionWriter, folder: Path, level: Level, change: str
) -> None:
    path = folder / "copies" / "copied.png"
    if change == "written anew":
        picture(9).save(path)
    elif change == "gone":
        path.unlink()
    else:
        os.utime(path, ns=(0, 1 if change == "older" else path.stat().st_mtime_ns + 1))
    found = find_duplicates(indexed, level)
    assert [row.path for row in found.changed] == ["copies/copied.png"]
    assert all(row.path != "copies/copied.png" for group in found.groups for row in group.images)


@pytest.mark.parametrize("name", ["original.png", "copies/copied.png"])
def test_a_change_that_size_and_time_hide_is_found_while_reading(indexed: CollectionWriter, folder: Path, name: str) -> None:
    before = (folder / name).stat()
    other = picture(9).resize((16, 12))
    other.save(folder / name)
    with (folder / name).open("ab") as file:
        file.write(bytes(before.st_size - file.tell()))
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = find_duplicates(indexed, "same")
    assert [row.path for row in found.changed] == [name]
    assert [len(group.images) for group in found.groups] == [len(COPIES) - 1]


def test_a_younger_sidecar_is_no_change(folder: Path, encoder: Encoder) -> None:
    sidecar = folder / "original.png.json"
    sidecar.write_text('{"title": "ours"}')
    os.utime(sidecar, ns=(2**61, 2**61))
    with CollectionWriter.create(default_file(folder), folder) as collection:
        index_folder(collection, encoder)
        assert find_duplicates(collection, "exact").changed == ()
        sidecar.unlink()
        assert [row.path for row in find_duplicates(collection, "exact").changed] == ["original.png"]


def test_a_file_that_cannot_be_read_now_is_compared_by_the_rest_and_named(
    indexed: CollectionWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aladin.search.fingerprints, "READ_SIZE", -1)  # every decoding fails
    found = find_duplicates(indexed, "same")
    assert len(found.unreadable) == 8
    assert [(group.level, len(group.images)) for group in found.groups] == [("exact", 2)]
    monkeypatch.undo()
    assert [len(group.images) for group in find_duplicates(indexed, "same").groups] == [5]


def test_images_whose_files_are_gone_are_no_copies(indexed: CollectionWriter, encoder: Encoder, folder: Path) -> None:
    (folder / "copies" / "dark.png").unlink()
    index_folder(indexed, encoder)
    found = find_duplicates(indexed, "same")
    assert (len(found.groups[0].images), found.changed) == (4, ())


# The cache of fingerprints.


def test_fingerprints_are_read_once(indexed: CollectionWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = names(indexed, "same")
    monkeypatch.setattr("aladin.pictures.decoding.Decoders.submit", None)
    assert names(indexed, "same") == expected
    assert len(read_fingerprints(indexed, list(indexed.images("ok"))).of_content) == 7


def test_what_was_read_before_an_interrupt_is_kept(indexed: CollectionWriter) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_duplicates(indexed, "same", interrupt)
    assert len(json.loads((cache_folder(indexed.path) / aladin.search.fingerprints.NAME).read_bytes())) == 3
    assert [len(images) for _, images in names(indexed, "same")] == [5]


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "b"}', '{"a": -1}', '{"a": []}', "\xff", "in the way"])
def test_a_cache_that_cannot_be_used_is_done_without(indexed: CollectionWriter, content: str) -> None:
    cache = cache_folder(indexed.path)
    if content == "in the way":
        cache.write_text(content)
    else:
        cache.mkdir()
        (cache / aladin.search.fingerprints.NAME).write_text(content, encoding="latin-1")
    assert [len(images) for _, images in names(indexed, "same")] == [len(COPIES)]


# What hangs together.


@given(rows=st.integers(1, 14), cells=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_labels_are_those_of_two_loops_whatever_the_block(rows: int, cells: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    # Few bits are ever set, so that many pairs are near; some contents occur twice.
    prints = [None if random.random() < 0.2 else int(random.integers(0, 2**14)) for _ in range(rows)]
    labels = np.sort(random.integers(0, rows, rows))
    labels = np.searchsorted(labels, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aladin.search.duplicates, "BLOCK_CELLS", cells)
        signs, everywhere = aladin.search.duplicates._signs(prints), np.arange(rows)
        links = aladin.search.duplicates._near([(signs, aladin.search.duplicates.LEAST_SIGNS), (vectors, 0.6)], SILENT)
        same = aladin.search.duplicates._joined(labels, everywhere, links)
        alike = aladin.search.duplicates._joined(
            same, everywhere, aladin.search.duplicates._near([(vectors, ALIKE_COSINE)], SILENT)
        )

    def is_same(a: int, b: int) -> bool:
        one, other = prints[a], prints[b]
        near = one is not None and other is not None and (one ^ other).bit_count() <= 10
        return labels[a] == labels[b] or (near and float(vectors[a] @ vectors[b]) >= 0.6)

    assert_array_equal(same, spread(rows, is_same))
    assert_array_equal(alike, spread(rows, lambda a, b: is_same(a, b) or float(vectors[a] @ vectors[b]) >= ALIKE_COSINE))


def spread(rows: int, linked: Callable[[int, int], bool]) -> np.ndarray:
    """For each row the lowest that it hangs together with, by going on until nothing changes."""
    labels = list(range(rows))
    changed = True
    while changed:
        changed = False
        for a in range(rows):
            for b in range(rows):
                if linked(a, b) and labels[a] < labels[b]:
                    labels[b], changed = labels[a], True
    return np.array(labels)


def test_thousands_of_copies_are_one_group_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aladin.search.duplicates, "BLOCK_CELLS", 2**17)
    everywhere = np.arange(2000)
    vectors = np.zeros((len(everywhere), 8), dtype=np.float32)
    vectors[:, 0] = 1
    tracemalloc.start()
    links = aladin.search.duplicates._near([(vectors, ALIKE_COSINE)], SILENT)
    labels = aladin.search.duplicates._joined(everywhere, everywhere, links)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not labels.any()
    assert peak < 2**21  # two million pairs, as pairs, are a hundred times that


def test_a_group_is_named_by_the_tightest_level_that_holds_it(encoder: Encoder, tmp_path: Path) -> None:
    with CollectionWriter.create(tmp_path / "c.sqlite", tmp_path) as collection:
        fill(collection, encoder.model, 6)
        rows = list(collection.images())
    labels = {"exact": np.array([0, 0, 2, 3, 4, 4]), "same": np.array([0, 0, 0, 3, 4, 4])}
    groups = aladin.search.duplicates._groups(rows, labels)
    assert [(group.level, [row.id for row in group.images]) for group in groups] == [("same", [1, 2, 3]), ("exact", [5, 6])]


# The command.


@pytest.fixture
def dupes(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., tuple[int, bytes, str]]:
    def run(*arguments: object) -> tuple[int, bytes, str]:
        with pytest.raises(SystemExit) as ended:
            main(["dupes", *map(str, arguments)])
        captured = capfdbinary.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err.decode()

    return run


@pytest.mark.usefixtures("indexed")
def test_dupes_lists_groups_and_deletes_nothing(dupes: Callable[..., tuple[int, bytes, str]], folder: Path) -> None:
    code, out, told = dupes(folder)
    lines = out.decode().splitlines()
    assert (code, lines[0], len(lines)) == (0, "same", 6)
    assert lines[1].startswith("  320 x 240\t")
    assert told.startswith("1 group; 4 images beside the first of each, 0.")
    answer = json.loads(dupes(folder, "--level", "exact", "--json", "-q")[1])
    assert sorted(Path(image["path"]).stem for image in answer["groups"][0]["images"]) == ["copied", "original"]
    assert (answer["level"], answer["changed"], answer["unreadable"]) == ("exact", [], [])
    others = [Path(os.fsdecode(path)).stem for path in dupes(folder, "-0", "-q")[1].split(b"\0")[:-1]]
    assert sorted(others) == sorted(set(COPIES) - {Path(lines[1].split("\t")[2]).stem})
    assert len(list(folder.rglob("*.png"))) + len(list(folder.rglob("*.jpg"))) == 8


@pytest.mark.usefixtures("indexed")
def test_dupes_ends_with_3_when_files_have_changed(dupes: Callable[..., tuple[int, bytes, str]], folder: Path) -> None:
    (folder / "copies" / "dark.png").unlink()
    code, out, told = dupes(folder, "--json")
    assert code == 3
    assert "dark.png\naladin: 1 of the images changed or gone since they were indexed, and left out; run `aladin index`" in told
    assert [Path(path).name for path in json.loads(out)["changed"]] == ["dark.png"]


def test_dupes_says_when_there_are_none_and_wants_an_index(
    dupes: Callable[..., tuple[int, bytes, str]], photos: Path, encoder: Encoder
) -> None:
    code, _, complaint = dupes(photos)
    assert (code, f"make one with `aladin index {photos}`" in complaint) == (1, True)
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
    assert dupes(photos, "--level", "exact")[::2] == (0, "aladin: no image is a copy of another\n")
    assert json.loads(dupes(photos, "--level", "exact", "--json")[1])["groups"] == []
    assert dupes(photos, "--level", "near")[0] == 2
    code, _, complaint = dupes(photos / "missing")
    assert (code, "does not exist" in complaint) == (1, True)
