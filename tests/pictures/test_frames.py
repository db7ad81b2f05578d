"""Files that hold several pictures, read for more than their first."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aladin.collection.formats import file_and_frame, stored_path
from aladin.collection.indexing import IndexReport, index_folder
from aladin.collection.interchange import export_clip_retrieval, import_clip_retrieval
from aladin.collection.repair import repair
from aladin.collection.salvage import salvage
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError
from aladin.pictures.boxes import Box
from aladin.pictures.decoding import Decoders
from aladin.pictures.fitting import Fitting
from aladin.pictures.frames import (
    chosen_frames,
    named_picture,
    picture_name,
)
from aladin.pictures.limits import MOST_FRAMES, DecodingLimits
from aladin.pictures.listing import FileState
from aladin.pictures.opening import further_pictures, open_with_size
from aladin.pictures.photographs import Decoded
from aladin.search.duplicates import find_duplicates
from aladin.search.encoding import encode_query
from aladin.search.explain import explain_file
from aladin.search.image_files import picture_at
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import SearchConfig, Searcher
from tests.cli.test_cli_collection import bare
from tests.cli.test_cli_search import Run, aladin
from tests.collection.test_indexing import CountingEncoder
from tests.conftest import paint
from tests.hostile_images import bombs
from tests.serving import client_of, config_of
from tests.tiny_model import COLOURS

__all__ = ["aladin", "bare"]  # the fixtures
SIZE = (32, 24)


CONFIG = IndexConfig(workers=1)


def colour_of(image: Image.Image) -> str:
    """The colour that it is nearest to."""
    mean = np.asarray(image).mean(axis=(0, 1)) / 255
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


def plain(colour: str, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new("RGB", size, tuple(round(255 * float(value)) for value in COLOURS[colour]))


def several(path: Path, *colours: str, kind: str = "GIF") -> Path:
    """A file with a picture of each colour."""
    path.parent.mkdir(exist_ok=True)
    first, *others = map(plain, colours)
    first.save(path, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))
    return path


@pytest.fixture
def encoder(model_path: Path) -> CountingEncoder:
    return CountingEncoder.load(model_path, threads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A film of red, green and blue, and a white photograph."""
    several(tmp_path / "photos" / "film.gif", "red", "green", "blue")
    return paint(tmp_path / "photos" / "white.png", "white").parent


def index(folder: Path, encoder: Encoder, frames: int = 0, **settings: object) -> IndexReport:
    with CollectionWriter.create(default_file(folder), folder) as collection:
        return index_folder(collection, encoder, IndexConfig(workers=1, frames=frames, **settings))  # type: ignore[arg-type]


def rows(folder: Path) -> dict[str, tuple[int, str]]:
    """The id and status of each picture, by its name."""
    with Collection.open(default_file(folder)) as collection:
        return {picture_name(row.path, row.frame): (row.id, row.status) for row in collection.images()}


def ids(folder: Path) -> dict[str, int]:
    return {name: number for name, (number, _) in rows(folder).items()}


def best(folder: Path, encoder: Encoder, text: str) -> tuple[str, int]:
    with Collection.open(default_file(folder)) as collection:
        hit = Searcher(collection, encoder).search(Query((TextPart(text),))).hits[0]
        return hit.path, hit.frame


# Names and numbers.


@pytest.mark.slow
@given(path=st.from_regex(r"[^/\0]{1,9}(/[^/\0]{1,9}){0,2}", fullmatch=True), frame=st.integers(0, 10**6))
def test_a_picture_s_name_and_its_path_in_an_export_tell_file_and_number(path: str, frame: int) -> None:
    path = os.fsdecode(path.encode("utf-8", "replace"))
    assert file_and_frame(stored_path(path, frame)) == (path, frame)
    if frame:
        assert named_picture(picture_name(path, frame)) == (path, frame)


