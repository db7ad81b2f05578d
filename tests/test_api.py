"""The Python API, with the shipped model on the example photographs where its documentation is run."""

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import aladin
import aladin.api
from aladin.collection.store import default_file
from aladin.search.search import SearchConfig, Searcher

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_examples_in_the_documentation_are_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testmod(aladin.api, extraglobs={"scratch": tmp_path, "json": json, "aladin": aladin})
    assert found.attempted >= 10
    assert found.failed == 0


@pytest.mark.slow
def test_the_page_on_python_shows_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False, globs={"scratch": tmp_path})
    assert found.attempted >= 25
    assert found.failed == 0


def test_importing_the_package_loads_nothing_large() -> None:
    script = "import sys, aladin; sys.exit(bool({'numpy', 'torch', 'PIL', 'onnxruntime'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.slow
def test_the_api_needs_no_torch() -> None:
    loaded = "bool({'torch', 'faiss', 'pyarrow'} & sys.modules.keys())"
    script = f"import sys, aladin; aladin.Collection, aladin.Aladin; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_name_is_there_and_an_unknown_one_is_not() -> None:
    for name in aladin.EXPORTS:
        assert getattr(aladin, name).__name__ == name
        assert name in dir(aladin)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = aladin.Nothing


@pytest.fixture
def photos_api(photos: Path, model_path: Path) -> aladin.Collection:
    return aladin.Collection.open(photos, model=model_path)


def test_searching_is_the_same_as_through_the_engine(photos_api: aladin.Collection, photos: Path) -> None:
    with photos_api as collection:
        assert collection.index().added == len(collection) == 6
        query = aladin.Query((aladin.TextPart("red"), aladin.TextPart("blue")), ("green",), "width > 3")
        engine = collection._opened()
        expected = Searcher(engine.collection, engine.encoder).search(query, SearchConfig(top=3)).hits
        assert collection.search(query, top=3).hits == expected
        assert (
            collection.search(aladin.Query(query.wanted, where="width > 3"), top=3, without="green").hits
            == collection.search(aladin.Query(query.wanted), top=3, without=("green",), where="width > 3").hits
            == expected
        )


def test_conditions_are_joined_as_a_whole(photos_api: aladin.Collection) -> None:
    with photos_api as collection:
        collection.index()
        query = aladin.Query((aladin.TextPart("red"),), where="name = 'red.png' OR name = 'blue.png'")
        assert [hit.path for hit in collection.search(query, where="name LIKE 'b%'").hits] == ["blue.png"]


@pytest.mark.slow
def test_a_path_is_an_image_and_a_string_a_text(photos_api: aladin.Collection, photos: Path) -> None:
    with photos_api as collection:
        collection.index()
        assert collection.search("red").hits[0].path == "red.png"
        like = collection.search(photos / "red.png", top=1).hits[0]
        assert like.path == "pink.png"
        assert collection.path(like).is_file()
        assert collection.explain(photos / "red.png", like).score == pytest.approx(like.score, abs=1e-5)
        assert collection.explain("red", like.id).shares[0].word == "red"


@pytest.mark.slow
def test_what_is_added_is_found_without_opening_again(photos_api: aladin.Collection, photos: Path) -> None:
    with photos_api as collection:
        collection.index()
        assert len(collection.search("red").hits) == 6
        (photos / "copy.png").write_bytes((photos / "red.png").read_bytes() + b" ")
        collection.index()
        assert len(collection.search("red").hits) == 7


def test_a_collection_may_stand_elsewhere(photos: Path, model_path: Path, tmp_path: Path) -> None:
    with aladin.Collection.open(str(photos), model=str(model_path), collection=tmp_path / "c.sqlite") as collection:
        collection.index()
        assert collection.search("red").hits
    assert not default_file(photos).exists()


def test_what_cannot_be_opened_is_named(photos: Path, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(aladin.AladinError, match="is no folder; expected one of images"):
        aladin.Collection.open(photos / "red.png")
    with pytest.raises(aladin.AladinError, match="there is no collection at"):
        aladin.Collection.open(photos, model=model_path).search("red")
    with aladin.Collection.open(photos, model=model_path) as collection:
        collection.index()
    (tmp_path / "other").mkdir()
    elsewhere = aladin.Collection.open(tmp_path / "other", model=model_path, collection=default_file(photos))
    with pytest.raises(aladin.AladinError, match="holds the images of"):
        elsewhere.search("red")


@pytest.mark.slow
def test_the_model_scores_as_a_search_does(photos_api: aladin.Collection, photos: Path, model_path: Path) -> None:
    model = aladin.Aladin.load(model_path)
    with photos_api as collection:
        collection.index()
        for hit in collection.search("red and blue").hits:
            assert model.score(photos / hit.path, "red and blue") == pytest.approx(hit.score, abs=1e-5)
            matching = model.image_vector(os.fspath(photos / hit.path)) @ model.text_vector("red and blue")
            assert_allclose(matching, hit.matching_score, atol=1e-3)


@pytest.mark.slow
def test_an_image_may_be_a_path_the_content_of_a_file_or_open(
    photos_api: aladin.Collection, photos: Path, model_path: Path
) -> None:
    model = aladin.Aladin.load(model_path)
    (photos / "red.png").rename(photos.parent / "red.png")
    path = photos.parent / "red.png"
    with Image.open(path) as opened, photos_api as collection:
        collection.index()
        forms: list[Path | bytes | Image.Image] = [path, path.read_bytes(), opened]
        for form in forms:
            assert_array_equal(model.image_vector(form), model.image_vector(path))
            assert model.explain(form, "red").shares == model.explain(path, "red").shares
            assert collection.search(form).hits == collection.search(path).hits
    turned = Image.open(path)
    turned.getexif()[0x0112] = 6
    assert_array_equal(model.image_vector(turned), model.image_vector(turned.transpose(Image.Transpose.ROTATE_270)))


WRONG_TYPES = """
import sys, numpy, aladin
photos, model = aladin.Collection.open(sys.argv[1], model=sys.argv[2]), aladin.Aladin.load(sys.argv[2])
photos.index()
image = sys.argv[1] + "/red.png"
for call in (
    lambda: photos.search(5),
    lambda: photos.search(numpy.zeros((4, 4, 3))),
    lambda: photos.search("red", without=(5,)),
    lambda: model.image_vector(None),
    lambda: model.score(3.5, "red"),
    lambda: model.score(image, 5),
    lambda: model.text_vector(5),
):
    try:
        call()
    except aladin.AladinError as error:
        print(error)
"""


@pytest.mark.slow
def test_what_is_neither_image_nor_text_is_refused_in_a_sentence(photos: Path, model_path: Path) -> None:
    # In a process of its own, since here a check of types would come first.
    ended = subprocess.run([sys.executable, "-c", WRONG_TYPES, photos, model_path], capture_output=True, text=True, check=True)
    image = "is no kind of image; give a path, the bytes of a file or an image of Pillow's"
    text = "a text of the query is of the type int; expected str"
    assert ended.stdout.splitlines() == [
        f"int {image}", f"ndarray {image}", text, f"NoneType {image}", f"float {image}", f"int {image}", text,
    ]  # fmt: skip
