import base64
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aladin.datasets import read_dataset
from aladin.datasets.vinvl import (
    Detections,
    FeatureFolder,
    FeatureRow,
    FeatureWriter,
    Objects,
    check_folder,
    npz_detections,
    read_keys,
    with_geometry,
    write_npz,
)
from aladin.errors import DataError
from tests.tiny_official import TINY, Image, encoded, random_images, write_features

COUNTS = [3, 1, 5, 2]
few_examples = settings(max_examples=20)


@pytest.fixture
def images() -> list[Image]:
    return random_images(COUNTS)


@pytest.fixture
def folder(tmp_path: Path, images: list[Image]) -> Path:
    return write_features(tmp_path / "features", images)


def row_of(folder: Path, image: str) -> FeatureRow:
    row = FeatureFolder.open(folder).find(image)
    assert row is not None
    return row


def sentence(caught: pytest.ExceptionInfo[DataError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_line(path: Path, number: int, change: Callable[[bytes], bytes]) -> None:
    """Changes a line (from 0) of a table; the index is then removed, since rows may have moved."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number] = change(lines[number].rstrip(b"\n")) + b"\n"
    path.write_bytes(b"".join(lines))
    path.with_suffix(".lineidx").unlink(missing_ok=True)


@pytest.mark.parametrize("without", [(), ("features.lineidx", "predictions.lineidx", "imageid2idx.json")])
def test_every_image_is_read_as_it_was_written_with_or_without_index_files(
    folder: Path, images: list[Image], without: tuple[str, ...]
) -> None:
    for name in without:
        (folder / name).unlink()
    opened = FeatureFolder.open(folder)
    assert opened.images() == [image.id for image in images]
    for image in images:
        row = opened.find(image.id)
        assert row is not None
        found = row.detections(TINY.region)
        assert found.image == image.id
        assert found.boxes.dtype == np.float32
        assert np.array_equal(found.boxes, image.boxes)
        assert list(found.objects.names) == image.classes


def test_the_size_of_an_image_defaults_to_600_by_800_where_objects_are_a_bare_list(folder: Path, images: list[Image]) -> None:
    sizes = {image.id: row_of(folder, image.id).detections().objects for image in images}
    assert {(sizes[i.id].height, sizes[i.id].width) for i in images if int(i.id) % 2 == 0} == {(600.0, 800.0)}
    assert {(sizes[i.id].height, sizes[i.id].width) for i in images if int(i.id) % 2} == {(480.0, 640.0)}


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("107", "107"),
        ("val2014/COCO_val2014_000000000107.jpg", "107"),
        ("107.jpg", "107"),
        ("dog.jpg", None),
        ("108", None),
        ("107x.jpg", None),
    ],
)
def test_an_image_is_found_by_its_id_or_by_the_id_in_its_files_name(folder: Path, name: str, image: str | None) -> None:
    found = FeatureFolder.open(folder).find(name)
    assert (found and found.image) == image


@pytest.mark.parametrize("skip_bad", [False, True])
def test_two_images_that_meet_one_row_of_features_are_refused(folder: Path, tmp_path: Path, skip_bad: bool) -> None:
    rows = [{"image": name, "captions": ["a"]} for name in ("cat_107.jpg", "dog_107.jpg", "107.png", "100")]
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if skip_bad:
        found = read_dataset(tmp_path / "two.jsonl", images=folder, skip_bad=True)
        assert [example.id for example in found.examples] == ["cat_107.jpg", "100"]
        assert found.skipped == {"one row for two images": 2}
        return
    with pytest.raises(DataError, match=r"two.jsonl, line 2: images 'cat_107.jpg' and 'dog_107.jpg' both meet row '107' of "):
        read_dataset(tmp_path / "two.jsonl", images=folder)


def test_rows_of_one_json_column_are_read_too(folder: Path, images: list[Image]) -> None:
    value = {"num_boxes": 3, "features": encoded(images[0].boxes)}
    change_line(folder / "features.tsv", 0, lambda line: b"100\t" + json.dumps(value).encode())
    assert np.array_equal(row_of(folder, "100").detections(TINY.region).boxes, images[0].boxes)


def test_the_last_column_holds_the_features_however_many_there_are(folder: Path, images: list[Image]) -> None:
    change_line(folder / "features.tsv", 0, lambda line: f"100\t 3 \tmore\t {encoded(images[0].boxes)} ".encode())
    assert np.array_equal(row_of(folder, "100").detections().boxes, images[0].boxes)


def test_predictions_may_stand_in_another_order_than_features(folder: Path, images: list[Image]) -> None:
    path = folder / "predictions.tsv"
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
    path.with_suffix(".lineidx").unlink()
    for image in images:
        assert list(row_of(folder, image.id).detections().objects.names) == image.classes


def test_of_an_image_that_stands_twice_the_last_row_counts(folder: Path, images: list[Image]) -> None:
    with (folder / "predictions.tsv").open("ab") as file:
        file.write(b'100\t[{"class": "green"}]\n')
    (folder / "predictions.lineidx").unlink()
    assert row_of(folder, "100").detections().objects.names == ("green",)


def truncated(line: bytes) -> bytes:
    return line[:-21]


def cut_by_whole_numbers(line: bytes) -> bytes:
    image, count, data = line.split(b"\t")
    return b"\t".join([image, count, base64.b64encode(base64.b64decode(data)[:-4])])


def with_zero_boxes(line: bytes) -> bytes:
    image, _, data = line.split(b"\t")
    return b"\t".join([image, b"0", data])


def of_8_numbers(line: bytes) -> bytes:
    return b"\t".join([*line.split(b"\t")[:2], base64.b64encode(np.zeros((3, 8), dtype="<f4").tobytes())])


def of_half_precision(line: bytes) -> bytes:
    image, count, data = line.split(b"\t")
    half = np.frombuffer(base64.b64decode(data), dtype="<f4").astype("<f2")
    return b"\t".join([image, count, base64.b64encode(half.tobytes())])


def with_value(value: float) -> Callable[[bytes], bytes]:
    def change(line: bytes) -> bytes:
        image, count, data = line.split(b"\t")
        boxes = np.frombuffer(base64.b64decode(data), dtype="<f4").copy()
        boxes[TINY.region + 4] = value
        return b"\t".join([image, count, base64.b64encode(boxes.tobytes())])

    return change


def bad_geometry(line: bytes) -> bytes:
    image, count, data = line.split(b"\t")
    boxes = np.frombuffer(base64.b64decode(data), dtype="<f4").reshape(int(count), -1).copy()
    boxes[1, -6:] = boxes[1, :6] * 3
    return b"\t".join([image, count, base64.b64encode(boxes.tobytes())])


# What is done to the row of image 100 with its 3 boxes, the kind of problem, and a part of what is said of it.
FEATURE_DAMAGE = [
    (truncated, "bad base64", "text that ends too early or is no base64"),
    (lambda line: line[:-8] + b"!?!?!?!?", "bad base64", "no base64"),
    (cut_by_whole_numbers, "wrong size", "164 bytes for 3 boxes; expected 14 x 4 bytes a box, 168 in all"),
    (of_8_numbers, "wrong size", "8 numbers a box; expected 14; append x1/W, y1/H, x2/W, y2/H, w/W, h/H of the box"),
    (lambda line: line.replace(b"\t3\t", b"\t2\t"), "wrong size", "21 numbers a box; expected 14; copy the row again"),
    (of_half_precision, "wrong size", "84 bytes for 3 boxes, as float16 has; expected float32; write the numbers as float32"),
    (with_zero_boxes, "no boxes", "0 boxes; expected at least one"),
    (lambda line: line.replace(b"\t3\t", b"\tthree\t"), "wrong columns", "'three' as the number of boxes"),
    (lambda line: line.replace(b"\t3\t", b"\t"), "wrong columns", "2 columns; expected an image id, the number of boxes"),
    (lambda line: b'100\t{"num_boxes": 3}', "not JSON", '"num_boxes" and "features"'),
    (with_value(np.nan), "not a number", "nan, number 5 of box 2; expected finite numbers"),
    (with_value(-np.inf), "not a number", "-inf, number 5 of box 2"),
]
PREDICTION_DAMAGE = [
    (lambda line: line[:-5], "not JSON", "no JSON ("),
    (lambda line: b"100\t[{'class': 'dog'}]", "not JSON", "text as Python prints it, with single quotes; expected JSON"),
    (lambda line: b"100", "wrong columns", "1 column; expected an image id and JSON"),
    (lambda line: b"100\t7", "not JSON", 'expected a list of objects, or one under "objects"'),
    (lambda line: b'100\t{"image_h": 4}', "not JSON", 'or one under "objects"'),
    (lambda line: b'100\t[{"name": "dog"}]', "not JSON", 'an object without a name; expected "class"'),
    (lambda line: b'100\t{"image_h": -4, "objects": []}', "not JSON", "image_h -4; expected a number above 0"),
]


@pytest.mark.parametrize(
    ("file", "change", "kind", "said"),
    [("features.tsv", *damage) for damage in FEATURE_DAMAGE] + [("predictions.tsv", *d) for d in PREDICTION_DAMAGE],
)
def test_a_damaged_row_is_told_with_its_file_line_and_image_by_reading_and_by_checking(
    folder: Path, file: str, change: Callable[[bytes], bytes], kind: str, said: str
) -> None:
    whole = row_of(folder, "114").detections(TINY.region)
    row = row_of(folder, "100")
    change_line(folder / file, 0, change)
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        row.detections(TINY.region)
    assert sentence(caught).startswith(f"{folder / file}, line 1 (image 100): ")
    (problem,) = check_folder(folder, TINY.region)
    assert (problem.file, problem.line, problem.image, problem.kind) == (file, 1, "100", kind)
    assert said in str(problem)
    assert problem.remedy
    assert np.array_equal(row_of(folder, "114").detections(TINY.region).boxes, whole.boxes)


def test_a_sound_folder_has_no_problems_and_progress_ends_at_its_size(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    assert list(check_folder(folder, TINY.region, lambda done, total: told.append((done, total)))) == []
    size = sum((folder / name).stat().st_size for name in ("features.tsv", "predictions.tsv"))
    assert told[-1] == (size, size)


def test_features_of_another_extractor_in_place_of_the_geometry_are_found(folder: Path) -> None:
    change_line(folder / "features.tsv", 0, bad_geometry)
    (problem,) = check_folder(folder, TINY.region)
    assert (problem.kind, problem.line) == ("geometry", 1)
    assert "at the end of box 2, and 0 more boxes like it" in problem.found


def turned(images: list[Image], rows: slice) -> list[Image]:
    """Some of the images with height before width, as public converters write them."""
    for image in images[rows]:
        image.boxes[:, -2:] = image.boxes[:, [-1, -2]]
    return images


@pytest.mark.parametrize(("rows", "order"), [(slice(0), "width, height"), (slice(None), "height, width")])
def test_both_orders_of_width_and_height_are_sound_and_told(tmp_path: Path, rows: slice, order: str) -> None:
    images = turned(random_images(COUNTS), rows)
    orders: Counter[str] = Counter()
    assert not list(check_folder(write_features(tmp_path / "turned", images), TINY.region, orders=orders))
    assert orders == {order: len(images)}


def test_boxes_in_both_orders_are_a_problem(tmp_path: Path) -> None:
    images = turned(random_images(COUNTS), slice(2))
    (problem,) = check_folder(write_features(tmp_path / "mixed", images), TINY.region)
    assert problem.kind == "geometry"
    assert problem.found == f"boxes that end in width, height in {len(images) - 2} images, and in height, width in 2"


def test_equal_sides_are_of_either_order(tmp_path: Path) -> None:
    images = random_images(COUNTS)
    for image in images:
        image.boxes[:, -6:] = [0.25, 0.25, 0.5, 0.5, 0.25, 0.25]
    orders: Counter[str] = Counter()
    assert not list(check_folder(write_features(tmp_path / "square", images), TINY.region, orders=orders))
    assert orders == {"either": len(images)}


@pytest.mark.parametrize("shift", [0.0, 0.015])
def test_geometry_that_is_off_by_a_pixel_is_sound(folder: Path, tmp_path: Path, shift: float) -> None:
    images = random_images(COUNTS)
    for image in images:
        image.boxes[:, -2:] += shift
    assert not list(check_folder(write_features(tmp_path / "shifted", images), TINY.region))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("offset", [("features.lineidx", 2, None, "wrong offset")]),
        ("fewer offsets", [("features.lineidx", None, None, "wrong offset")]),
        ("no offsets", [("features.lineidx", None, None, "wrong offset")]),
        ("row number", [("imageid2idx.json", None, "107", "wrong row")]),
        ("unknown number", [("imageid2idx.json", None, "5", "unknown image")]),
        ("lost number", [("imageid2idx.json", None, "107", "missing image")]),
        ("no numbers", [("imageid2idx.json", None, None, "not JSON")]),
        ("lost predictions", [("predictions.tsv", None, "121", "missing image")]),
        ("twice", [("predictions.tsv", 5, "100", "duplicate image")]),
        ("no features", [("features.tsv", None, None, "missing file")]),
        ("no predictions", [("predictions.tsv", None, None, "missing file")]),
        ("id", [("predictions.tsv", 1, None, "not UTF-8"), ("predictions.tsv", None, "100", "missing image")]),
        ("blank line", [("predictions.tsv", 5, "", "wrong columns"), ("features.tsv", None, "", "missing image")]),
    ],
)
def test_index_files_ids_and_missing_files_are_checked(
    folder: Path, damage: str, expected: list[tuple[str, int | None, str | None, str]]
) -> None:
    features, index, numbers = folder / "features.tsv", folder / "features.lineidx", folder / "imageid2idx.json"
    predictions = folder / "predictions.tsv"
    stated, offsets = json.loads(numbers.read_text()), index.read_text().split()
    match damage:
        case "offset":
            index.write_text("\n".join([offsets[0], "17", *offsets[2:]]))
        case "fewer offsets":
            index.write_text("\n".join(offsets[:-1]))
        case "no offsets":
            index.write_text("here and there")
        case "row number":
            numbers.write_text(json.dumps(stated | {"107": 3}))
        case "unknown number":
            numbers.write_text(json.dumps(stated | {"5": 0}))
        case "lost number":
            numbers.write_text(json.dumps({image: row for image, row in stated.items() if image != "107"}))
        case "no numbers":
            numbers.write_text("[1, 2]")
        case "lost predictions":
            predictions.write_bytes(b"".join(predictions.read_bytes().splitlines(keepends=True)[:-1]))
            predictions.with_suffix(".lineidx").unlink()
        case "twice":
            predictions.write_bytes(predictions.read_bytes() + b"100\t[]\n")
            predictions.with_suffix(".lineidx").unlink()
        case "no features":
            features.unlink()
            numbers.unlink()
        case "no predictions":
            predictions.unlink()
        case "id":
            change_line(predictions, 0, lambda line: b"\xff" + line)
        case "blank line":
            predictions.write_bytes(predictions.read_bytes() + b"\n")
            predictions.with_suffix(".lineidx").unlink()
    found = list(check_folder(folder, TINY.region))
    assert [(p.file, p.line, p.image, p.kind) for p in found] == expected


def test_every_problem_of_a_folder_is_found_in_one_run(folder: Path) -> None:
    for number, change in ((0, truncated), (1, with_zero_boxes), (3, cut_by_whole_numbers)):
        change_line(folder / "features.tsv", number, change)
    change_line(folder / "predictions.tsv", 3, lambda line: b"121\t{")
    found = [(problem.file, problem.line, problem.kind) for problem in check_folder(folder, TINY.region)]
    assert found == [
        ("features.tsv", 1, "bad base64"),
        ("features.tsv", 2, "no boxes"),
        ("features.tsv", 4, "wrong size"),
        ("predictions.tsv", 4, "not JSON"),
    ]


@pytest.mark.parametrize(
    ("index", "content", "expected"),
    [
        (
            "features.lineidx",
            "0\n3\n5\n7\n",
            r"features.tsv, line 2: no row starts at byte 3, as .*features.lineidx says; delete",
        ),
        ("predictions.lineidx", "0\n3\n5\n7\n", r"predictions.tsv, line 2: no row starts at byte 3, as .*; delete"),
        ("predictions.lineidx", "0\n999999\n", r"predictions.tsv, line 2: no row starts at byte 999999, as .*; delete"),
        ("features.lineidx", "0\nhere\n", r"holds something else than one decimal offset a line; delete it"),
        ("imageid2idx.json", '{"107": 0}', r"line 1 \(image 107\): the row of image 100; expected that of image 107; delete"),
        ("imageid2idx.json", '{"107": 9}', r"names row 9 for image 107, but features.tsv has 4 rows; delete"),
        ("imageid2idx.json", '{"107": 1.5}', r"holds something else than a row number for each image id; delete"),
        ("imageid2idx.json", "{", r"imageid2idx.json cannot be read as JSON"),
    ],
)
def test_an_index_file_that_is_off_is_refused_and_said_to_be_needless(
    folder: Path, index: str, content: str, expected: str
) -> None:
    (folder / index).write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        row_of(folder, "107").detections()
    sentence(caught)
    (folder / index).unlink()
    row_of(folder, "107").detections()


def test_an_image_with_features_but_without_objects_is_an_error(folder: Path) -> None:
    change_line(folder / "predictions.tsv", 1, lambda line: line.replace(b"107", b"108"))
    with pytest.raises(DataError, match=r"image 107 .* has features but no row in predictions.tsv; add one") as caught:
        FeatureFolder.open(folder).find("107")
    sentence(caught)


@pytest.mark.parametrize("name", ["features.tsv", "predictions.tsv"])
def test_a_folder_without_one_of_its_tables_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).with_suffix(".lineidx").unlink()
    with pytest.raises(DataError, match=f"there is no file .*{name}"):
        FeatureFolder.open(folder)


names = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6), max_size=3)
ids = st.lists(st.from_regex(r"[a-z0-9_]{1,9}", fullmatch=True), min_size=1, max_size=4, unique=True)


def drawn(image: str, names: list[str], random: np.random.Generator) -> Detections:
    rects = confidences = None
    if names and random.random() < 0.5:
        rects = random.uniform(0, 400, (len(names), 4)).astype(np.float32)
        confidences = random.uniform(0, 1, len(names)).astype(np.float32)
    boxes = random.normal(size=(random.integers(1, 5), 9)).astype(np.float32)
    return Detections(image, boxes, Objects(tuple(names), 480.0, 640.5, rects, confidences))


def same(one: Detections, other: Detections) -> bool:
    a, b = one.objects, other.objects
    arrays = [(one.boxes, other.boxes), (a.rects, b.rects), (a.confidences, b.confidences)]
    equal = all(x is y if x is None or y is None else np.array_equal(x, y) for x, y in arrays)
    return equal and (one.image, a.names, a.height, a.width) == (other.image, b.names, b.height, b.width)


@few_examples
@given(ids=ids, data=st.data())
def test_what_is_written_is_read_again_from_tables_and_from_npz(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], data: st.DataObject
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    written = [drawn(image, data.draw(names), random) for image in ids]
    folder = tmp_path_factory.mktemp("written")
    with FeatureWriter(folder / "tsv") as writer:
        for image in written:
            writer.add(image)
            write_npz(image, folder / "npz")
    opened = FeatureFolder.open(folder / "tsv")
    assert opened.images() == [image.image for image in written]
    assert all(same(row_of(folder / "tsv", image.image).detections(9), image) for image in written)
    from_npz = {found.image: found for found in npz_detections(folder / "npz")}
    assert len(from_npz) == len(written)
    assert all(same(from_npz[image.image], image) for image in written)
    kinds = {problem.kind for problem in check_folder(folder / "tsv", 9)}
    assert kinds <= {"geometry"}


def test_a_detectors_boxes_become_geometry(tmp_path: Path) -> None:
    features = np.ones((2, 3), dtype=np.float32)
    boxes = np.array([[0, 0, 64, 48], [320, 120, 640, 480]], dtype=np.float32)
    np.savez(tmp_path / "7.npz", features=features, boxes=boxes, image_h=480, image_w=640, classes=np.array(["dog"]))
    (found,) = npz_detections(tmp_path)
    assert (found.image, found.objects.names) == ("7", ("dog",))
    expected = [[1, 1, 1, 0, 0, 0.1, 0.1, 0.1, 0.1], [1, 1, 1, 0.5, 0.25, 1, 1, 0.5, 0.75]]
    np.testing.assert_allclose(found.boxes, expected, rtol=1e-6)
    np.testing.assert_allclose(with_geometry(features, boxes, 480.0, 640.0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (
            {"features": np.ones((2, 3))},
            "holds features, but no boxes; expected features, boxes, image_h and image_w, or regions",
        ),
        ({"features": np.ones((2, 3)), "boxes": np.ones((1, 4)), "image_h": 1, "image_w": 1}, r"boxes of shape \(1, 4\) for 2"),
        ({"features": np.ones((2, 3)), "boxes": np.ones((2, 4)), "image_h": 0, "image_w": 1}, "no image_h that is one number"),
        ({"regions": np.ones(3)}, r"regions of shape \(3,\) and type float64; expected a matrix of numbers"),
        ({"regions": np.array([["a"]])}, "expected a matrix of numbers"),
        ({"regions": np.ones((2, 9)), "classes": np.array(["a"]), "rects": np.ones((2, 4))}, "2 rects for 1 classes"),
        ({"regions": np.ones((2, 9)), "classes": np.array(["a", None])}, "cannot be read as .npz: .*save plain arrays"),
    ],
)
def test_an_npz_that_holds_something_else_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], expected: str) -> None:
    np.savez(tmp_path / "1.npz", **arrays)
    with pytest.raises(DataError, match=expected) as caught:
        list(npz_detections(tmp_path))
    assert str(tmp_path / "1.npz") in sentence(caught)


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.npz").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        list(npz_detections(tmp_path))


@pytest.mark.parametrize("image", ["../1", "/1", "a\\1", ""])
def test_an_id_that_leads_out_of_the_folder_is_not_written(tmp_path: Path, image: str) -> None:
    found = Detections(image, np.ones((1, 9), dtype=np.float32), Objects((), 1.0, 1.0))
    with pytest.raises(DataError, match="would lead out of"):
        write_npz(found, tmp_path / "npz")


@pytest.mark.parametrize("image", ["", "a\tb", "a\nb", " a"])
def test_an_id_that_cannot_stand_in_a_table_is_not_written(tmp_path: Path, image: str) -> None:
    found = Detections(image, np.ones((1, 9), dtype=np.float32), Objects((), 1.0, 1.0))
    with pytest.raises(DataError, match="cannot stand in a table"), FeatureWriter(tmp_path) as writer:
        writer.add(found)
    assert not list(tmp_path.iterdir()), "what was begun is gone"


def test_an_image_is_written_once_and_a_folder_is_not_written_over(tmp_path: Path, folder: Path) -> None:
    found = Detections("1", np.ones((1, 9), dtype=np.float32), Objects((), 1.0, 1.0))
    with FeatureWriter(tmp_path / "new") as writer:
        writer.add(found)
        with pytest.raises(DataError, match="image 1 is there twice"):
            writer.add(found)
    with pytest.raises(DataError, match=r"has a features.tsv already; give another folder"):
        FeatureWriter(folder)


@pytest.mark.parametrize("boxes", [np.ones((1, 8)), np.full((1, 9), np.nan)])
def test_boxes_that_do_not_fit_those_before_or_are_not_finite_are_not_written(tmp_path: Path, boxes: np.ndarray) -> None:
    with FeatureWriter(tmp_path / "new") as writer:
        writer.add(Detections("1", np.ones((1, 9), dtype=np.float32), Objects((), 1.0, 1.0)))
        with pytest.raises(
            DataError, match=r"image 2 has 1 boxes of \d numbers; expected finite numbers, and 9 of them"
        ) as caught:
            writer.add(Detections("2", boxes.astype(np.float32), Objects((), 1.0, 1.0)))
        sentence(caught)


def test_an_image_without_boxes_is_written_and_found_by_checking(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path / "new") as writer:
        writer.add(Detections("1", np.ones((0, 9), dtype=np.float32), Objects(("dog",), 1.0, 1.0)))
    assert [problem.kind for problem in check_folder(tmp_path / "new", 9)] == ["no boxes"]


def test_keys_are_read_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "keys.tsv").write_text("391895\n 522418\n\n184613\tmore\n")
    assert read_keys(tmp_path / "keys.tsv") == ["391895", "522418", "184613"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"1\n2\n1\n", "names image 1 twice"), (b"\n", "names no image"), (b"\xff\xfe", "cannot be read as a list of image ids")],
)
def test_keys_that_are_none_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "keys.tsv").write_bytes(content)
    with pytest.raises(DataError, match=expected) as caught:
        read_keys(tmp_path / "keys.tsv")
    sentence(caught)