def test_a_name_without_a_number_is_a_file_s() -> None:
    assert [named_picture(name) for name in ("a[1].gif", "a.gif[0]", "a.gif[x]", "[3]")] == [
        ("a[1].gif", 0), ("a.gif[0]", 0), ("a.gif[x]", 0), ("[3]", 0),
    ]  # fmt: skip


@given(count=st.integers(1, 3000), most=st.integers(1, MOST_FRAMES))
def test_the_first_is_chosen_and_the_others_lie_evenly(count: int, most: int) -> None:
    chosen = chosen_frames(count, most)
    assert chosen[0] == 0
    assert len(chosen) == min(count, most)
    steps = np.diff(chosen)
    assert (steps >= 1).all()
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_a_name_as_printed_means_the_picture_unless_a_file_is_called_so(folder: Path, encoder: CountingEncoder) -> None:
    index(folder, encoder, frames=3)
    name = folder / "film.gif[2]"
    with Collection.open(default_file(folder)) as collection:
        like = encode_query(Query((ImagePart(name),)), encoder, collection)
        stored = collection.vectors_of([ids(folder)["film.gif[2]"]])[0].astype(np.float32)
        assert like.excluded == {ids(folder)["film.gif[2]"]}
        assert float(like.vector @ stored) > 0.99
        assert picture_at(name) == (folder / "film.gif", 2)
        name.write_bytes((folder / "white.png").read_bytes())
        assert picture_at(name) == (name, 0)
        assert encode_query(Query((ImagePart(name),)), encoder, collection).excluded == frozenset()


