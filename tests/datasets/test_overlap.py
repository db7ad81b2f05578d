"""Which images two data sets have in common, however they are packed."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from aladin.datasets import check_apart, read_dataset
from aladin.datasets.overlap import shared_images
from aladin.errors import DataError
from tests.tiny_learning import write_pictures
from tests.tiny_official import random_images, write_features
from tests.training.test_paper_recipes import COUNTS, FEATURES


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def tarred(folder: Path, path: Path) -> Path:
    """As img2dataset writes it: a caption beside each image."""
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.glob("*.png")):
            text = file.with_suffix(".txt")
            text.write_text("a picture")
            archive.add(file, file.name)
            archive.add(text, text.name)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", 4)


@pytest.mark.parametrize("form", ["itself", "link", "copy", "zip", "tar"])
def test_an_image_is_the_same_by_every_path_and_in_every_packing(form: str, pictures: Path, tmp_path: Path) -> None:
    match form:
        case "itself":
            other = pictures
        case "link":
            (tmp_path / "link").symlink_to(pictures)
            other = tmp_path / "link"
        case "copy":
            other = Path(shutil.copytree(pictures, tmp_path / "copy"))
        case "zip":
            other = zipped(pictures, tmp_path / "data.zip")
        case "tar":
            other = tarred(pictures, tmp_path / "data.tar")
    one, same = read_dataset(pictures), read_dataset(other)
    assert shared_images(one, same) == list(same.examples)
    assert shared_images(same, one) == list(one.examples)


def test_an_image_in_two_zips_is_the_same_under_any_name(pictures: Path, tmp_path: Path) -> None:
    renamed = Path(shutil.copytree(pictures, tmp_path / "renamed"))
    (renamed / "3.png").rename(renamed / "other.png")
    (renamed / "captions.jsonl").write_text('{"image": "other.png", "captions": ["a picture"]}\n')
    one, other = (read_dataset(zipped(folder, tmp_path / f"{folder.name}.zip")) for folder in (pictures, renamed))
    assert [example.id for example in shared_images(one, other)] == ["other.png"]


def test_another_image_of_the_same_name_is_not_the_same(pictures: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(pictures, tmp_path / "other"))
    for number in range(1, 4):
        (other / f"{number}.png").write_bytes((pictures / f"{(number + 1) % 4}.png").read_bytes())
    swapped = bytearray((pictures / "3.png").read_bytes())
    swapped[-1] ^= 1  # of the same size
    (other / "3.png").write_bytes(swapped)
    assert [example.id for example in shared_images(read_dataset(pictures), read_dataset(other))] == ["0.png"]


def test_splits_of_one_file_are_apart_and_the_whole_of_it_is_not(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 4)
    splits = ["train", "train", "val", "val"]
    rows = (f'{{"image": "{number}.png", "captions": ["a"], "split": "{split}"}}\n' for number, split in enumerate(splits))
    (folder / "captions.jsonl").write_text("".join(rows))
    check_apart(read_dataset(folder, "train"), read_dataset(folder, "val"))
    with pytest.raises(
        DataError, match=r"^2 of the 4 validation images are training images too, such as '0\.png', .*--val-split$"
    ):
        check_apart(read_dataset(folder, "train"), read_dataset(folder))


def test_a_detectors_regions_are_the_same_by_their_row(tmp_path: Path) -> None:
    images = random_images(COUNTS, FEATURES)
    features = write_features(tmp_path / "features", images)
    for name, some in (("train", images[:5]), ("val", images[4:])):
        rows = (f'{{"image": "{image.id}", "captions": ["a picture"]}}\n' for image in some)
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    one, other = (read_dataset(tmp_path / f"{name}.jsonl", images=features) for name in ("train", "val"))
    assert [example.id for example in shared_images(one, other)] == [images[4].id]
