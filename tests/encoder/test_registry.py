"""Models by name: where they stand, what a name means, and that none is half there."""

import shutil
from pathlib import Path

import pytest

import aladin
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder, shipped_model
from aladin.encoder.registry import (
    about_model,
    add_model_folder,
    added_model,
    added_models,
    model_at,
    models_home,
    new_model,
    remove_model,
)
from aladin.errors import ConfigError, ModelError
from tests.tiny_model import build_tiny_encoder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALADIN_MODELS", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = build_tiny_encoder(tmp_path / "source", 0.2, encoder='[origin]\nname = "us/tiny"\nlicence = "mit"\n')
    (folder / "README.md").write_text("tiny")
    (folder / "notes.txt").write_text("x" * 1000)
    return folder


def test_models_stand_below_the_users_data_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert models_home() == tmp_path / "home"
    monkeypatch.delenv("ALADIN_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert models_home() == tmp_path / "data" / "aladin" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models_home() == tmp_path / ".local" / "share" / "aladin" / "models"


def test_an_added_folder_is_the_same_model_under_its_name(source: Path, home: Path) -> None:
    added = add_model_folder(source, "tiny")
    assert added == home / "tiny" == model_at("tiny") == added_model("tiny")
    assert ModelFolder.open(added).fingerprint == ModelFolder.open(source).fingerprint
    assert (added / "README.md").is_file()
    assert not (added / "notes.txt").exists()
    shutil.rmtree(source)
    assert Encoder.load(model_at("tiny"), threads=1).encode_texts(["red"]).word_mask.any()


def test_a_list_tells_family_licence_and_source(source: Path) -> None:
    add_model_folder(source, "b")
    add_model_folder(source, "a")
    assert [(about.name, about.family, about.licence, about.source) for about in added_models()] == [
        ("a", "clip", "mit", "us/tiny"),
        ("b", "clip", "mit", "us/tiny"),
    ]
    assert about_model(shipped_model()).family == "aladin"


def test_a_folder_wins_over_a_name_and_a_path_is_none(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model_folder(source, "tiny")
    monkeypatch.chdir(tmp_path)
    assert model_at("./tiny") == Path("tiny")
    (tmp_path / "tiny").mkdir()
    assert model_at("tiny") == Path("tiny")


def test_the_name_of_the_model_that_comes_with_aladin_means_it() -> None:
    assert model_at(shipped_model().name) == shipped_model()


def test_a_name_opens_a_collection_from_python(source: Path, photos: Path) -> None:
    add_model_folder(source, "tiny")
    collection = aladin.Collection.open(photos, model="tiny")
    assert collection.encoder.model.name == "tiny"
    assert aladin.Aladin.load("tiny").encoder.model.config.encoder.family == "clip"


def test_an_unknown_name_is_told_with_those_that_are_known(source: Path) -> None:
    add_model_folder(source, "tiny")
    with pytest.raises(ModelError, match=r"no model was added as 'tinny'; known are lite, tiny; `aladin model add` adds one"):
        added_model("tinny")
    assert model_at("tinny") == Path("tinny")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "-a", "a" * 101, "ä", "a\nb"])
def test_what_is_no_name_is_refused(source: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a model"):
        add_model_folder(source, name)


@pytest.mark.parametrize("name", ["tiny", "lite"])
def test_a_name_that_is_taken_stays_what_it_is(source: Path, name: str) -> None:
    add_model_folder(source, "tiny")
    with pytest.raises(ModelError, match=f"there is a model '{name}' already; give another name"):
        add_model_folder(source, name)


def test_what_fails_on_the_way_leaves_nothing(source: Path, home: Path) -> None:
    def half() -> None:
        with new_model("tiny") as draft:
            draft.mkdir()
            shutil.copy(source / "model.toml", draft)

    with pytest.raises(ModelError, match=r"is not a model folder: it has no text\.onnx"):
        half()
    assert list(home.iterdir()) == []


def test_a_removed_model_is_gone_and_the_one_of_the_package_stays(source: Path) -> None:
    folder = add_model_folder(source, "tiny")
    assert remove_model("tiny") == folder
    assert not folder.exists()
    with pytest.raises(ModelError, match="lite comes with aladin and was not added; it stays"):
        remove_model("lite")
    assert shipped_model().is_dir()