# Decoding.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF", "HEIF"])
def test_all_pictures_of_a_file_are_read(tmp_path: Path, kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener(thumbnails=False)
    colours = ["red", "green", "blue", "white"][: 3 if kind == "MPO" else 4]  # of a fourth Pillow writes the wrong place
    data = several(tmp_path / "film", *colours, kind=kind).read_bytes()
    found = dict(further_pictures(data, 10))
    assert list(found) == list(range(1, len(colours)))
    for number, picture in found.items():
        assert picture.size == SIZE
        assert np.abs(np.asarray(picture, dtype=int) - np.asarray(plain(colours[number]), dtype=int)).max() < 12
        again, size = open_with_size(data, draft_size=4, frame=number)  # none but the first comes smaller
        assert np.array_equal(again, picture)
        assert size == SIZE
    assert [number for number, _ in further_pictures(data, 2)] == [len(colours) // 2]
    assert list(further_pictures(data, 1)) == []


def test_a_photograph_has_no_further_picture(tmp_path: Path) -> None:
    assert list(further_pictures(paint(tmp_path / "a.png", "red").read_bytes(), 10)) == []


def test_reduced_copies_are_left_out() -> None:
    mpo, tiff = io.BytesIO(), io.BytesIO()
    plain("red", (64, 48)).save(mpo, "MPO", save_all=True, append_images=[plain("red"), plain("blue", (64, 48))])
    assert [number for number, _ in further_pictures(mpo.getvalue(), 10)] == [2]
    small, page = plain("red"), plain("blue", (20, 20))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    plain("red", (64, 48)).save(tiff, "TIFF", save_all=True, append_images=[small, page])
    assert [picture.size for _, picture in further_pictures(tiff.getvalue(), 10)] == [(20, 20)]


def test_further_pictures_are_turned_as_the_first() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    plain("red").save(file, "WEBP", save_all=True, append_images=[plain("blue")], exif=exif.tobytes())
    assert [picture.size for _, picture in further_pictures(file.getvalue(), 10)] == [SIZE[::-1]]
    assert [open_with_size(file.getvalue(), frame=frame)[1] for frame in (0, 1)] == [SIZE[::-1]] * 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_a_cut_off_file_gives_the_pictures_before_the_cut(tmp_path: Path, kind: str) -> None:
    data = several(tmp_path / "film", "red", "green", "blue", "white", kind=kind).read_bytes()
    for share in np.arange(0.05, 1, 0.1):
        found = [number for number, _ in further_pictures(data[: int(len(data) * share)], 10)]
        assert found == [1, 2, 3][: len(found)]


@pytest.mark.slow
def test_pictures_that_need_too_much_memory_cost_no_more_than_themselves(tmp_path: Path) -> None:
    huge = Image.new("1", (11_000, 11_000))
    Image.new("1", (20, 20)).save(tmp_path / "a.tif", save_all=True, append_images=[huge], compression="group4")
    with Decoders(DecodingLimits(1, 60.0, 200), frames=10) as decoders:
        read = decoders.submit(tmp_path, FileState("a.tif", 1, 1), Fitting(16)).result()
    assert isinstance(read, Decoded)
    assert (read.photograph.width, len(read.further)) == (20, 0)


@pytest.mark.parametrize("name", ["frames.gif", "frames.webp"])
def test_of_65535_pictures_some_of_the_first_thousand_are_read(name: str) -> None:
    assert [number for number, _ in further_pictures(bombs()[name], 10)] == list(range(100, 1000, 100))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["os.abort()", "time.sleep(60)"])
def test_a_file_whose_further_pictures_break_the_decoder_is_read_for_its_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    breaking = "from aladin.pictures import decoding_worker as w; import os, time; real = w.answer\n"
    breaking += f"w.answer = lambda r: {what} if r['frames'] > 1 else real(r)\nw.main()"
    monkeypatch.setattr("aladin.pictures.decoding.WORKER", breaking)
    several(tmp_path / "film.gif", "red", "blue")
    with Decoders(DecodingLimits(1, 3.0, 512), frames=10) as decoders:
        read = decoders.submit(tmp_path, FileState("film.gif", 1, 1), Fitting(16)).result()
    assert isinstance(read, Decoded)
    assert (read.photograph.width, len(read.further)) == (32, 0)


# In a collection.


def test_only_the_first_picture_counts_until_more_are_asked_for(folder: Path, encoder: CountingEncoder) -> None:
    assert index(folder, encoder).added == 2
    assert list(rows(folder)) == ["film.gif", "white.png"]
    more = index(folder, encoder, frames=3)
    assert (more.added, more.updated, more.unchanged, encoder.encoded) == (2, 0, 2, 4)
    assert [best(folder, encoder, colour) for colour in ("red", "green", "blue")] == [
        ("film.gif", 0), ("film.gif", 1), ("film.gif", 2),
    ]  # fmt: skip
    encoder.encoded = 0
    again = index(folder, encoder)  # the collection knows that three are wanted
    assert (again.unchanged, again.added, again.offline, encoder.encoded) == (4, 0, 0, 0)


@pytest.mark.slow
def test_asking_for_fewer_forgets_the_others_and_for_as_many_again_restores_the_same(
    folder: Path, encoder: CountingEncoder
) -> None:
    index(folder, encoder, frames=3)
    first = ids(folder)
    index(folder, encoder, frames=2)
    assert ids(folder) == {name: first[name] for name in ("film.gif", "film.gif[1]", "white.png")}
    index(folder, encoder, frames=1)
    assert list(rows(folder)) == ["film.gif", "white.png"]
    index(folder, encoder, frames=3)
    assert set(ids(folder)) == set(first)
    assert best(folder, encoder, "blue") == ("film.gif", 2)


def test_a_moved_film_keeps_the_ids_of_all_its_pictures(folder: Path, encoder: CountingEncoder) -> None:
    index(folder, encoder, frames=3)
    before, encoder.encoded = ids(folder), 0
    (folder / "film.gif").rename(folder / "moved.gif")
    report = index(folder, encoder)
    assert (report.moved, report.added, report.offline, encoder.encoded) == (3, 0, 0, 0)
    assert ids(folder) == {name.replace("film", "moved"): number for name, number in before.items()}


def test_a_film_that_is_away_comes_back_with_all_its_pictures(folder: Path, encoder: CountingEncoder, tmp_path: Path) -> None:
    index(folder, encoder, frames=3)
    before, encoder.encoded = rows(folder), 0
    (folder / "film.gif").rename(tmp_path / "film.gif")
    assert index(folder, encoder).offline == 3
    (tmp_path / "film.gif").rename(folder / "film.gif")
    report = index(folder, encoder)
    assert (report.returned, report.unchanged, report.offline, encoder.encoded) == (3, 1, 0, 0)
    assert rows(folder) == before


@pytest.mark.slow
def test_a_film_that_changes_has_the_pictures_of_its_new_content(folder: Path, encoder: CountingEncoder) -> None:
    index(folder, encoder, frames=3)
    before = ids(folder)
    several(folder / "film.gif", "blue", "red")
    assert index(folder, encoder).updated == 2
    assert ids(folder) == {name: before[name] for name in ("film.gif", "film.gif[1]", "white.png")}
    assert best(folder, encoder, "red") == ("film.gif", 1)
    (folder / "film.gif").write_bytes(b"")
    index(folder, encoder)
    assert rows(folder)["film.gif"][1] == "failed"
    assert "film.gif[1]" not in rows(folder)


@pytest.mark.slow
def test_an_interrupted_run_that_goes_on_has_every_picture_once(folder: Path, encoder: CountingEncoder) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    for _ in range(2):
        with CollectionWriter.create(default_file(folder), folder) as collection, pytest.raises(Stop):
            index_folder(collection, encoder, IndexConfig(workers=1, batch_images=1, frames=3), stop)
    index(folder, encoder)
    assert rows(folder).keys() == {"film.gif", "film.gif[1]", "film.gif[2]", "white.png"}
    assert {status for _, status in rows(folder).values()} == {"ok"}
    assert encoder.encoded == 4


@pytest.mark.slow
def test_a_removed_picture_stays_away_until_it_is_taken_back(folder: Path, encoder: CountingEncoder, bare: Run) -> None:
    index(folder, encoder, frames=3)
    assert bare("remove", folder, "film.gif[1]").err == "1 removed\n"
    os.utime(folder / "film.gif", ns=(5, 5))
    index(folder, encoder)
    assert [status for _, status in rows(folder).values()].count("removed") == 1
    assert best(folder, encoder, "green")[0] != "film.gif[1]"
    bare("remove", folder, "film.gif[1]", "--undo")
    index(folder, encoder)
    assert best(folder, encoder, "green") == ("film.gif", 1)
    assert bare("remove", folder, "film.gif").err == "3 removed\n"


def test_a_repaired_picture_is_read_again(folder: Path, encoder: CountingEncoder) -> None:
    index(folder, encoder, frames=3)
    number = ids(folder)["film.gif[2]"]
    with CollectionWriter.create(default_file(folder), folder) as collection:
        collection.database.execute("UPDATE vectors SET vector = zeroblob(length(vector)) WHERE id = ?", (number,))
    assert repair(default_file(folder), folder, encoder.model).to_read_again == 1
    index(folder, encoder)
    assert rows(folder)["film.gif[2]"] == (number, "ok")
    assert best(folder, encoder, "blue") == ("film.gif", 2)


def test_a_collection_saved_into_a_new_file_knows_how_many_pictures_are_wanted(folder: Path, encoder: CountingEncoder) -> None:
    index(folder, encoder, frames=3)
    before = rows(folder)
    salvage(default_file(folder), folder, encoder.model)
    encoder.encoded = 0
    assert index(folder, encoder).unchanged == 4
    assert (rows(folder), encoder.encoded) == (before, 0)


def test_a_film_is_no_copy_of_itself(folder: Path, encoder: CountingEncoder) -> None:
    several(folder / "still.gif", "red", "red", "red")
    (folder / "copy.gif").write_bytes((folder / "film.gif").read_bytes())
    index(folder, encoder, frames=3)
    with Collection.open(default_file(folder)) as collection:
        groups = find_duplicates(collection, "exact").groups
        assert [[(row.path, row.frame) for row in group.images] for group in groups] == [[("copy.gif", 0), ("film.gif", 0)]]


def test_conditions_know_the_number_and_the_file(folder: Path, encoder: CountingEncoder) -> None:
    index(folder, encoder, frames=3)
    with Collection.open(default_file(folder)) as collection:
        searcher = Searcher(collection, encoder)

        def found(where: str) -> list[str]:
            hits = searcher.search(Query((TextPart("red"),), where=where)).hits
            return sorted(picture_name(hit.path, hit.frame) for hit in hits)

        assert found("frame > 0") == ["film.gif[1]", "film.gif[2]"]
        assert found("frame = 0") == ["film.gif", "white.png"]
        assert len(found("path = 'film.gif'")) == len(found("name = 'film.gif' AND folder = ''")) == 3


def test_a_further_picture_is_asked_by_its_id_and_explained(folder: Path, encoder: CountingEncoder) -> None:
    index(folder, encoder, frames=3)
    number = ids(folder)["film.gif[2]"]
    blue = Query((TextPart("blue"),))
    with Collection.open(default_file(folder)) as collection:
        searcher = Searcher(collection, encoder)
        part = ImagePart(number, box=Box(0, 0, 16, 24))
        hits = searcher.search(Query((part,)), SearchConfig(top=1)).hits
        assert number not in [hit.id for hit in hits]
        explained = searcher.explain(blue, number)
        assert explain_file(encode_query(blue, encoder), folder / "film.gif", encoder, frame=2) == explained
        cut = encode_query(Query((part,)), encoder, collection).parts[0].vector
        whole = collection.vectors_of([number])[0].astype(np.float32)
        assert float(cut @ whole) > 0.99


def test_an_export_brings_every_picture_back(folder: Path, encoder: CountingEncoder, tmp_path: Path) -> None:
    index(folder, encoder, frames=3)
    with Collection.open(default_file(folder)) as collection:
        assert export_clip_retrieval(collection, tmp_path / "out") == 4
    with CollectionWriter.create(tmp_path / "other.sqlite", folder) as collection:
        assert import_clip_retrieval(collection, tmp_path / "out", encoder.model).encoded == 4
        assert sorted((row.path, row.frame) for row in collection.images("ok")) == [
            ("film.gif", 0), ("film.gif", 1), ("film.gif", 2), ("white.png", 0),
        ]  # fmt: skip
        encoder.encoded = 0
        index_folder(collection, encoder)
        assert encoder.encoded == 0


def test_an_impossible_number_of_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="frames is 101; expected at most 100"):
        IndexConfig(frames=MOST_FRAMES + 1)


