import json
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from aladin.cli.calibrate import calibrate
from aladin.cli.captioned import read_captioned
from aladin.datasets import placing_undecodable, read_dataset
from aladin.errors import DataError
from aladin.pictures.pixels import open_image


@pytest.fixture
def data(photos: Path) -> Path:
    """The photos with a caption each; red.png is none, and blue.png breaks off."""
    (photos / "red.png").write_bytes(b"no picture")
    whole = (photos / "blue.png").read_bytes()
    (photos / "blue.png").write_bytes(whole[: len(whole) // 2])
    rows = [{"image": path.name, "captions": [path.stem]} for path in sorted(photos.glob("*.png"))]
    (photos / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return photos


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_rows_and_images_that_cannot_be_read_are_left_out_and_counted(
    data: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (data / "captions.jsonl").open("a") as file:
        file.write('{"image": "gone.png", "captions": ["gone"]}\n')
    path = data if kind == "folder" else zipped(data)
    dataset = read_captioned(path, None, None, skip_bad=True)
    assert {example.id for example in dataset.examples} == {"green.png", "yellow.png", "pink.png", "white.png"}
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"{path}: 1 rows skipped: image is missing",
        f"{path}: 1 rows skipped: the image cannot be decoded",
        f"{path}: 1 rows skipped: the image is not an image of a known format",
    ]


@pytest.mark.parametrize(("kind", "place"), [("folder", "photos/captions.jsonl"), ("zip", "photos.zip/captions.jsonl")])
def test_the_first_image_that_cannot_be_decoded_is_named_with_its_place(data: Path, kind: str, place: str) -> None:
    dataset = read_dataset(data if kind == "folder" else zipped(data))
    with pytest.raises(DataError) as caught, placing_undecodable(dataset):
        open_image(b"no picture")
    first, last = str(caught.value).split("image 'blue.png' cannot be decoded (")
    assert first == f"{data.parent / place}, line 1: "
    assert last.endswith("); replace it or pass --skip-bad")


def test_a_failure_over_something_else_than_an_image_stays_as_it_is(data: Path) -> None:
    for name in ("red.png", "blue.png"):
        (data / name).write_bytes((data / "green.png").read_bytes())
    with pytest.raises(DataError, match=r"^the disk is full$"), placing_undecodable(read_dataset(data)):
        raise DataError("the disk is full")


def test_calibrating_names_a_bad_image_or_leaves_it_out(data: Path, model_path: Path) -> None:
    result = CliRunner().invoke(calibrate, [str(model_path), str(data)])
    assert isinstance(result.exception, DataError)
    assert "line 1: image 'blue.png' cannot be decoded (" in str(result.exception)
    result = CliRunner().invoke(calibrate, [str(model_path), str(data), "--skip-bad"])
    assert str(result.exception).startswith(
        "no word stands with at least 10 and at most 20% of the 4 images"
    )  # the four that are whole were encoded
