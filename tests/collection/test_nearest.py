import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import aladin.collection.nearest
import aladin.collection.sqlite
from aladin.collection.cache import cache_folder
from aladin.collection.nearest import NearestImages
from aladin.collection.sqlite import Collection
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from tests.conftest import fill
from tests.tiny_model import DIM

ROWS = 600


@pytest.fixture
def rows(encoder: Encoder, tmp_path: Path) -> Iterator[CollectionWriter]:
    with CollectionWriter.create(tmp_path / "rows.sqlite", tmp_path) as collection:
        fill(collection, encoder.model, ROWS)
        yield collection


@pytest.fixture
def coded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are made from 100 images on, in few cells, as for a large collection."""
    monkeypatch.setattr(aladin.collection.nearest, "EXACT_ROWS", 100)
    monkeypatch.setattr(aladin.collection.nearest, "CELLS", 4)
    monkeypatch.setattr(aladin.collection.nearest, "PROBES", 4)
    monkeypatch.setattr(aladin.collection.nearest, "CANDIDATES", ROWS)  # codes of six dimensions tell little


def asked(seed: int = 0) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def full_sort(collection: Collection, vector: np.ndarray) -> list[int]:
    blocks = list(collection.vector_blocks())
    ids = np.concatenate([ids for ids, _ in blocks])
    scores = np.concatenate([vectors for _, vectors in blocks]).astype(np.float64) @ vector
    return [int(number) for number in ids[np.lexsort((ids, -scores))]]


def code_files(collection: Collection) -> list[str]:
    return sorted(file.name for file in cache_folder(collection.path).glob("*"))


# Every vector compared.


@pytest.mark.parametrize("count", [1, 7, ROWS, ROWS + 30])
def test_the_nearest_are_those_of_a_full_sort(rows: CollectionWriter, count: int) -> None:
    found = NearestImages(rows).find(asked(), count)
    assert found.ids.tolist() == full_sort(rows, asked())[:count]
    assert (np.diff(found.scores) <= 0).all()
    assert found.searched == ROWS


@pytest.mark.parametrize("block", [1, 77, ROWS])
def test_block_size_does_not_change_the_nearest(rows: CollectionWriter, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NearestImages(rows).find(asked(), 20)
    monkeypatch.setattr(aladin.collection.sqlite, "BLOCK_ROWS", block)
    found = NearestImages(rows).find(asked(), 20)
    assert_array_equal(found.ids, whole.ids)
    assert_array_equal(found.scores, whole.scores)


@pytest.mark.parametrize("form", ["exact", "coded"])
@given(seed=st.integers(0, 100), allowed=st.sets(st.integers(1, ROWS + 9)), excluded=st.frozensets(st.integers(1, ROWS + 9)))
@settings(max_examples=20)
def test_conditions_and_exclusions_hold(
    tmp_path_factory: pytest.TempPathFactory,
    model_path: Path,
    form: str,
    seed: int,
    allowed: set[int],
    excluded: frozenset[int],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if form == "coded":
            patch.setattr(aladin.collection.nearest, "EXACT_ROWS", 10)
            patch.setattr(aladin.collection.nearest, "CELLS", 4)
            patch.setattr(aladin.collection.nearest, "CANDIDATES", ROWS)
        images = shared_images(tmp_path_factory, model_path, form)
        collection = images._collection
        meeting = np.array(sorted(number for number in allowed if number <= ROWS), dtype=np.int64)
        found = images.find(asked(seed), 10, meeting, excluded)
        expected = [n for n in full_sort(collection, asked(seed)) if n in allowed and n not in excluded]
        assert found.ids.tolist() == expected[:10]
        assert found.searched == len(expected)
        everywhere = images.find(asked(seed), 10, None, excluded)
        assert everywhere.ids.tolist() == [n for n in full_sort(collection, asked(seed)) if n not in excluded][:10]
        assert everywhere.searched == ROWS - sum(number <= ROWS for number in excluded)


SHARED: dict[str, NearestImages] = {}


def shared_images(folders: pytest.TempPathFactory, model_path: Path, form: str) -> NearestImages:
    """One collection for all examples of a property; nobody changes it."""
    if form not in SHARED:
        folder = folders.mktemp(form)
        collection = CollectionWriter.create(folder / "rows.sqlite", folder)
        fill(collection, ModelFolder.open(model_path), ROWS)
        SHARED[form] = NearestImages(collection)
    return SHARED[form]


# By codes.


@pytest.mark.usefixtures("coded")
def test_codes_find_what_a_full_sort_finds(rows: CollectionWriter) -> None:
    images = NearestImages(rows)
    for seed in range(20):
        found = images.find(asked(seed), 10)
        assert found.ids.tolist() == full_sort(rows, asked(seed))[:10]
        assert found.searched == ROWS
    assert code_files(rows) == [f"nearest-{rows.generation}.npz"]


@pytest.mark.usefixtures("coded")
def test_a_new_process_reads_the_codes_that_are_there(rows: CollectionWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    built = NearestImages(rows).find(asked(), 10)

    def never(*arguments: object) -> None:
        raise AssertionError("codes were built again")

    monkeypatch.setattr(aladin.collection.nearest._Codes, "build", never)
    read = NearestImages(rows).find(asked(), 10)
    assert_array_equal(read.ids, built.ids)
    assert_array_equal(read.scores, built.scores)


@pytest.mark.usefixtures("coded")
def test_images_added_later_are_found_at_once(rows: CollectionWriter, encoder: Encoder) -> None:
    images = NearestImages(rows)
    images.find(asked(), 10)
    before = code_files(rows)
    fill(rows, encoder.model, 5, seed=1)
    for fresh in (images, NearestImages(rows)):
        assert fresh.find(asked(), 10).searched == ROWS + 5
        for seed in range(20):
            assert fresh.find(asked(seed), 10).ids.tolist() == full_sort(rows, asked(seed))[:10]
    assert code_files(rows) == before


@pytest.mark.usefixtures("coded")
def test_many_new_codes_are_kept_for_the_next_process(
    rows: CollectionWriter, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = NearestImages(rows)
    images.find(asked(), 10)
    monkeypatch.setattr(aladin.collection.nearest._Codes, "build", None)
    for seed in range(1, 4):
        fill(rows, encoder.model, 90, seed=seed)
        with rows.transaction():
            rows.change("reason = NULL", "id % 20 = 0")
        for fresh in (images, NearestImages(rows)):
            assert fresh.find(asked(), 10).ids.tolist() == full_sort(rows, asked())[:10]
            assert fresh.find(asked(), 10).searched == ROWS + 90 * seed
        assert code_files(rows) == [f"nearest-{rows.generation}.npz"]


@pytest.mark.usefixtures("coded")
@pytest.mark.parametrize("change", ["grown", "shrunk", "touched"])
def test_cells_are_found_again_when_much_has_changed(
    rows: CollectionWriter, encoder: Encoder, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = NearestImages(rows)
    images.find(asked(), 10)
    if change == "grown":
        fill(rows, encoder.model, ROWS + 1, seed=1)
    elif change == "shrunk":
        with rows.transaction():
            rows.change("status = 'offline'", f"id > {ROWS // 2 - 1}")
    else:
        with rows.transaction():
            rows.change("reason = NULL", "TRUE")
        images.find(asked(), 10)
        with rows.transaction():
            rows.change("reason = NULL", "TRUE")
    expected = full_sort(rows, asked())
    assert images.find(asked(), 10).ids.tolist() == expected[:10]
    with np.load(cache_folder(rows.path) / f"nearest-{rows.generation}.npz") as stored:
        assert json.loads(stored["header"].tobytes())["trained_on"] == len(rows) == len(stored["ids"])


@pytest.mark.usefixtures("coded")
@pytest.mark.parametrize("how", ["offline", "forgotten", "removed"])
def test_images_that_are_gone_are_never_found(rows: CollectionWriter, how: str) -> None:
    images = NearestImages(rows)
    gone = images.find(asked(), 50).ids.tolist()
    with rows.transaction():
        if how == "removed":
            rows.remove(gone)
        else:
            rows.change("status = 'offline'", f"id IN ({', '.join(map(str, gone))})")
    if how == "forgotten":
        rows.forget_offline()
    for fresh in (images, NearestImages(rows)):
        found = fresh.find(asked(), 10)
        assert found.ids.tolist() == full_sort(rows, asked())[:10]
        assert not set(found.ids.tolist()) & set(gone)
        assert found.searched == ROWS - 50


@pytest.mark.usefixtures("coded")
def test_forgotten_images_leave_no_hit_short(rows: CollectionWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aladin.collection.nearest, "CANDIDATES", 2)
    images = NearestImages(rows)
    images.find(asked(), 1)
    with rows.transaction():
        rows.database.execute("DELETE FROM images WHERE id > 120")
    assert images.find(asked(), 110).ids.tolist() == full_sort(rows, asked())[:110]


@pytest.mark.usefixtures("coded")
def test_a_changed_image_is_compared_as_it_is_now(rows: CollectionWriter) -> None:
    images = NearestImages(rows)
    images.find(asked(), 1)
    with rows.transaction():
        rows._put_blob("vectors", 7, asked(5).astype("<f2").tobytes())
        rows.change("reason = NULL", "id = 7")
    found = images.find(asked(5), 1)
    assert found.ids.tolist() == [7]
    assert_allclose(found.scores, [1], atol=1e-3)


@pytest.mark.usefixtures("coded")
@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "foreign", "future"])
def test_a_file_of_codes_that_cannot_be_trusted_is_made_again(rows: CollectionWriter, damage: str) -> None:
    NearestImages(rows).find(asked(), 10)
    (file,) = cache_folder(rows.path).iterdir()
    content = file.read_bytes()
    if damage == "foreign":  # as of a collection that was deleted and made anew
        with np.load(file) as stored:
            header = json.loads(stored["header"].tobytes())
            header["checked"] = {number: checksum ^ 1 for number, checksum in header["checked"].items()}
            arrays = {name: stored[name] for name in ("ids", "codes")}
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)
    elif damage == "future":
        file.rename(file.with_name("nearest-999.npz"))
        with rows.transaction():
            rows.database.set("generation", 0)
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        file.write_bytes({"cut": content[:middle], "flipped": flipped, "emptied": b""}[damage])
    images = NearestImages(rows)
    assert images.find(asked(), 10).ids.tolist() == full_sort(rows, asked())[:10]
    (made,) = cache_folder(rows.path).iterdir()
    with np.load(made) as stored:
        assert json.loads(stored["header"].tobytes())["generation"] == rows.generation


@pytest.mark.usefixtures("coded")
def test_without_a_place_for_the_codes_there_are_still_hits(rows: CollectionWriter) -> None:
    cache_folder(rows.path).write_text("in the way")
    assert NearestImages(rows).find(asked(), 10).ids.tolist() == full_sort(rows, asked())[:10]


@pytest.mark.usefixtures("coded")
def test_progress_counts_the_vectors_that_are_read(rows: CollectionWriter) -> None:
    told: list[tuple[int, int]] = []
    NearestImages(rows, lambda done, total: told.append((done, total))).find(asked(), 1)
    assert told[-1] == (ROWS, ROWS)


def test_small_collections_never_load_faiss(rows: CollectionWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aladin.collection.nearest, "_faiss", None)
    NearestImages(rows).find(asked(), 10)
    assert code_files(rows) == []


# At a size where codes are in earnest: Q4.


def clustered(rows: int, dim: int, seed: int) -> np.ndarray:
    """Vectors in clumps around the same few directions whatever the seed, as those of photographs are."""
    centres = np.random.default_rng(9).normal(size=(200, dim)) * np.linspace(1.5, 0.05, dim)  # most variance in few dimensions
    random = np.random.default_rng(seed)
    vectors = centres[random.integers(0, 200, rows)] + random.normal(size=(rows, dim)) * np.linspace(0.9, 0.05, dim)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.slow
def test_codes_find_99_of_100_of_the_ten_nearest(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aladin.collection.nearest, "EXACT_ROWS", 5_000)
    vectors, queries = clustered(10_000, 128, 0), clustered(50, 128, 1)
    with CollectionWriter.create(tmp_path / "large.sqlite", tmp_path) as collection:
        add_vectors(collection, ModelFolder.open(model_path), vectors)
        images = NearestImages(collection)
        expected = np.argsort(-(vectors.astype(np.float16).astype(np.float32) @ queries.T), axis=0)[:10] + 1
        shares = [len(set(images.find(q, 100).ids[:10].tolist()) & set(expected[:, n].tolist())) for n, q in enumerate(queries)]
    assert np.mean(shares) / 10 >= 0.99


def add_vectors(collection: CollectionWriter, model: ModelFolder, vectors: np.ndarray) -> None:
    """Rows with a vector and nothing else of use: quicker than the writer's own way."""
    collection.use_model(model)
    with collection.transaction():
        for number, vector in enumerate(vectors.astype("<f2"), 1):
            collection.database.execute(
                "INSERT INTO images (id, path, size, mtime_ns, status, generation) VALUES (?, ?, 1, 1, 'ok', 1)",
                (number, os.fsencode(f"{number}.png")),
            )
            collection._put_blob("vectors", number, vector.tobytes())