# In the server.


@pytest.mark.slow
def test_the_server_finds_and_shows_every_picture(folder: Path, encoder: CountingEncoder, model_path: Path) -> None:
    index(folder, encoder, frames=3)
    with client_of(config_of(folder, model_path)) as client:
        images = {picture_name(image["name"], image["frame"]): image for image in client.get("/v1/images").json()["images"]}
        assert sorted(images) == ["film.gif", "film.gif[1]", "film.gif[2]", "white.png"]
        for kind in ("thumbnail", "preview"):
            answers = {name: client.get(image[kind]) for name, image in images.items()}
            shown = {name: colour_of(Image.open(io.BytesIO(answer.content))) for name, answer in answers.items()}
            assert shown == {"film.gif": "red", "film.gif[1]": "green", "film.gif[2]": "blue", "white.png": "white"}
            assert len({answer.headers["etag"] for answer in answers.values()}) == 4
            again = client.get(images["film.gif[1]"][kind], headers={"If-None-Match": answers["film.gif[2]"].headers["etag"]})
            assert (again.status_code, again.content) == (200, answers["film.gif[1]"].content)  # from the cache
        hits = client.post("/v1/search", json={"text": "blue", "why": True}).json()["hits"]
        assert (len(hits), hits[0]["name"], hits[0]["frame"]) == (4, "film.gif", 2)
        like = client.post("/v1/search", json={"images": [{"id": hits[0]["id"]}], "filter": {"where": "frame > 0"}})
        assert [(hit["name"], hit["frame"]) for hit in like.json()["hits"]] == [("film.gif", 1)]


