import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aladin.datasets import check_apart, read_dataset
from aladin.datasets.vinvl import DetectionSource, check_folder, open_features
from aladin.errors import ConfigError, DataError

REGIONS, FEATURES = 3, 8


def features(images: int, seed: int, form: str = "regions") -> np.ndarray:
    """As SCAN has them, or as VSE++ has them: one vector an image."""
    shape = (images, REGIONS, FEATURES) if form == "regions" else (images, FEATURES)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def write_part(folder: Path, part: str, images: np.ndarray, ids: list[str] | None = None, each: int = 5) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{part}_ims.npy", images)
    lines = [f"a red {part} picture {image} {number}" for image in range(len(images)) for number in range(each)]
    (folder / f"{part}_caps.txt").write_text("".join(f"{line}\n" for line in lines))
    if ids is not None:
        (folder / f"{part}_ids.txt").write_text("".join(f"{image}\n" for image in ids))
    return images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny_precomp"
    for seed, (part, count) in enumerate({"train": 4, "dev": 3, "test": 2, "testall": 5}.items()):
        write_part(folder, part, features(count, seed), [str(100 * seed + image) for image in range(count)])
    return folder


def boxes(source: object, most: int | None = None) -> np.ndarray:
    assert isinstance(source, DetectionSource)
    return source.detections(FEATURES, most).boxes


@pytest.mark.parametrize(
    ("split", "parts"), [("train", ["train"]), ("val", ["dev"]), ("test", ["testall"]), (None, ["train", "dev", "testall"])]
)
def test_splits_are_told_by_the_names_of_files(folder: Path, split: str | None, parts: list[str]) -> None:
    data = read_dataset(folder, split)
    assert list(dict.fromkeys(example.id.split("/")[0] for example in data.examples)) == parts
    assert all(len(example.captions) == 5 for example in data.examples)
    example = data.examples[1]
    assert example.captions[2] == f"a red {parts[0]} picture 1 2"
    expected = np.load(folder / f"{parts[0]}_ims.npy")
    assert np.array_equal(boxes(example.source), expected[1])
    assert np.array_equal(boxes(example.source, 2), expected[1, :2])
    assert example.position == f"{folder}/{parts[0]}_caps.txt, line 6"


@pytest.mark.parametrize("file", ["test_ims.npy", "test_caps.txt", "test_ids.txt"])
def test_one_part_is_read_by_one_of_its_files(folder: Path, file: str) -> None:
    data = read_dataset(folder / file)
    assert [example.id for example in data.examples] == ["test/200", "test/201"]
    assert len(read_dataset(folder / file, "test")) == 2
    with pytest.raises(DataError, match=r"has no split 'train'; its parts are test, of which dev is val and testall is test"):
        read_dataset(folder / file, "train")


def test_test_is_read_where_there_is_no_testall(folder: Path) -> None:
    (folder / "testall_ims.npy").unlink()
    assert len(read_dataset(folder, "test")) == 2


@pytest.mark.parametrize("form", ["regions", "vectors"])
@pytest.mark.parametrize("ids", ["none", "one an image", "one a caption"])
def test_images_that_stand_five_times_are_read_once(tmp_path: Path, form: str, ids: str) -> None:
    images = features(6, 0, form)
    names = {"none": None, "one an image": list("abcdef"), "one a caption": list(np.repeat(list("abcdef"), 5))}[ids]
    write_part(tmp_path, "train", np.repeat(images, 5, axis=0), names, each=1)
    data = read_dataset(tmp_path)
    assert [example.id for example in data.examples] == [f"train/{name}" for name in ("012345" if names is None else "abcdef")]
    assert data.caption_count == 30
    for example, image in zip(data.examples, images, strict=True):
        assert np.array_equal(boxes(example.source), np.atleast_2d(image))


def test_a_vector_an_image_is_one_region_and_one_caption_an_image_is_no_repetition(tmp_path: Path) -> None:
    images = write_part(tmp_path, "dev", features(10, 0, "vectors"), each=1)
    data = read_dataset(tmp_path, "val")
    assert [len(example.captions) for example in data.examples] == [1] * 10
    assert np.array_equal(boxes(data.examples[7].source), images[7:8])


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4"])
def test_floats_of_any_kind_are_read_as_float32(tmp_path: Path, kind: str) -> None:
    images = write_part(tmp_path, "dev", features(2, 0).astype(kind))
    found = boxes(read_dataset(tmp_path).examples[1].source)
    assert found.dtype == np.float32
    assert np.array_equal(found, images[1].astype(np.float32))


