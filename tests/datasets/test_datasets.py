"""Reading datasets: the same data from every format, and every bad row by place and by count."""

import csv
import io
import json
import multiprocessing
import os
import pickle
import struct
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

from aladin.datasets import Dataset, formats, read_dataset
from aladin.errors import ConfigError, DataError

Rows = list[tuple[str, list[str], str]]  # image, captions, split

ROWS: Rows = [
    ("photos/red.jpg", ["A red field.", 'a "red", thing'], "train"),
    ("green.jpg", ["Grün,\tganz grün"], "val"),
    ("blue.jpg", ["a blue sea", "the sky", "a blue sea"], "train"),
]


def jpeg(name: str) -> bytes:
    """A picture of its own for every name, hardly larger than its header."""
    file = io.BytesIO()
    colour = (len(name) * 37 % 256, sum(name.encode()) % 256, 128)
    Image.new("RGB", (8, 8), colour).save(file, "JPEG")
    return file.getvalue()


def write_images(folder: Path, rows: Rows) -> None:
    for name, _, _ in rows:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(name))


def caption_lines(rows: Rows) -> str:
    return "".join(json.dumps({"image": name, "captions": texts, "split": split}) + "\n" for name, texts, split in rows)


def write_folder(folder: Path, rows: Rows) -> Path:
    write_images(folder, rows)
    (folder / "captions.jsonl").write_text(caption_lines(rows))
    return folder


