import base64
import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aladin.datasets.vinvl import FeatureFolder, FeatureWriter, check_folder, detector_output, output_detections
from aladin.errors import DataError
from tests.tiny_official import TINY, Image, random_images, write_detector_output, write_features

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def images() -> list[Image]:
    return random_images([3, 1, 5])


@pytest.fixture
def table(tmp_path: Path, images: list[Image]) -> Path:
    return write_detector_output(tmp_path / "detector" / "predictions.tsv", images)


def with_second_row(table: Path, change: Change) -> Path:
    lines = table.read_bytes().splitlines()
    image, value = lines[1].split(b"\t")
    content = json.loads(value)
    changed = change(content)
    lines[1] = image + b"\t" + (changed if isinstance(changed, bytes) else json.dumps(content).encode())
    table.write_bytes(b"\n".join(lines) + b"\n")
    return table


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_detectors_output_becomes_a_feature_folder(table: Path, images: list[Image], tmp_path: Path, end: bytes) -> None:
    table.write_bytes(table.read_bytes().replace(b"\n", end))
    with FeatureWriter(tmp_path / "features") as writer:
        for detections in output_detections(table):
            writer.add(detections)
    folder = FeatureFolder.open(tmp_path / "features")
    assert folder.images() == [image.id for image in images]
    for image in images:
        row = folder.find(image.id)
        assert row is not None
        found = row.detections(TINY.region)
        assert np.array_equal(found.boxes[:, :-6], image.boxes[:, :-6]), "features are unchanged"
        np.testing.assert_allclose(found.boxes[:, -6:], image.boxes[:, -6:], atol=1e-6)
        assert list(found.objects.names) == [image.classes[n % len(image.classes)] for n in range(len(image.boxes))]
        assert (found.objects.height, found.objects.width) == (480, 640)
    assert list(check_folder(tmp_path / "features", TINY.region)) == []


def test_the_table_is_known_by_itself_and_by_its_folder_unless_that_has_features(
    table: Path, images: list[Image], tmp_path: Path
) -> None:
    assert detector_output(table) == detector_output(table.parent) == table
    (table.parent / "features.tsv").touch()
    assert detector_output(table.parent) is None
    assert detector_output(write_features(tmp_path / "features", images) / "predictions.tsv") is None
    assert detector_output(tmp_path / "nothing") is None
    (tmp_path / "empty.tsv").touch()
    assert detector_output(tmp_path / "empty.tsv") is None


def test_rows_without_objects_or_json_do_not_hide_that_others_have_features(table: Path) -> None:
    table.write_bytes(b'1\t[]\n2\t{"objects": \n3\n' + table.read_bytes())
    assert detector_output(table) == table


def test_checking_names_the_missing_table_and_what_writes_it(table: Path) -> None:
    orders: Counter[str] = Counter()
    (problem,) = check_folder(table.parent, TINY.region, orders=orders)
    assert str(problem) == (
        "features.tsv: missing file: no such file, but 'feature' in the objects of predictions.tsv; expected one row an image; "
        f"`aladin features convert {table} DIR` writes a folder with one"
    )
    assert orders == {"width, height": 3}


def first(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = value["objects"][0]
    return found


def features_of(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


BAD = {
    "truncated base64": (lambda v: first(v).update(feature=first(v)["feature"][:-2]), "bad base64: text in object 1 that ends"),
    "no ASCII": (lambda v: first(v).update(feature="äöü="), "bad base64: text in object 1"),
    "no feature": (lambda v: first(v).pop("feature"), "missing key: no feature in object 1"),
    "a list as feature": (lambda v: first(v).update(feature=[1.0]), "missing key: a feature that is no text in object 1"),
    "float16": (
        lambda v: first(v).update(feature=features_of(np.ones(TINY.region - 6, "<f2"))),
        "wrong size: 16 bytes in object 1, as float16 has; expected float32; write the numbers as float32",
    ),
    "odd bytes": (lambda v: first(v).update(feature=features_of(np.ones(7, "u1"))), "wrong size: 7 bytes in object 1"),
    "empty feature": (lambda v: first(v).update(feature=""), "wrong size: 0 bytes in object 1"),
    "another length": (lambda v: first(v).update(feature=features_of(np.ones(9, "<f4"))), "wrong size: 9 features in object 1"),
    "not a number": (
        lambda v: first(v).update(feature=features_of(np.full(TINY.region - 6, np.nan, "<f4"))),
        "not a number: nan, number 1 of box 1",
    ),
    "no objects": (lambda v: v.update(objects=[]), "no boxes: 0 objects"),
    "no size": (lambda v: v.pop("image_w"), "geometry: no image_w; expected the image's height and width in px"),
    "a size of 0": (lambda v: v.update(image_h=0), "not JSON: image_h 0"),
    "a tiny size": (lambda v: v.update(image_h=1e-300), "not a number: "),
    "no rectangle": (lambda v: first(v).pop("rect"), "geometry: an object without a box of four finite numbers"),
    "an endless rectangle": (lambda v: first(v).update(rect=[0, 0, 10**400, 1]), "geometry: an object without a box"),
    "a rectangle of no numbers": (lambda v: first(v).update(rect=[0, 0, float("nan"), 1]), "geometry: an object without a box"),
    "a rectangle on its head": (
        lambda v: first(v).update(rect=[30, 40, 1, 2]),
        "geometry: (0.0469, 0.0833, 0.00156, 0.00417, ",
    ),
    "a rectangle outside": (lambda v: first(v).update(rect=[0, 0, 900, 24]), "geometry: (0, 0, 1.41, 0.05, "),
    "no name": (lambda v: first(v).pop("class"), "not JSON: an object without a name"),
    "single quotes": (lambda v: str(v).encode(), "not JSON: text as Python prints it, with single quotes"),
    "half a row": (lambda v: json.dumps(v).encode()[:40], "not JSON: no JSON"),
}


@pytest.mark.parametrize("damage", BAD)
def test_a_bad_row_is_named_with_its_line_by_checking_and_by_converting(table: Path, damage: str) -> None:
    change, expected = BAD[damage]
    with_second_row(table, change)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, *problems = map(str, check_folder(table.parent, TINY.region))
        assert len(problems) == 1
        assert problems[0].startswith(f"predictions.tsv, line 2 (image 107): {expected}")
        with pytest.raises(DataError) as caught:
            list(output_detections(table, TINY.region))
    assert str(caught.value).startswith(f"{table}, line 2 (image 107): {expected}")


def test_an_image_that_stands_twice_is_named(table: Path) -> None:
    table.write_bytes(table.read_bytes() + table.read_bytes())
    with pytest.raises(DataError, match=r"line 4 \(image 100\): duplicate image: the image of line 1 again"):
        list(output_detections(table))


def test_features_of_another_length_than_vinvls_are_told_from_float16_by_their_number(tmp_path: Path) -> None:
    table = write_detector_output(tmp_path / "predictions.tsv", random_images([2], numbers=1030))
    with pytest.raises(DataError, match=r"4,096 bytes in object 1, as float16 has; .* or say with --numbers"):
        list(output_detections(table))
    assert next(output_detections(table, 1030)).boxes.shape == (2, 1030)


@pytest.mark.parametrize("line", [b"\n", b"\t{}\n"])
def test_a_line_without_an_id_is_named_by_its_number(table: Path, line: bytes) -> None:
    table.write_bytes(table.read_bytes() + line)
    with pytest.raises(
        DataError, match=r"predictions\.tsv, line 4: missing key: no image id; expected an image id in the first"
    ):
        list(output_detections(table))