def test_the_array_is_not_read_into_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, load = [], np.load

    def watched(*arguments: object, **settings: object) -> np.ndarray:
        opened.append(settings["mmap_mode"])
        found: np.ndarray = load(*arguments, **settings)
        return found

    monkeypatch.setattr(np, "load", watched)
    boxes(read_dataset(folder, "train").examples[0].source)
    assert opened == ["r"] * len(opened) != []


def test_lines_may_end_as_on_windows_and_only_line_ends_part_captions(tmp_path: Path) -> None:
    write_part(tmp_path, "dev", features(1, 0))
    texts = ["one\u2028one", "two\x0btwo", "three \x85", "four", "five"]
    (tmp_path / "dev_caps.txt").write_bytes("\r\n".join(texts).encode())
    assert read_dataset(tmp_path).captions == tuple(text.strip() for text in texts)


def test_an_image_is_found_by_its_id_with_or_without_its_part(folder: Path) -> None:
    found = open_features(folder)
    assert len(found.images()) == 14
    for name in ("dev/101", "101"):
        row = found.find(name)
        assert row is not None
        assert row.image == "dev/101"
    assert found.find("99") is None
    write_part(folder, "val", features(1, 9), ["101"])
    with pytest.raises(DataError, match="has an image 101 in several parts, such as dev/101; name the part too"):
        open_features(folder).find("101")


def test_images_beside_captions_are_not_named_a_second_time(folder: Path) -> None:
    with pytest.raises(ConfigError, match="are features beside its captions; leave out --images"):
        read_dataset(folder, images=folder)


def test_a_model_is_not_judged_by_what_it_learned(folder: Path) -> None:
    check_apart(read_dataset(folder, "train"), read_dataset(folder, "val"))
    with pytest.raises(DataError, match="4 of the 4 validation images are training images too"):
        check_apart(read_dataset(folder, "train"), read_dataset(folder, "train"))