def write_zip(folder: Path, rows: Rows, root: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, _, _ in rows:
            archive.writestr(f"{root}{name}", jpeg(name))
        archive.writestr(f"{root}captions.jsonl", caption_lines(rows))
    return path


def write_karpathy(folder: Path, rows: Rows) -> Path:
    write_images(folder, rows)
    records = []
    for number, (name, texts, split) in enumerate(rows):
        *parent, filename = name.split("/")
        record = {"filename": filename, "split": split, "imgid": number, "sentences": [{"raw": text} for text in texts]}
        records.append(record | ({"filepath": parent[0]} if parent else {}))
    return write_json(folder, {"dataset": "tiny", "images": records})


def write_coco(folder: Path, rows: Rows) -> Path:
    write_images(folder, rows)
    images = [{"id": 10 + number, "file_name": name} for number, (name, _, _) in enumerate(rows)]
    notes = [{"image_id": 10 + number, "caption": text} for number, (_, texts, _) in enumerate(rows) for text in texts]
    return write_json(folder, {"images": images, "annotations": notes})


def write_json(folder: Path, document: object) -> Path:
    path = folder / "dataset_tiny.json"
    path.write_text(json.dumps(document))
    return path


def pairs(rows: Rows) -> list[tuple[str, str, str]]:
    return [(name, text, split) for name, texts, split in rows for text in texts]


def write_delimited(path: Path, rows: Rows, delimiter: str) -> Path:
    write_images(path.parent, rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["caption", "image", "split"])
        writer.writerows((text, name, split) for name, text, split in pairs(rows))
    return path


def write_csv(folder: Path, rows: Rows) -> Path:
    return write_delimited(folder / "pairs.csv", rows, ",")


def write_tsv(folder: Path, rows: Rows) -> Path:
    return write_delimited(folder / "pairs.tsv", rows, "\t")


def write_pair_lines(folder: Path, rows: Rows) -> Path:
    write_images(folder, rows)
    path = folder / "pairs.jsonl"
    lines = [json.dumps({"file": name, "text": text, "split": split}, ensure_ascii=False) for name, text, split in pairs(rows)]
    path.write_bytes("\n".join(lines).encode("utf-8"))
    return path


def write_parquet(folder: Path, rows: Rows) -> Path:
    write_images(folder, rows)
    path = folder / "pairs.parquet"
    names, texts, splits = zip(*pairs(rows), strict=True)
    table = pyarrow.table({"image_path": names, "title": texts, "split": pyarrow.array(splits).dictionary_encode()})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_webdataset(folder: Path, rows: Rows) -> Path:
    members: dict[str, bytes] = {}
    for name, texts, split in rows:
        members[f"./{name}"] = jpeg(name)
        record = {"status": "success", "split": split, "captions": texts}
        members[f"./{name.removesuffix('.jpg')}.json"] = json.dumps(record).encode()
    return write_tar(folder / "00000.tar", members)


WRITERS = {
    "folder": write_folder,
    "zip": write_zip,
    "karpathy": write_karpathy,
    "coco": write_coco,
    "csv": write_csv,
    "tsv": write_tsv,
    "pair lines": write_pair_lines,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
}
every_format = pytest.mark.parametrize("form", WRITERS)


def content(dataset: Dataset, splits: bool = True) -> list[tuple[str, tuple[str, ...], str, bytes]]:
    return [(e.id, e.captions, e.split if splits else "", e.source.read()) for e in dataset.examples]


def expected(rows: Rows, splits: bool = True) -> list[tuple[str, tuple[str, ...], str, bytes]]:
    return [(name, tuple(text.strip() for text in texts), split if splits else "", jpeg(name)) for name, texts, split in rows]


# What every format has in common


@every_format
def test_the_same_data_reads_the_same_from_every_format(form, tmp_path):
    dataset = read_dataset(WRITERS[form](tmp_path, ROWS))
    assert content(dataset) == expected(ROWS, splits=form != "coco")
    assert dataset.skipped == {}


texts = some.text(some.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@pytest.mark.slow
@every_format
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions=some.lists(some.lists(texts, min_size=1, max_size=3), min_size=1, max_size=3))
def test_any_caption_survives_every_format_but_for_white_space_around_it(form, tmp_path, captions):
    rows = [(f"{number}.jpg", list(some_texts), "test") for number, some_texts in enumerate(captions)]
    dataset = read_dataset(WRITERS[form](tmp_path, rows))
    assert content(dataset, splits=False) == expected(rows, splits=False)


@pytest.mark.parametrize("form", [form for form in WRITERS if form != "coco"])
def test_a_split_holds_its_images_alone(form, tmp_path):
    path = WRITERS[form](tmp_path, ROWS)
    assert content(read_dataset(path, split="train")) == expected([row for row in ROWS if row[2] == "train"])


@every_format
def test_a_split_that_is_not_there_is_an_error_that_names_those_that_are(form, tmp_path):
    path = WRITERS[form](tmp_path, ROWS)
    with pytest.raises(DataError) as caught:
        read_dataset(path, split="test")
    if form == "coco":
        assert str(caught.value) == f"{path} has no splits, so none called 'test'; read it without --split"
    else:
        place = path / "captions.jsonl" if form == "folder" else path
        assert str(caught.value) == f"{place} has no split 'test'; its images are in train (2), val (1)"


@every_format
def test_a_source_survives_pickling(form, tmp_path):
    dataset = read_dataset(WRITERS[form](tmp_path, ROWS))
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy == dataset
    assert content(copy) == content(dataset)


@every_format
def test_a_source_whose_file_is_gone_names_it(form, tmp_path):
    dataset = read_dataset(WRITERS[form](tmp_path, ROWS))
    source = dataset.examples[0].source
    source.path.unlink()
    with pytest.raises(DataError, match=r"red\.jpg.*cannot be read: No such file"):
        source.read()


@pytest.mark.slow
@every_format
def test_reading_goes_on_in_forked_processes_and_in_threads(form, tmp_path):
    dataset = read_dataset(WRITERS[form](tmp_path, ROWS))
    before = content(dataset)
    reader, writer = multiprocessing.Pipe(duplex=False)

    def send() -> None:
        writer.send(content(dataset))

    process = multiprocessing.get_context("fork").Process(target=send)
    process.start()
    assert content(dataset) == before  # at the same time as the other process
    assert reader.recv() == before
    process.join()
    with ThreadPoolExecutor(4) as pool:
        assert all(found == before for found in pool.map(content, [dataset] * 20))


def test_owners_name_the_image_of_every_caption(tmp_path):
    dataset = read_dataset(write_folder(tmp_path, ROWS))
    assert len(dataset) == 3
    assert dataset.caption_count == len(dataset.captions) == 6
    np.testing.assert_array_equal(dataset.owners, [0, 0, 1, 2, 2, 2])
    assert all(caption in dataset.examples[row].captions for caption, row in zip(dataset.captions, dataset.owners, strict=True))


def test_restval_counts_as_train(tmp_path):
    rows = [("a.jpg", ["a"], "restval"), ("b.jpg", ["b"], "train")]
    assert [e.split for e in read_dataset(write_karpathy(tmp_path, rows), split="train").examples] == ["train", "train"]


def test_images_of_other_splits_need_not_be_there(tmp_path):
    path = write_karpathy(tmp_path, ROWS)
    (tmp_path / "green.jpg").unlink()
    assert len(read_dataset(path, split="train")) == 2
    with pytest.raises(DataError, match=r"images\[1\]: image 'green.jpg' is not in "):
        read_dataset(path)


@pytest.mark.parametrize("form", ["folder", "zip", "karpathy", "coco", "csv", "pair lines", "parquet"])
@pytest.mark.parametrize("packed", [False, True])
def test_images_may_be_in_another_folder_or_zip(form, packed, tmp_path):
    images = tmp_path / "elsewhere"
    write_images(images, ROWS)
    if packed:
        with zipfile.ZipFile(tmp_path / "elsewhere.zip", "w") as archive:
            for name, _, _ in ROWS:
                archive.write(images / name, name)
        images = tmp_path / "elsewhere.zip"
    (tmp_path / "data").mkdir()
    path = WRITERS[form](tmp_path / "data", ROWS)
    for name, _, _ in ROWS:
        (tmp_path / "data" / name).unlink(missing_ok=True)
    dataset = read_dataset(path, images=images)
    assert content(dataset, splits=False) == expected(ROWS, splits=False)
    assert all(images in (e.source.path, *e.source.path.parents) for e in dataset.examples)


def test_images_that_are_neither_folder_nor_zip_are_a_setting_to_correct(tmp_path):
    path = write_csv(tmp_path, ROWS)
    with pytest.raises(ConfigError, match="there is no folder or zip of images"):
        read_dataset(path, images=tmp_path / "nowhere")


def test_images_beside_a_tar_are_a_setting_to_correct(tmp_path):
    path = write_webdataset(tmp_path, ROWS)
    with pytest.raises(ConfigError, match="are inside it; leave out --images"):
        read_dataset(path, images=tmp_path)


def test_an_unknown_split_is_a_setting_to_correct(tmp_path):
    with pytest.raises(ConfigError, match="there is no split 'dev'; choose train, val or test"):
        read_dataset(write_folder(tmp_path, ROWS), split="dev")


# Zip


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_may_hold_everything_in_one_folder(compression, tmp_path):
    path = write_zip(tmp_path, ROWS, root="flickr/", compression=compression)
    assert content(read_dataset(path)) == expected(ROWS)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_image_damaged_in_the_zip_is_never_handed_out(compression, tmp_path):
    path = write_zip(tmp_path, ROWS, compression=compression)
    source = read_dataset(path).examples[0].source
    whole = path.read_bytes()
    header = struct.calcsize("<30x") + len("photos/red.jpg")
    for place in range(header, header + source.stored_size, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"image 'photos/red.jpg' in .*data.zip is damaged"):
            source.read()
    path.write_bytes(whole[:20])
    with pytest.raises(DataError, match="is damaged"):
        source.read()


def test_a_zip_of_an_unknown_compression_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'photos/red.jpg' in .* is encrypted or not deflated"):
        read_dataset(write_zip(tmp_path, ROWS, compression=zipfile.ZIP_BZIP2))


def test_a_zip_without_captions_says_what_was_looked_for(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.jpg", jpeg("a.jpg"))
    with pytest.raises(DataError, match=r"has 0 files captions\.jsonl where one was expected; give a folder or \.zip with"):
        read_dataset(tmp_path / "data.zip")


def test_a_damaged_zip_is_an_error_whatever_byte_was_hit(tmp_path):
    path = write_zip(tmp_path, ROWS[:1], compression=zipfile.ZIP_DEFLATED)
    whole = path.read_bytes()
    good = expected(ROWS[:1])
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = content(read_dataset(path))
        except DataError:
            continue
        assert found == good, f"byte {place} was changed"
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="is not a readable zip"):
        read_dataset(path)


# img2dataset


def test_a_folder_of_shards_is_read_in_order_and_keeps_equal_names_apart(tmp_path):
    for shard in ("00001", "00000"):
        write_tar(tmp_path / f"{shard}.tar", {"0.png": b"png", "0.txt": f" from {shard}\n".encode()})
    (tmp_path / "00000.parquet").write_bytes(b"")  # img2dataset writes one beside each tar
    dataset = read_dataset(tmp_path)
    assert [(e.id, e.captions) for e in dataset.examples] == [
        ("00000.tar/0.png", ("from 00000",)),
        ("00001.tar/0.png", ("from 00001",)),
    ]


def test_a_caption_may_stand_in_txt_or_in_json(tmp_path):
    members = {
        "1.JPG": b"1",
        "1.txt": b"from txt",
        "1.json": b'{"caption": "from json"}',
        "._1.jpg": b"of the system",
        "readme.md": b"of the author",
        "2.webp": b"2",
        "2.json": b'{"caption": "from json"}',
        "3.jpg": b"",
        "3.json": b'{"status": "failed_to_resize", "caption": null}',
    }
    dataset = read_dataset(write_tar(tmp_path / "0.tar", members))
    assert [(e.id, e.captions) for e in dataset.examples] == [("1.JPG", ("from txt",)), ("2.webp", ("from json",))]
    assert dataset.examples[1].source.read() == b"2"


@pytest.mark.parametrize(
    ("members", "reason", "message"),
    [
        ({"1.txt": b"a"}, "image is missing", "entry '1': there is no image (jpg,"),
        ({"1.jpg": b""}, "no captions", "entry '1': image '1.jpg' has no captions; add at least one or pass --skip-bad"),
        ({"1.jpg": b"", "1.txt": b" \n"}, "blank caption", "entry '1': image '1.jpg' has a blank caption"),
        ({"1.jpg": b"", "1.txt": b"\xff"}, "not UTF-8", "entry '1': byte 1 is not UTF-8"),
        ({"1.jpg": b"", "1.json": b"{"}, "not JSON", "entry '1': this is not JSON"),
        ({"1.jpg": b"", "1.json": b'{"caption": 5}'}, "wrong type", "entry '1': a caption of image '1.jpg' is 5; make it text"),
        ({"../1.jpg": b"", "../1.txt": b"a"}, "path leaves the folder", "entry '../1': image path '../1.jpg' leads out"),
    ],
)
def test_a_bad_entry_of_a_tar_is_named_or_counted(members, reason, message, tmp_path):
    path = write_tar(tmp_path / "0.tar", {"0.jpg": b"good", "0.txt": b"good", **members})
    check_bad(path, f"{path}, {message}", reason)


@pytest.mark.parametrize("damage", ["cut within an image", "cut within a header", "spoilt header"])
def test_a_damaged_tar_keeps_what_stands_before_the_damage(damage, tmp_path):
    members = {"0.jpg": b"good", "0.txt": b"good", "1.jpg": b"x" * 2000, "1.txt": b"lost"}
    path = write_tar(tmp_path / "0.tar", members)
    whole = path.read_bytes()
    header = whole.index(b"1.jpg")
    if damage == "spoilt header":
        path.write_bytes(whole[:header] + b"?" + whole[header + 1 :])
    else:
        path.write_bytes(whole[: header + (700 if damage == "cut within an image" else 300)])
    check_bad(path, f"{path}: not a whole, uncompressed tar (", "damaged tar")


def test_a_compressed_tar_is_an_error(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"0\.tar: not a whole, uncompressed tar .*; fetch it again, unpack \.gz, or pass"):
        read_dataset(tmp_path / "0.tar")


def test_a_tar_cut_after_it_was_read_is_an_error(tmp_path):
    path = write_webdataset(tmp_path, ROWS)
    source = read_dataset(path).examples[0].source
    os.truncate(path, source.offset + 10)
    with pytest.raises(DataError, match=r"00000\.tar ends within 'photos/red\.jpg'"):
        source.read()


# Bad rows


def check_bad(path: Path, message: str, reason: str, good: int = 1) -> None:
    """A dataset with one bad row: an error that begins with `message`, or, skipped, one count of `reason`."""
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(" or pass --skip-bad")
    dataset = read_dataset(path, skip_bad=True)
    assert dataset.skipped == {reason: 1}
    assert len(dataset) == good


GOOD = b'{"image": "good.jpg", "captions": ["good"], "split": "train"}\n'


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b"{image: 1}", "not JSON", "this is not JSON (Expecting property name"),
        (b"[" * 100_000, "not JSON", "this is not JSON ("),
        (b'{"image": "caf\xe9.jpg"}', "not UTF-8", "byte 15 is not UTF-8; save it as UTF-8"),
        (b"[1]", "wrong type", "this is [1]; make it an object"),
        (b'{"captions": ["a"]}', "missing key", "there is no 'image' or 'file' or"),
        (b'{"image": "good.jpg"}', "missing key", "there is no 'captions' or 'caption' or"),
        (b'{"image": 7, "captions": ["a"]}', "wrong type", "the image's path is 7; make it text"),
        (b'{"image": "", "captions": ["a"]}', "missing key", "the image's path is ''; name a file"),
        (b'{"image": "new.jpg", "captions": []}', "no captions", "image 'new.jpg' has no captions; add at least one"),
        (b'{"image": "new.jpg", "captions": "a"}', "wrong type", "'captions' of image 'new.jpg' is 'a'; make it a list"),
        (b'{"image": "new.jpg", "captions": ["a", " \\n"]}', "blank caption", "image 'new.jpg' has a blank caption"),
        (b'{"image": "new.jpg", "captions": ["a", 3]}', "wrong type", "a caption of image 'new.jpg' is 3; make it text"),
        (b'{"image": "gone.jpg", "captions": ["a"]}', "image is missing", "image 'gone.jpg' is not in "),
        (b'{"image": "\\u0000", "captions": ["a"]}', "image is missing", "image '\\x00' is not in "),
        (b'{"image": "\\ud800", "captions": ["a"]}', "image is missing", "image '\\ud800' is not in "),
        (b'{"image": "photos", "captions": ["a"]}', "image is missing", "image 'photos' is not in "),
        (b'{"image": "good.jpg", "captions": ["b"], "split": "train"}', "image is repeated", "image 'good.jpg' came before"),
        (b'{"image": "good.jpg", "captions": ["good"], "split": "val"}', "image in two splits", "image 'good.jpg' is in split"),
        (
            b'{"image": "new.jpg", "captions": ["a"], "split": "dev"}',
            "unknown split",
            "image 'new.jpg' is in split 'dev'; write",
        ),
        (b'{"image": "new.jpg", "captions": ["a"], "split": [1]}', "unknown split", "image 'new.jpg' is in split [1]; write"),
    ],
)
def test_a_bad_line_is_named_or_counted(line, reason, message, tmp_path):
    write_images(tmp_path, [("good.jpg", [], ""), ("new.jpg", [], ""), ("photos/red.jpg", [], "")])
    (tmp_path / "captions.jsonl").write_bytes(GOOD + b"\n" + line + b"\n")
    check_bad(tmp_path, f"{tmp_path / 'captions.jsonl'}, line 3: {message}", reason)


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "..\\secret.jpg", "C:\\secret.jpg", "\\\\host\\secret.jpg"]
)
@pytest.mark.parametrize("form", [form for form in WRITERS if form != "webdataset"])
def test_no_format_lets_a_path_leave_the_folder(form, name, tmp_path):
    (tmp_path / "in").mkdir()
    write_images(tmp_path / "in", [("good.jpg", [], "")])
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    mark = "good.jpg"
    path = WRITERS[form](tmp_path / "in", [(mark, ["good"], "")])
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("captions.jsonl", caption_lines([(name, ["bad"], "")]))
    elif form == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"image": [name], "caption": ["bad"]}), path)
    else:
        file = path / "captions.jsonl" if form == "folder" else path
        stored = name if form in ("csv", "tsv") else json.dumps(name)[1:-1]
        file.write_text(file.read_text().replace(mark, stored))
    with pytest.raises(DataError, match="leads out of the folder; make it relative to it or pass --skip-bad"):
        read_dataset(path)


