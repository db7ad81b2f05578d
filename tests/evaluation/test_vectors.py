"""Scores of pairs and vectors of data, by photographs and by a detector's regions, from Python."""

import doctest
from pathlib import Path

import numpy as np
import pytest

import aladin
from aladin.errors import DataError
from aladin.evaluation import vectors
from aladin.exporting.conversion import convert_checkpoint
from tests.tiny_learning import captions, write_pictures
from tests.tiny_official import TINY as OFFICIAL
from tests.tiny_official import aladin_checkpoint, aladin_shapes, random_images, random_weights, write_features, write_vinvl


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model, and beside it a feature folder."""
    import torch

    folder = tmp_path_factory.mktemp("official")
    torch.save(aladin_checkpoint(random_weights(aladin_shapes(OFFICIAL))), folder / "checkpoint.pt")
    convert_checkpoint(folder / "checkpoint.pt", write_vinvl(folder / "vinvl"), folder / "model")
    write_features(folder / "features", random_images([3, 5, 2]))
    return folder


def test_the_examples_of_the_module_run(model_path: Path, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 8)
    names = {"model": model_path, "pictures": pictures, "photograph": pictures / "0.png"}
    found = doctest.testmod(vectors, extraglobs=names)
    assert found.attempted == 3
    assert not found.failed


def test_scores_of_pairs_are_those_of_the_vectors_of_a_data_set(model_path: Path, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 4)
    encoded = aladin.encode(model_path, pictures)
    assert encoded.images == tuple(f"{number}.png" for number in range(4))
    assert encoded.captions == tuple(text for number in range(4) for text in captions(number))
    matrix = encoded.image_vectors @ encoded.caption_vectors.T
    for row, image in enumerate(encoded.images):
        scores = aladin.score(model_path, pictures / image, encoded.captions)
        assert [pair.text for pair in scores] == list(encoded.captions)
        np.testing.assert_allclose([pair.matching for pair in scores], matrix[row], atol=1e-5)


def test_a_detectors_model_scores_an_image_by_its_id(official: Path) -> None:
    image = random_images([3, 5, 2])[1].id
    one, other = aladin.score(official / "model", image, ["red above green", "a picture"], features=official / "features")
    assert one.matching != other.matching
    assert one.alignment != other.alignment


def test_what_cannot_be_scored_is_one_sentence(official: Path, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no image 7; give one of its ids"):
        aladin.score(official / "model", "7", ["a"], features=official / "features")
    with pytest.raises(DataError, match=r"there is no image nowhere.jpg; give a photograph's file"):
        aladin.score(model_path, "nowhere.jpg", ["a"])
    for texts, found in ((["a", " "], "a blank text"), ([], "no text")):
        with pytest.raises(DataError, match=f"there is {found}; give texts of at least a word"):
            aladin.score(model_path, write_pictures(tmp_path / found, 1) / "0.png", texts)
