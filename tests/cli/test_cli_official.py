import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import aladin
from aladin.cli import main
from aladin.encoder.folder import ModelFolder
from tests.tiny_official import (
    TINY,
    aladin_checkpoint,
    aladin_shapes,
    random_images,
    random_weights,
    write_detector_output,
    write_features,
    write_vinvl,
)

Run = Callable[..., tuple[int, str, str]]
COUNTS = [3, 5, 2, 6]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        printed = capfd.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_features(tmp_path / "features", random_images(COUNTS))


@pytest.fixture
def model(tmp_path: Path, run: Run) -> Path:
    torch.save(aladin_checkpoint(random_weights(aladin_shapes(TINY))), tmp_path / "model_best_rsum.pth.tar")
    vinvl = write_vinvl(tmp_path / "vinvl")
    code, output, errors = run("convert", tmp_path / "model_best_rsum.pth.tar", vinvl, tmp_path / "paper")
    assert (code, errors) == (0, "")
    assert output == (
        f"{tmp_path / 'paper'}: the original's quirks; 2 layers of 16, 2 in the matching head, "
        "regions of 8 + 6 numbers, pooling MrSw\n"
    )
    return tmp_path / "paper"


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """test_captions.pt of the images, as the original has it, and the keys of two of them."""
    images = [int(image.id) for image in random_images(COUNTS)]
    torch.save(
        {image: json.dumps([f"red {n}.", "a green picture"]) for n, image in enumerate(images)}, tmp_path / "test_captions.pt"
    )
    (tmp_path / "test_img_keys_1k.tsv").write_text(f"{images[2]}\n{images[0]}\n")
    return tmp_path / "test_captions.pt"


def test_a_researcher_converts_checks_and_evaluates(
    run: Run, model: Path, folder: Path, captions: Path, tmp_path: Path
) -> None:
    code, output, _ = run("features", "check", folder, "--numbers", TINY.region)
    assert code == 0
    assert output == f"{folder}: boxes end in width, height in 4 images\n{folder}: no problems\n"
    code, output, _ = run("features", "convert", captions, tmp_path / "all.jsonl")
    assert (code, output) == (0, f"{tmp_path / 'all.jsonl'}: 4 images\n")
    code, output, errors = run("evaluate", model, tmp_path / "all.jsonl", "--images", folder, "--rerank", 2, "--json")
    report = json.loads(output)
    assert code == 0, errors
    assert (report["subject"]["images"], report["subject"]["captions"]) == (4, 8)
    assert set(report["heads"]) == {"matching", "alignment", "two-stage k=2"}
    assert "images" in report["seconds"]
    assert "image features" not in report["seconds"]


def test_keys_choose_images_and_their_order(run: Run, folder: Path, captions: Path, tmp_path: Path, model: Path) -> None:
    code, output, _ = run("features", "convert", captions, folder, "--keys", tmp_path / "test_img_keys_1k.tsv")
    assert (code, output) == (0, f"{folder / 'captions.jsonl'}: 2 images\n")
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert [(line["image"], line["split"]) for line in lines] == [("114", "test"), ("100", "test")]
    code, output, _ = run("evaluate", model, folder, "--split", "test", "--json")
    assert code == 0
    assert json.loads(output)["subject"]["images"] == 2


def test_a_folder_of_caption_files_becomes_one_file_of_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, split in enumerate(("train", "minival", "test")):
        torch.save({number: ["a"]}, tmp_path / "data" / f"{split}_captions.pt")
    assert run("features", "convert", tmp_path / "data", tmp_path / "out")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert {line["image"]: line["split"] for line in lines} == {"0": "train", "1": "val", "2": "test"}