def test_the_line_of_a_zip_is_named_too(tmp_path):
    path = write_zip(tmp_path, ROWS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.txt", "")
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if name != "blue.jpg"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
    check_bad(path, f"{path}/captions.jsonl, line 3: image 'blue.jpg' is not in {path}; add it", "image is missing", good=2)


def test_the_same_line_twice_is_one_image(tmp_path):
    write_folder(tmp_path, ROWS + ROWS[:1])
    assert content(read_dataset(tmp_path)) == expected(ROWS)


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    for path in (write_folder(tmp_path, ROWS) / "captions.jsonl", write_csv(tmp_path, ROWS)):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert content(read_dataset(path)) == expected(ROWS)


def test_names_of_one_file_are_one_image(tmp_path):
    write_images(tmp_path, [("good.jpg", [], "")])
    (tmp_path / "pairs.csv").write_text("image,caption\ngood.jpg,one\n./good.jpg,two\n.//good.jpg,three\n")
    (example,) = read_dataset(tmp_path / "pairs.csv").examples
    assert (example.id, example.captions) == ("good.jpg", ("one", "two", "three"))


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b"good.jpg", "wrong number of columns", "1 columns where the first line names 3"),
        (b"good.jpg,a,b,train", "wrong number of columns", "4 columns where the first line names 3"),
        (b'good.jpg,"a"b,train', "not CSV", "the fields cannot be told apart"),
        (b"good.jpg,caf\xe9,train", "not UTF-8", "byte 4 is not UTF-8"),
        (b"good.jpg, ,train", "blank caption", "image 'good.jpg' has a blank caption"),
        (b",a,train", "missing key", "the image's path is ''; name a file"),
        (b"gone.jpg,a,train", "image is missing", "image 'gone.jpg' is not in "),
        (b"good.jpg,a,dev", "unknown split", "image 'good.jpg' is in split 'dev'"),
        (b"good.jpg,a,val", "image in two splits", "image 'good.jpg' is in split 'val', before in 'train'"),
    ],
)
def test_a_bad_row_of_a_csv_is_named_or_counted(line, reason, message, tmp_path):
    write_images(tmp_path, [("good.jpg", [], "")])
    path = tmp_path / "pairs.csv"
    path.write_bytes(b'image,caption,split\n\ngood.jpg,"of two\nlines",train\n' + line + b"\ngood.jpg,last,train\n")
    check_bad(path, f"{path}, line 5: {message}", reason)
    assert read_dataset(path, skip_bad=True).captions == ("of two\nlines", "last")


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "has no column of the image among none; call it image or file or"),
        (b"image,words\n", "has no column of the caption among 'image', 'words'; call it caption or text or title"),
        (b'"image"x,caption\n', ", line 1: the fields cannot be told apart"),
        ("image,caption\n".encode("utf-16"), ", line 1: byte 1 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_csv_whose_first_line_cannot_be_used_is_an_error_even_when_rows_are_skipped(start, message, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(start)
    with pytest.raises(DataError) as caught:
        read_dataset(path, skip_bad=True)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("caption", "reason", "message"),
    [
        (None, "no captions", "image 'good.jpg' has no captions"),
        (b"", "blank caption", "image 'good.jpg' has a blank caption"),
        (b"caf\xe9", "not UTF-8", "byte 4 is not UTF-8"),
    ],
)
def test_a_bad_row_of_parquet_is_named_or_counted(caption, reason, message, tmp_path):
    write_images(tmp_path, [("good.jpg", [], "")])
    path = tmp_path / "pairs.parquet"
    captions = pyarrow.array([b"good", caption, b"good"], pyarrow.binary())
    captions = captions.view(pyarrow.string())  # unlike cast, view lets bytes pass that are not UTF-8
    pyarrow.parquet.write_table(pyarrow.table({"filename": ["good.jpg"] * 3, "text": captions}), path)
    check_bad(path, f"{path}, row 2: {message}", reason)