def test_a_sound_folder_has_no_problems_and_progress_ends_at_its_rows(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert list(check_folder(folder, progress=lambda done, total: seen.append((done, total)))) == []
    assert seen[-1] == (14, 14)


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


Damage = Callable[[Path], object]
BAD: dict[str, tuple[Damage, str]] = {
    "too few captions": (
        lambda folder: (folder / "train_caps.txt").write_text("a\n" * 19),
        "train_ims.npy: wrong size: 4 rows for 19 captions in train_caps.txt; expected an image for every 5 "
        "captions, or each image 5 times; copy both files again",
    ),
    "two captions an image": (
        lambda f: (f / "train_caps.txt").write_text("a\n" * 8),
        "train_ims.npy: wrong size: 4 rows for 8",
    ),
    "no captions": (lambda f: (f / "train_caps.txt").write_bytes(b""), "train_ims.npy: wrong size: 4 rows for 0 captions"),
    "no caption file": (lambda f: (f / "train_caps.txt").unlink(), "train_caps.txt: missing file: no such file"),
    "no images": (lambda f: np.save(f / "train_ims.npy", features(0, 0)), "train_ims.npy: wrong size: 0 rows for 20 captions"),
    "half an array": (
        lambda f: (f / "train_ims.npy").write_bytes((f / "train_ims.npy").read_bytes()[:200]),
        "train_ims.npy: wrong size: no whole .npy",
    ),
    "an empty file": (lambda f: (f / "train_ims.npy").write_bytes(b""), "train_ims.npy: wrong size: no whole .npy"),
    "text": (lambda f: (f / "train_ims.npy").write_bytes(b"no array"), "train_ims.npy: wrong size: no whole .npy"),
    "a pickle": (
        lambda f: (f / "train_ims.npy").write_bytes(saved(np.array([{}] * 4, dtype=object))),
        "train_ims.npy: wrong size: no whole .npy",
    ),
    "whole numbers": (
        lambda f: np.save(f / "train_ims.npy", np.ones((4, 3, 8), np.int64)),
        "train_ims.npy: wrong type: an array of 4 x 3 x 8 int64; expected images x regions x numbers",
    ),
    "numbers alone": (lambda f: np.save(f / "train_ims.npy", np.ones(4)), "train_ims.npy: wrong type: an array of 4 float64"),
    "no regions": (
        lambda f: np.save(f / "train_ims.npy", np.ones((4, 0, 8))),
        "train_ims.npy: wrong type: an array of 4 x 0 x 8",
    ),
    "too few ids": (
        lambda f: (f / "train_ids.txt").write_text("1\n2\n3\n"),
        "train_ids.txt: wrong size: 3 ids; expected one for each of 4 images, or of their captions; delete it",
    ),
    "an id twice": (
        lambda f: (f / "train_ids.txt").write_text("1\n2\n3\n2\n"),
        "train_ids.txt: duplicate image: the id '2' of two",
    ),
    "ids in another encoding": (
        lambda f: (f / "train_ids.txt").write_bytes(b"1\n\xff\n3\n4\n"),
        "train_ids.txt: not UTF-8: ids that are not UTF-8",
    ),
    "rows that stand five times in part": (
        lambda f: np.save(f / "train_ims.npy", np.concatenate([np.repeat(features(1, 0), 5, axis=0), features(15, 1)])),
        "train_ims.npy: wrong size: rows that stand five times and others that do not",
    ),
}


@pytest.mark.parametrize("damage", BAD)
def test_files_that_do_not_fit_together_are_one_sentence_by_reading_and_a_problem_by_checking(
    folder: Path, damage: str
) -> None:
    change, expected = BAD[damage]
    change(folder)
    (problem,) = check_folder(folder)
    assert str(problem).startswith(expected)
    with pytest.raises(DataError) as caught:
        read_dataset(folder, "train")
    file, _, rest = expected.split(": ", 2)
    assert str(caught.value).startswith(f"{folder / file}: {rest}")
    assert "\n" not in str(caught.value)
    assert len(read_dataset(folder, "val")) == 3, "another part is read"


@pytest.mark.parametrize(("line", "reason"), [(b"", "blank caption"), (b" \t", "blank caption"), (b"\xff", "not UTF-8")])
def test_a_bad_caption_is_named_with_its_line_or_skipped(folder: Path, line: bytes, reason: str) -> None:
    lines = (folder / "dev_caps.txt").read_bytes().split(b"\n")
    (folder / "dev_caps.txt").write_bytes(b"\n".join([*lines[:6], line, *lines[7:]]))
    (problem,) = check_folder(folder)
    assert str(problem).startswith(f"dev_caps.txt, line 7 (image dev/101): {reason}: ")
    with pytest.raises(DataError) as caught:
        read_dataset(folder, "val")
    assert str(caught.value).startswith(f"{folder / 'dev_caps.txt'}, line 7: ")
    data = read_dataset(folder, "val", skip_bad=True)
    assert [len(example.captions) for example in data.examples] == [5, 4, 5], "the others keep their images"
    assert data.skipped == {reason: 1}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_found(folder: Path, value: float) -> None:
    images = np.load(folder / "dev_ims.npy")
    images[2, 1, 3] = value
    np.save(folder / "dev_ims.npy", images)
    (problem,) = check_folder(folder)
    assert str(problem).startswith("dev_ims.npy, line 3 (image dev/102): not a number: a number that is not finite")
    rows = read_dataset(folder, "val").examples
    assert boxes(rows[1].source).shape == (REGIONS, FEATURES)
    with pytest.raises(DataError, match=r"dev_ims\.npy, row 3 \(image dev/102\) has numbers that are not finite"):
        boxes(rows[2].source)


def test_a_model_of_boxes_says_that_there_are_none(folder: Path) -> None:
    source = read_dataset(folder, "val").examples[0].source
    assert isinstance(source, DetectionSource)
    with pytest.raises(DataError) as caught:
        source.detections(2054)
    assert str(caught.value) == (
        f"{folder / 'dev_ims.npy'}, row 1 (image dev/100) has 8 numbers a region and no boxes; expected 2,054: train a "
        "model with region_features = 8 and region_geometry = 0"
    )


def test_files_that_change_while_they_are_read_are_named(folder: Path) -> None:
    source = read_dataset(folder, "val").examples[2].source
    np.save(folder / "dev_ims.npy", features(2, 0))
    with pytest.raises(DataError, match="was changed since the data set was read"):
        boxes(source)