def test_val_captions_are_left_out_beside_minivals_on_which_alone_the_original_validates(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, images in (("train", [1]), ("val", [2, 3, 4]), ("minival", [3, 2])):
        torch.save({number: ["a"] for number in images}, tmp_path / "data" / f"{split}_captions.pt")
    code, output, _ = run("features", "convert", tmp_path / "data", tmp_path / "all.jsonl")
    left_out = f"{tmp_path / 'data' / 'val_captions.pt'} is left out, since minival_captions.pt is there\n"
    assert (code, output) == (0, f"{left_out}{tmp_path / 'all.jsonl'}: 3 images\n")
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [(line["image"], line["split"]) for line in lines] == [("3", "val"), ("2", "val"), ("1", "train")]
    code, output, _ = run("features", "convert", tmp_path / "data" / "val_captions.pt", tmp_path / "val.jsonl")
    assert (code, output) == (0, f"{tmp_path / 'val.jsonl'}: 3 images\n")


def test_a_detectors_own_output_is_named_and_converted(run: Run, model: Path, tmp_path: Path) -> None:
    table = write_detector_output(tmp_path / "detector" / "predictions.tsv", random_images(COUNTS))
    code, output, _ = run("features", "check", table.parent, "--numbers", TINY.region)
    assert code == 1
    assert output.splitlines() == [
        f"{table.parent}: boxes end in width, height in 4 images",
        "features.tsv: missing file: no such file, but 'feature' in the objects of predictions.tsv; expected one row an image; "
        f"`aladin features convert {table} DIR` writes a folder with one",
        f"{table.parent}: 1 problems: missing file (1)",
    ]
    for source in (table, table.parent):
        out = tmp_path / f"from-{source.name}"
        assert run("features", "convert", source, out)[:2] == (0, f"{out}: 4 images\n")
        assert run("features", "check", out, "--numbers", TINY.region)[0] == 0
    code, output, _ = run("score", model, "100", "red", "--features", out, "--json")
    assert (code, len(json.loads(output))) == (0, 1)
    before = table.read_bytes()
    code, _, errors = run("features", "convert", table, table.parent)
    assert (code, table.read_bytes()) == (1, before)
    assert errors == f"aladin: {table.parent} has a predictions.tsv already; give another folder or delete that one\n"


def test_features_go_to_npz_and_back_unchanged(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run("features", "convert", folder, tmp_path / "npz")[:2] == (0, f"{tmp_path / 'npz'}: 4 images\n")
    assert run("features", "convert", tmp_path / "npz", tmp_path / "again")[0] == 0
    for name in ("features.tsv", "features.lineidx", "imageid2idx.json"):
        if name.endswith("json"):
            assert json.loads((folder / name).read_bytes()) == json.loads((tmp_path / "again" / name).read_bytes())
        else:
            assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert run("features", "check", tmp_path / "again", "--numbers", TINY.region)[0] == 0


def test_shards_are_read_as_the_tables_are_that_they_were_made_of(
    run: Run, model: Path, folder: Path, captions: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    code, output, errors = run("features", "convert", folder, shards, "--to", "shards")
    assert (code, output, errors) == (0, f"{shards}: 4 images in 1 shard\n", "")
    code, output, _ = run("features", "check", shards, "--numbers", TINY.region)
    assert (code, output) == (0, f"{shards}: boxes end in width, height in 4 images\n{shards}: no problems\n")
    run("features", "convert", captions, tmp_path / "all.jsonl")
    measured = []
    for images in (folder, shards):
        code, output, errors = run("evaluate", model, tmp_path / "all.jsonl", "--images", images, "--json")
        assert code == 0, errors
        measured.append(json.loads(output)["heads"])
    assert measured[0] == measured[1]
    assert run("score", model, 107, "red", "--features", shards) == run("score", model, 107, "red", "--features", folder)
    assert run("features", "convert", shards, tmp_path / "tables")[0] == 0
    tables = (tmp_path / "tables" / "features.tsv").read_bytes()
    assert tables == (folder / "features.tsv").read_bytes()
    code, _, errors = run("features", "convert", folder, shards, "--to", "shards")
    assert (code, errors) == (1, f"aladin: {shards} has a shards.json already; give another folder or delete that one\n")
    (shards / "shards.json").unlink()
    code, output, errors = run("features", "convert", folder, shards, "--to", "shards")
    assert (code, output, errors) == (0, f"{shards}: 4 images in 1 shard\n", f"{shards}: 4 images are there already\n")


def test_npz_and_a_detectors_own_output_become_shards_too(run: Run, folder: Path, tmp_path: Path) -> None:
    write_detector_output(tmp_path / "own" / "predictions.tsv", random_images(COUNTS))
    run("features", "convert", folder, tmp_path / "npz")
    for source in ("own", "npz"):
        out = tmp_path / f"{source}-shards"
        code, output, errors = run("features", "convert", tmp_path / source, out, "--to", "shards", "--numbers", TINY.region)
        assert (code, output, errors) == (0, f"{out}: 4 images in 1 shard\n", "")
        assert run("features", "check", out, "--numbers", TINY.region)[0] == 0
        (out / "shards.json").unlink()
        assert run("features", "convert", tmp_path / source, out, "--to", "shards", "--numbers", TINY.region)[0] == 0


def test_problems_are_listed_and_counted_and_exit_with_1(run: Run, folder: Path) -> None:
    code, output, _ = run("features", "check", folder)
    *lines, last = output.splitlines()
    assert code == 1
    assert lines[0] == (
        "features.tsv, line 1 (image 100): wrong size: 14 numbers a box; expected 2,054; copy the row again, or say with "
        "--numbers what a box has"
    )
    assert len(lines) == 4
    assert last == f"{folder}: 4 problems: wrong size (4)"


def test_problems_are_json_for_programs(run: Run, folder: Path) -> None:
    (folder / "imageid2idx.json").write_text(json.dumps({image.id: 0 for image in random_images(COUNTS)} | {"100": 1}))
    code, output, _ = run("features", "check", folder, "--numbers", TINY.region, "--json")
    report = json.loads(output)
    assert code == 1
    assert report["counts"] == {"wrong row": 4}
    assert report["problems"][0] == {
        "file": "imageid2idx.json",
        "line": None,
        "image": "100",
        "kind": "wrong row",
        "found": "row 1",
        "expected": "0, which is line 1",
        "remedy": "delete it, it is not needed",
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("features", "check", "nowhere"), "there is no folder nowhere"),
        (("features", "convert", "nowhere", "out"), "nowhere holds no features.tsv, no .npz and no _captions.pt"),
        (("features", "convert", "empty", "out"), "empty holds no features.tsv, no .npz and no _captions.pt"),
        (("features", "convert", "features", "out", "--keys", "keys"), "--keys chooses among captions, and SOURCE is none"),
        (("features", "convert", "features/test_captions.pt", "out"), "there is no file features/test_captions.pt"),
        (("features", "convert", "npz", "features"), "features has a features.tsv already"),
        (("features", "convert", "npz", "file"), "file cannot be written: File exists"),
        (("convert", "nowhere.pt", "vinvl", "out"), "there is no file nowhere.pt"),
        (
            ("evaluate", "paper", "test_captions.pt"),
            "test_captions.pt is a pickle; turn captions into lines with `aladin features",
        ),
        (("evaluate", "features", "features"), "features has neither model.safetensors nor text.onnx"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "npz").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "test_captions.pt").write_bytes(b"")
    np.savez(tmp_path / "npz" / "1.npz", regions=np.ones((1, 9)))
    (folder / "captions.jsonl").write_text('{"image": "100", "captions": ["a"]}\n')
    code, output, errors = run(*arguments)
    assert (code, output) == (1, "")
    assert errors.startswith(f"aladin: {sentence}")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("features", "--half"), "--half and --shard-size are of shards; give --to shards, or leave them out"),
        (("test_captions.pt", "--to", "shards"), "--to shards is a form of features, and SOURCE holds captions; leave it out"),
    ],
)
def test_options_of_shards_are_refused_elsewhere(
    run: Run, folder: Path, captions: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    source, *options = words
    assert run("features", "convert", tmp_path / source, tmp_path / "out", *options) == (1, "", f"aladin: {expected}\n")
    assert not (tmp_path / "out").exists()


def test_features_are_checked_and_converted_without_pytorch(folder: Path, tmp_path: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; from aladin.cli import main; main(sys.argv[1:])"
    check = ["check", str(folder), "--numbers", str(TINY.region)]
    for arguments in (check, ["convert", str(folder), str(tmp_path / "npz")]):
        command = [sys.executable, "-c", script, "features", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, "")


def test_captions_are_not_written_over(run: Run, captions: Path, tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text("mine")
    code, _, errors = run("features", "convert", captions, tmp_path / "all.jsonl")
    assert code == 1
    assert errors == f"aladin: {tmp_path / 'all.jsonl'} exists; give another name or delete it\n"


def test_a_converted_model_reads_no_photographs(run: Run, model: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "captions.jsonl").write_text('{"image": "red.png", "captions": ["red"]}\n')
    code, _, errors = run("evaluate", model, photos)
    assert code == 1
    assert "image red.png is a photograph; this model reads a detector's regions" in errors
    code, _, errors = run("export", model, tmp_path / "exported", "--val", photos)
    assert code == 1
    assert "image red.png is a photograph; this model reads a detector's regions" in errors
    for command in (("index", photos), ("search", photos, "red"), ("serve", photos), ("explain", photos / "red.png", "red")):
        code, _, errors = run(*command, "--model", model)
        assert (code, len(errors.splitlines())) == (1, 1)
        assert f"{model} reads a detector's regions, and a photograph has none until a detector looks at it" in errors


@pytest.mark.slow
def test_a_converted_model_is_exported_and_then_scores_encodes_and_is_evaluated(
    run: Run, model: Path, folder: Path, tmp_path: Path
) -> None:
    images = [image.id for image in random_images(COUNTS)]
    rows = [{"image": image, "captions": [f"{letter} red picture.", "a"]} for image, letter in zip(images, "bcde", strict=True)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    exported = tmp_path / "exported"
    code, output, errors = run("export", model, exported, "--val", folder, "--precision", "fp32")
    assert (code, " MB; rsum on features: matching " in output) == (0, True), errors
    pairs = []
    for name in (model, exported):
        code, output, errors = run("score", name, images[1], "a red picture.", "blue", "--features", folder, "--json")
        assert code == 0, errors
        pairs.append([(pair["matching"], pair["alignment"]) for pair in json.loads(output)])
        assert run("encode", name, folder, tmp_path / f"{name.name}.npz")[0] == 0
        code, output, errors = run("evaluate", name, folder, "--json")
        assert (code, json.loads(output)["subject"]["images"]) == (0, 4), errors
    np.testing.assert_allclose(*pairs, atol=1e-4)
    with np.load(tmp_path / "paper.npz") as one, np.load(tmp_path / "exported.npz") as other:
        for name in ("image_vectors", "caption_vectors"):
            np.testing.assert_allclose(one[name], other[name], atol=1e-4)
    assert len(ModelFolder.open(exported).fingerprint) == 64
    code, _, errors = run("search", tmp_path, "red", "--model", exported)
    assert f"{exported} reads a detector's regions, and a photograph has none" in errors


def test_a_model_of_photographs_reads_no_features(run: Run, model_path: Path, folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"image": "100", "captions": ["a"]}\n')
    code, _, errors = run("evaluate", model_path, folder)
    assert code == 1
    assert "image 100 is a row of region features; this model reads photographs" in errors


def test_an_image_without_features_is_missing_and_may_be_skipped(run: Run, model: Path, folder: Path) -> None:
    rows = [{"image": image, "captions": ["red", "a picture"]} for image in ("100", "5", "107")]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, errors = run("evaluate", model, folder)
    assert code == 1
    assert f"line 2: image '5' is not in {folder}; add it" in errors
    code, output, errors = run("evaluate", model, folder, "--skip-bad", "--json")
    assert code == 0
    assert json.loads(output)["subject"]["images"] == 2
    assert "1 rows skipped: image is missing" in errors


def test_pairs_are_scored_and_vectors_written(run: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    images = [image.id for image in random_images(COUNTS)]
    arguments = ("score", model, images[0], "red", "a\x1b[31m", "--features", folder)
    code, output, _ = run(*arguments, "--json")
    expected = aladin.score(model, images[0], ["red", "a\x1b[31m"], features=folder)
    assert (code, json.loads(output)) == (0, [vars(pair) for pair in expected])
    code, output, _ = run(*arguments)
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()[1:]] == [f"{pair.matching:.4f}" for pair in expected]
    assert "\x1b" not in output
    rows = [{"image": image, "captions": ["red", "green"]} for image in images]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("encode", model, tmp_path / "data.jsonl", tmp_path / "out.npz", "--images", folder)
    code, output, _ = run(*arguments)
    assert (code, output) == (0, f"{tmp_path / 'out.npz'}: vectors of {len(images)} images and {2 * len(images)} captions\n")
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["images"].tolist() == images
        assert saved["owners"].tolist() == [row for row in range(len(images)) for _ in range(2)]
        np.testing.assert_allclose(np.linalg.norm(saved["image_vectors"], axis=1), 1, atol=1e-5)
        assert saved["caption_vectors"].shape == (2 * len(images), TINY.dim)
    assert run(*arguments)[0] == 1, "nothing is written over"