@pytest.mark.slow
def test_a_box_in_a_page_cuts_and_explains_that_page_at_its_own_size(
    tmp_path: Path, encoder: CountingEncoder, model_path: Path
) -> None:
    folder = paint(tmp_path / "photos" / "blue.png", "blue").parent
    page = Image.new("RGB", (2400, 200))  # larger than a picture made for viewing
    page.paste(plain("red", (1200, 200)), (0, 0))
    page.paste(plain("blue", (1200, 200)), (1200, 0))
    plain("green").save(folder / "pages.tif", save_all=True, append_images=[page])
    index(folder, encoder, frames=2)
    with client_of(config_of(folder, model_path)) as client:
        first = client.post("/v1/search", json={"text": "red and blue", "filter": {"where": "frame = 1"}}).json()["hits"][0]
        assert (first["width"], first["height"]) == (2400, 200)
        assert Image.open(io.BytesIO(client.get(first["preview"]).content)).size == (1600, 133)
        right = {"id": first["id"], "box": {"x": 1300, "y": 0, "width": 1000, "height": 200}}
        like = client.post("/v1/search", json={"images": [right]}).json()["hits"]
        assert [hit["name"] for hit in like] == ["blue.png", "pages.tif"]  # the page itself is none
        assert like[0]["score"] > 0.98
        shares = client.post("/v1/explain", json={"text": "red blue", "image": first["id"]}).json()["shares"]
        assert [share["box"]["x"] for share in shares] == [0, 1200]


