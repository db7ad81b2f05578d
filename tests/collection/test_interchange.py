"""Collections to other tools' files and back."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import aladin.collection.interchange
from aladin.collection.indexing import index_folder
from aladin.collection.interchange import export_clip_retrieval, export_coco, import_clip_retrieval, import_coco
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.datasets import read_dataset
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder
from aladin.errors import DataError, IndexMismatch
from aladin.search.coco import hits_as_coco
from aladin.search.query import Query, TextPart
from aladin.search.search import SearchConfig, Searcher
from tests.conftest import paint, stored
from tests.tiny_model import COLOURS, DIM, GRID, TOKEN_DIM


@pytest.fixture
def place(photos: Path, encoder: Encoder) -> Path:
    paint(photos / os.fsdecode(b"\xff odd.png"), "red", "blue", seed=33)
    (photos / "red.png.json").write_text('{"place": "sea"}')
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        with collection.transaction():
            collection.describe("blue.png", {"captions": ["a blue picture", "the sky"]})
    return default_file(photos)


@pytest.mark.slow
@pytest.mark.parametrize("part_rows", [1, 3, 100_000])
def test_an_export_has_clip_retrieval_s_layout_and_comes_back_whole(
    place: Path, photos: Path, tmp_path: Path, encoder: Encoder, part_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aladin.collection.interchange, "PART_ROWS", part_rows)
    out, other = tmp_path / "out", tmp_path / "other.sqlite"
    with Collection.open(place) as collection:
        assert export_clip_retrieval(collection, out) == len(COLOURS) + 1
        before = stored(collection)
        facts = {row.path: (row.metadata, row.mtime_ns) for row in collection.images()}
        vectors = np.concatenate([vectors for _, vectors in collection.vector_blocks()])
    parts = -(-(len(COLOURS) + 1) // part_rows)
    assert sorted(path.name for path in (out / "img_emb").iterdir()) == sorted(f"img_emb_{n}.npy" for n in range(parts))
    exported = np.concatenate([np.load(out / "img_emb" / f"img_emb_{n}.npy") for n in range(parts)])
    np.testing.assert_array_equal(exported, vectors)
    tables = [pyarrow.parquet.read_table(out / "metadata" / f"metadata_{n}.parquet") for n in range(parts)]
    table = pyarrow.concat_tables(tables).to_pylist()
    assert [row["path"] for row in table] == sorted(os.fsencode(path) for path in before)
    assert {row["image_path"]: row["caption"] for row in table}[str(photos / "blue.png")] == "a blue picture"
    assert np.load(out / "tokens" / "tokens_0.npy").shape[1:] == (GRID**2, TOKEN_DIM)
    with CollectionWriter.create(other, photos) as collection:
        found = import_clip_retrieval(collection, out, encoder.model)
        assert (found.encoded, found.described, found.outside) == (len(COLOURS) + 1, 0, 0)
        assert stored(collection) == before
        assert {row.path: (row.metadata, row.mtime_ns) for row in collection.images()} == facts
        assert index_folder(collection, encoder).unchanged == len(COLOURS) + 1
    assert verify(other).whole


def test_an_export_without_tokens_brings_paths_and_captions_back(
    place: Path, photos: Path, tmp_path: Path, encoder: Encoder
) -> None:
    out = tmp_path / "out"
    with Collection.open(place) as collection:
        export_clip_retrieval(collection, out, with_tokens=False)
    assert not (out / "tokens").exists()
    with CollectionWriter.create(tmp_path / "other.sqlite", photos) as collection:
        assert import_clip_retrieval(collection, out, encoder.model).described == len(COLOURS) + 1
        assert index_folder(collection, encoder).updated == len(COLOURS) + 1


def test_what_clip_retrieval_wrote_brings_captions_and_is_then_encoded(photos: Path, tmp_path: Path, encoder: Encoder) -> None:
    out = tmp_path / "clip"
    (out / "metadata").mkdir(parents=True)
    (out / "img_emb").mkdir()
    np.save(out / "img_emb" / "img_emb_0.npy", np.ones((3, 512), np.float16))
    paths = [str(photos / "red.png"), "blue.png", "/elsewhere/x.png"]
    table = pyarrow.table({"image_path": paths, "caption": ["one", "two", "three"], "width": [1, 2, 3]})
    pyarrow.parquet.write_table(table, out / "metadata" / "metadata_0.parquet")
    with CollectionWriter.create(default_file(photos), photos) as collection:
        found = import_clip_retrieval(collection, out, encoder.model)
        assert (found.encoded, found.described, found.outside) == (0, 2, 1)
        index_folder(collection, encoder)
        assert {row.path: row.metadata.get("caption") for row in collection.images("ok")} == {
            f"{name}.png": {"red": "one", "blue": "two"}.get(name) for name in COLOURS
        }


def test_an_export_of_another_model_is_refused(place: Path, photos: Path, tmp_path: Path, other_model_path: Path) -> None:
    with Collection.open(place) as collection:
        export_clip_retrieval(collection, tmp_path / "out")
    with (
        CollectionWriter.create(tmp_path / "other.sqlite", photos) as collection,
        pytest.raises(IndexMismatch, match="was exported with model colours, this is other-colours"),
    ):
        import_clip_retrieval(collection, tmp_path / "out", ModelFolder.open(other_model_path))


def test_an_export_never_overwrites_and_leaves_no_half(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with Collection.open(place) as collection:
        with pytest.raises(DataError, match="is there already"):
            export_clip_retrieval(collection, tmp_path / "there")

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(aladin.collection.interchange._Array, "append", full)
        with pytest.raises(DataError, match="cannot be written: No space left on device"):
            export_clip_retrieval(collection, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == []


@pytest.mark.parametrize("name", ["img_emb/img_emb_0.npy", "metadata/metadata_0.parquet", "tokens/scales_0.npy", "aladin.json"])
def test_a_damaged_export_is_one_sentence(place: Path, photos: Path, tmp_path: Path, encoder: Encoder, name: str) -> None:
    out = tmp_path / "out"
    with Collection.open(place) as collection:
        export_clip_retrieval(collection, out)
    (out / name).write_bytes(b"damaged")
    with (
        CollectionWriter.create(tmp_path / "other.sqlite", photos) as collection,
        pytest.raises(DataError, match="cannot be read"),
    ):
        import_clip_retrieval(collection, out, encoder.model)


def test_pickled_arrays_are_refused(place: Path, photos: Path, tmp_path: Path, encoder: Encoder) -> None:
    out = tmp_path / "out"
    with Collection.open(place) as collection:
        export_clip_retrieval(collection, out)
    np.save(out / "img_emb" / "img_emb_0.npy", np.array([{}] * 7, dtype=object), allow_pickle=True)
    with (
        CollectionWriter.create(tmp_path / "other.sqlite", photos) as collection,
        pytest.raises(DataError, match="cannot be read"),
    ):
        import_clip_retrieval(collection, out, encoder.model)


def test_coco_has_every_image_and_caption_and_captions_come_back(
    place: Path, photos: Path, tmp_path: Path, encoder: Encoder
) -> None:
    out = tmp_path / "captions.json"
    with Collection.open(place) as collection:
        assert export_coco(collection, out) == len(COLOURS) + 1
    content = json.loads(out.read_text())
    by_id = {image["id"]: image for image in content["images"]}
    assert {os.fsencode(image["file_name"]) for image in by_id.values()} == {
        b"\xff odd.png", *(f"{name}.png".encode() for name in COLOURS),
    }  # fmt: skip
    assert [(by_id[a["image_id"]]["file_name"], a["caption"]) for a in content["annotations"]] == [
        ("blue.png", "a blue picture"), ("blue.png", "the sky"),
    ]  # fmt: skip
    with CollectionWriter.create(tmp_path / "other.sqlite", photos) as collection:
        index_folder(collection, encoder)
        found = import_coco(collection, out)
        assert (found.encoded, found.described, found.outside) == (0, len(COLOURS) + 1, 0)
        row = collection.row_at("blue.png")
        assert row is not None
        assert (row.status, row.metadata["captions"]) == ("ok", ["a blue picture", "the sky"])
        assert next(collection.vector_blocks())[1].shape[1] == DIM


def test_hits_as_coco_are_read_by_our_readers_and_laid_out_as_pycocotools_expects(
    place: Path, photos: Path, tmp_path: Path, encoder: Encoder
) -> None:
    with Collection.open(place) as collection:
        hits = Searcher(collection, encoder).search(Query((TextPart("red"),)), SearchConfig(top=3)).hits
    path = tmp_path / "hits.json"
    path.write_text(json.dumps(hits_as_coco("red", hits)))
    content = json.loads(path.read_text())
    # What COCO.createIndex and COCO.loadRes of pycocotools use of a captions file.
    images = {image["id"]: image for image in content["images"]}
    by_image = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    assert images.keys() == by_image.keys() == {hit.id for hit in hits}
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(hits)
    assert all({"id", "file_name", "width", "height"} <= image.keys() for image in images.values())
    dataset = read_dataset(path, images=photos)
    assert {example.id: example.captions for example in dataset.examples} == {hit.path: ("red",) for hit in hits}
    with CollectionWriter.create(tmp_path / "other.sqlite", photos) as other:
        assert import_coco(other, path).described == 3
        assert {row.path for row in other.images() if row.metadata == {"captions": ["red"]}} == {hit.path for hit in hits}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value: line 1 column 1"),
        (b"[]", "it holds a list, expected an object"),
        (b"null", "it holds nothing, expected an object"),
        (b"{}", "it has no images, expected a list of them; give another file"),
        (b'{"images": 3}', "its images are a number, expected a list of them"),
        (b'{"images": [3]}', "number 1 of its images is a number; mend the file"),
        (b'{"images": [{"id": 1, "file_name": 3}]}', "number 1 of its images has as file_name a number, expected text"),
        (b'{"images": [{"id": [1], "file_name": "a"}]}', "has as id a list, expected a number or text"),
        (b'{"images": [], "annotations": null}', "its annotations are nothing, expected a list of them"),
        (
            b'{"images": [], "annotations": [{"image_id": 9}]}',
            "number 1 of its annotations has no caption, expected text; mend it",
        ),
        (b"caf\xe9 " * 1000, "its byte 3 is not UTF-8; give another file"),
        (b"[" * 100_000, "its brackets lie too deep"),
    ],
)
def test_what_is_no_coco_json_is_refused_in_a_short_sentence(
    photos: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with CollectionWriter.create(default_file(photos), photos) as collection, pytest.raises(DataError) as refused:
        import_coco(collection, path)
    said = str(refused.value).removeprefix(str(path))
    assert said.startswith(" is no COCO JSON")
    assert message in said
    assert len(said) < 200


def test_captions_of_images_that_a_coco_json_does_not_list_are_left_out_and_counted(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    annotations = [{"image_id": number, "caption": f"text {number}"} for number in (1, 9, "9", 1)]
    path.write_text("\ufeff" + json.dumps({"images": [{"id": 1, "file_name": "red.png"}], "annotations": annotations}))
    with CollectionWriter.create(default_file(photos), photos) as collection:
        found = import_coco(collection, path)
        assert (found.described, found.outside, found.unknown) == (1, 0, 2)
        assert [row.metadata for row in collection.images()] == [{"captions": ["text 1"]}]


def test_a_coco_json_replaces_one_of_ours_and_nothing_else(photos: Path, encoder: Encoder, tmp_path: Path) -> None:
    out, photograph = tmp_path / "out.json", photos / "red.png"
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
        for _ in range(2):
            assert export_coco(collection, out) == len(COLOURS)
        for path in (photograph, collection.path):
            before = path.read_bytes()
            with pytest.raises(DataError, match="was not written by this command"):
                export_coco(collection, path)
            assert path.read_bytes() == before
    assert {left.name for left in tmp_path.iterdir()} == {photos.name, "out.json"}