def test_numbers_in_parquet_are_no_captions(tmp_path):
    write_images(tmp_path, [("good.jpg", [], "")])
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": ["good.jpg"], "caption": [3]}), path)
    with pytest.raises(DataError, match=r"row 1: a caption of image 'good\.jpg' is 3; make it text"):
        read_dataset(path)


def test_a_file_that_only_claims_to_be_parquet_is_an_error(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(DataError, match=r"pairs\.parquet cannot be read as Parquet"):
        read_dataset(path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = write_parquet(tmp_path, ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow; run pip install 'aladin\[train\]'"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ("text", "wrong type", "this is 'text'; make it an object"),
        ({"sentences": [{"raw": "a"}]}, "missing key", "there is no 'filename'"),
        ({"filename": "new.jpg"}, "missing key", "there is no 'sentences'"),
        ({"filename": "new.jpg", "sentences": {}}, "wrong type", "'sentences' is {}; make it a list"),
        ({"filename": "new.jpg", "sentences": ["a"]}, "wrong type", "a sentence is 'a'; make it an object"),
        ({"filename": "new.jpg", "sentences": [{}]}, "missing key", "there is no 'raw'"),
        ({"filename": "new.jpg", "sentences": []}, "no captions", "image 'new.jpg' has no captions; add at least one"),
        ({"filename": "new.jpg", "sentences": [{"raw": "\t"}]}, "blank caption", "image 'new.jpg' has a blank caption"),
        ({"filename": "new.jpg", "filepath": 5, "sentences": []}, "wrong type", "the image's path is 5; make it text"),
        ({"filename": "gone.jpg", "sentences": [{"raw": "a"}]}, "image is missing", "image 'gone.jpg' is not in "),
        ({"filename": "new.jpg", "sentences": [{"raw": "a"}], "split": "dev"}, "unknown split", "image 'new.jpg' is in split"),
    ],
)
def test_a_bad_record_of_karpathy_is_named_or_counted(record, reason, message, tmp_path):
    write_images(tmp_path, [("good.jpg", [], ""), ("new.jpg", [], "")])
    good = {"filename": "good.jpg", "split": "train", "sentences": [{"raw": "good"}]}
    path = write_json(tmp_path, {"images": [good, record]})
    check_bad(path, f"{path}, images[1]: {message}", reason)


@pytest.mark.parametrize(
    ("image", "annotation", "reason", "message"),
    [
        (None, {"image_id": 9, "caption": "a"}, "unknown image id", "annotations[1]: there is no image of id 9"),
        (None, {"caption": "a"}, "missing key", "annotations[1]: there is no 'image_id'"),
        (None, {"image_id": 1}, "missing key", "annotations[1]: there is no 'caption'"),
        (None, {"image_id": 1, "caption": ""}, "blank caption", "annotations[1]: image 'good.jpg' has a blank caption"),
        (None, {"image_id": 1.5, "caption": "a"}, "wrong type", "annotations[1]: 'image_id' is 1.5; make it a number"),
        (None, 3, "wrong type", "annotations[1]: this is 3; make it an object"),
        ({"id": 2, "file_name": "new.jpg"}, None, "no captions", "images[1]: image 'new.jpg' has no captions"),
        ({"id": 1, "file_name": "new.jpg"}, None, "image is repeated", "images[1]: image id 1 came before"),
        ({"id": 2}, None, "missing key", "images[1]: there is no 'file_name'"),
        ({"file_name": "new.jpg"}, None, "missing key", "images[1]: there is no 'id'"),
        (
            {"id": 2, "file_name": "gone.jpg"},
            {"image_id": 2, "caption": "a"},
            "image is missing",
            "images[1]: image 'gone.jpg' is not in ",
        ),
    ],
)
def test_a_bad_record_of_coco_is_named_or_counted(image, annotation, reason, message, tmp_path):
    write_images(tmp_path, [("good.jpg", [], ""), ("new.jpg", [], "")])
    images = [{"id": 1, "file_name": "good.jpg"}, image]
    annotations = [{"image_id": 1, "caption": "good"}, annotation]
    document = {"images": [r for r in images if r is not None], "annotations": [r for r in annotations if r is not None]}
    path = write_json(tmp_path, document)
    check_bad(path, f"{path}, {message}", reason)


def test_the_annotations_of_coco_may_come_in_any_order(tmp_path):
    path = write_coco(tmp_path, ROWS)
    document = json.loads(path.read_text())
    document["annotations"] = [document["annotations"][n] for n in (3, 0, 2, 4, 1, 5)]
    path.write_text(json.dumps(document))
    assert content(read_dataset(path)) == expected(ROWS, splits=False)


# What is no dataset at all


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'{"images": [\n{]}', "a.json: this is not JSON (Expecting property name enclosed in double quotes: line 2"),
        ("a.json", b"\xff{}", "a.json: byte 1 is not UTF-8; expected the JSON of Karpathy or COCO"),
        ("a.json", b"[]", "a.json: this is []; expected the JSON of Karpathy or COCO"),
        ("a.json", b'{"pictures": []}', 'a.json lacks the list "images"'),
        ("a.json", b'{"images": [], "annotations": 3}', 'a.json lacks the list "images"'),
        ("a.json", b'{"images": []}', "a.json holds no images with captions; add some or give another path"),
        ("a.json", b'{"images": [], "annotations": []}', "a.json holds no images with captions"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no images with captions"),
        ("a.csv", b"image,caption\n", "a.csv holds no images with captions"),
        ("a.txt", b"a.jpg a dog", "a.txt is of no known format; give a folder or .zip with captions.jsonl, a folder of .tar"),
        ("a.zip", b"nothing", "a.zip is not a readable zip"),
        ("a.tar", b"nothing", "a.tar: not a whole, uncompressed tar"),
    ],
)
def test_a_file_that_is_no_dataset_says_why(name, data, message, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_a_folder_without_a_dataset_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"has neither captions\.jsonl nor \.tar shards; give a folder or \.zip with"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("name", ["gone", "gone.zip", "gone.tar", "gone.csv", "gone/gone.json", "gone.parquet"])
def test_a_path_that_is_not_there_says_so(name, tmp_path):
    with pytest.raises(DataError, match=r"there is no file or folder .*gone"):
        read_dataset(tmp_path / name)


def test_a_file_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    with pytest.raises(DataError, match=r"loop\.csv cannot be read: .*; check the disk"):
        read_dataset(tmp_path / "loop.csv")


def test_a_dataset_of_bad_rows_alone_is_an_error_even_when_they_are_skipped(tmp_path):
    (tmp_path / "captions.jsonl").write_bytes(b'{\n{"image": "gone.jpg", "captions": ["a"]}\n')
    with pytest.raises(DataError, match=r"no row that can be used; skipped were image is missing \(1\), not JSON \(1\)"):
        read_dataset(tmp_path, skip_bad=True)


def test_a_format_is_one_module_of_the_folder_of_formats(tmp_path, monkeypatch):
    added = tmp_path / "formats"
    added.mkdir()
    (added / "bars.py").write_text(
        "def read(path, gathering):\n"
        "    for number, line in enumerate(path.read_text().splitlines(), 1):\n"
        "        with gathering.row(f'{path}, line {number}'):\n"
        "            gathering.add_pair(*line.split('|'), None)\n"
        "READERS = {'.bars': read}\n"
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(added)])
    formats.readers.cache_clear()
    try:
        (tmp_path / "a.jpg").write_bytes(jpeg("a.jpg"))
        (tmp_path / "pairs.bars").write_text("a.jpg|a dog\na.jpg|a cat")
        assert read_dataset(tmp_path / "pairs.bars").captions == ("a dog", "a cat")
        (tmp_path / "pairs.bars").write_text("a.jpg| ")
        with pytest.raises(DataError, match=r"pairs\.bars, line 1: image 'a\.jpg' has a blank caption"):
            read_dataset(tmp_path / "pairs.bars")
    finally:
        formats.readers.cache_clear()
        sys.modules.pop("aladin.datasets.formats.bars", None)