@pytest.mark.slow
def test_a_picture_that_the_file_has_no_longer_is_a_sentence(folder: Path, encoder: CountingEncoder, model_path: Path) -> None:
    index(folder, encoder, frames=3)
    several(folder / "film.gif", "red", "blue")
    with client_of(config_of(folder, model_path)) as client:
        last = client.get("/v1/images?limit=10").json()["images"]
        shown = {image["frame"]: client.get(image["thumbnail"]) for image in last if image["name"] == "film.gif"}
        assert [shown[frame].status_code for frame in range(3)] == [200, 200, 422]
        assert shown[2].json()["detail"].startswith("the image is not there: the file has 2 pictures")


# As commands.


@pytest.mark.slow
def test_hits_name_the_picture_and_paths_the_file(folder: Path, aladin: Run) -> None:
    for impossible in ("0", "101", "many"):
        assert aladin("index", folder, "--frames", impossible).code == 2
    assert b"to read      2, with about 4 pictures at up to 3 a file\n" in aladin("plan", folder, "--frames", "3").out
    assert "4 added" in aladin("index", folder, "--frames", "3").err
    hits = json.loads(aladin("search", folder, "blue", "--json").out)["hits"]
    assert (hits[0]["path"], hits[0]["frame"], len(hits)) == (str(folder / "film.gif"), 2, 4)
    printed = aladin("search", folder, "blue", "-0").out.split(b"\0")[:-1]
    assert sorted(printed) == [os.fsencode(folder / name) for name in ("film.gif", "white.png")]
    coco = json.loads(aladin("search", folder, "blue", "--coco", "--top", "1").out)
    assert coco["images"] == [{"id": hits[0]["id"], "file_name": "film.gif", "width": 32, "height": 24, "frame": 2}]
    drawn = json.loads(aladin("explain", folder / "film.gif", "blue", "--frame", "2", "--json").out)
    assert (drawn["score"], drawn["frame"]) == (pytest.approx(hits[0]["score"], abs=1e-6), 2)
    assert json.loads(aladin("explain", folder / "film.gif[2]", "blue", "--json").out) == drawn
    refused = aladin("explain", folder / "film.gif", "blue", "--frame", "9").err
    assert "film.gif[9] is not there: the file has 3 pictures; give a number from 0 to 2" in refused
