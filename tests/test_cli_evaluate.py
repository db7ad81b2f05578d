import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

from aladin import evaluation
from aladin.checkpoints import save_model
from aladin.cli import main
from aladin.cli.evaluate import memory_size
from aladin.features import Features
from aladin.grid import TRUNK_CHANNELS
from tests.tiny_learning import tiny_model, write_tokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", *map(str, arguments)])
        printed = capfd.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture
def data(photos: Path) -> Path:
    """The photos with two captions each that name the colour; the last two are a split of their own."""
    pictures = sorted(photos.glob("*.png"))
    with (photos / "captions.jsonl").open("w") as file:
        for number, path in enumerate(pictures):
            split = "test" if number >= len(pictures) - 2 else "val"
            record = {"image": path.name, "captions": [path.stem, f"picture and {path.stem}"], "split": split}
            print(json.dumps(record), file=file)
    return photos


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder for learning; its image features are invented, since a trunk takes long to prepare."""
    tokenizer = write_tokenizer(tmp_path)
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "trained")

    def invented(dataset: object, *settings: object) -> Features:
        images = len(dataset)  # type: ignore[arg-type]
        maps = np.random.default_rng(0).normal(size=(1, images, TRUNK_CHANNELS, 4, 4)).astype(np.float16)
        return Features(maps, np.zeros((1, images, 1), dtype=np.int16))

    monkeypatch.setattr(evaluation, "cached_features", invented)
    return tmp_path / "trained"


def test_a_model_that_knows_the_colours_finds_every_picture(run: Run, model_path: Path, data: Path) -> None:
    code, output, _ = run(model_path, data, "--rerank", 2, "--json")
    report = json.loads(output)
    assert code == 0
    assert list(report["heads"]) == ["matching", "alignment", "two-stage k=2"]
    for head in report["heads"].values():
        for figures in head["directions"].values():
            assert figures["recalls"]["Recall@1"] == {"value": 100.0, "low": 100.0, "high": 100.0}
        assert head["rsum"]["value"] == 600.0
    assert report["subject"] == {
        "model": str(model_path),
        "data": str(data),
        "split": None,
        "images": 6,
        "captions": 12,
        "rerank": 2,
        "precision": "as exported",
    }
    assert set(report["seconds"]) == {"images", "captions", "matching", "alignment", "two-stage"}


def test_the_table_names_what_was_measured(run: Run, model_path: Path, data: Path) -> None:
    code, output, _ = run(model_path, data, "--split", "test")
    first, _, heading, *_ = output.splitlines()
    assert code == 0
    assert first == f"model {model_path} (as exported) on {data}, split test: 2 images, 4 captions, k = 100"
    assert heading.split()[:3] == ["head", "direction", "queries"]
    assert output.count("two-stage k=100") == 2


def test_markdown_is_a_table_to_paste(run: Run, model_path: Path, data: Path) -> None:
    code, output, _ = run(model_path, data, "--markdown", "--rerank", 0)
    assert code == 0
    assert len([line for line in output.splitlines() if line.startswith("|")]) == 2 + 2 * 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trained_model_is_measured_in_the_precision_asked_for(
    run: Run, trained: Path, data: Path, tmp_path: Path, precision: str
) -> None:
    code, output, _ = run(trained, data, "--json", "--precision", precision, "--cache", tmp_path / "cache", "--memory", "1M")
    report = json.loads(output)
    assert code == 0
    assert report["subject"]["precision"] == precision
    assert set(report["seconds"]) == {"image features", "images", "captions", "matching", "alignment", "two-stage"}
    # With k beyond the number of candidates, two stages are exhaustive alignment.
    assert report["heads"]["two-stage k=100"] == report["heads"]["alignment"]


def test_bad_rows_are_skipped_and_counted_when_asked(run: Run, model_path: Path, data: Path) -> None:
    with (data / "captions.jsonl").open("a") as file:
        print('{"image": "missing.png", "captions": ["gone"]}', file=file)
    code, output, errors = run(model_path, data, "--json", "--skip-bad")
    assert code == 0
    assert "1 rows skipped: image is missing" in errors
    assert json.loads(output)["subject"]["images"] == 6
    code, output, errors = run(model_path, data, "--json")
    assert (code, output) == (1, "")
    assert "missing.png" in errors


@pytest.mark.parametrize(
    ("model", "data_name", "options", "sentence"),
    [
        ("nowhere", "photos", (), "nowhere is not a folder; give a model folder"),
        ("empty", "photos", (), "empty has neither model.safetensors nor text.onnx; give a model folder"),
        ("model", "nowhere", (), "there is no file or folder"),
        ("model", "empty", (), "has neither captions.jsonl nor .tar shards"),
        ("model", "photos", ("--split", "train"), "has no split 'train'"),
        ("model", "photos", ("--split", "dev"), "there is no split 'dev'; choose train, val or test"),
        ("model", "photos", ("--precision", "bf16"), "has the precision that it was exported with"),
        ("model", "photos", ("--cache", "photos/captions.jsonl"), "cannot be made a folder"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run,
    model_path: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    data_name: str,
    options: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, output, errors = run(model_path if model == "model" else model, data_name, *options)
    assert (code, output) == (1, "")
    assert errors.startswith("aladin: ")
    assert sentence in errors
    assert len(errors.splitlines()) == 1


def test_a_picture_that_cannot_be_decoded_is_named(run: Run, model_path: Path, data: Path) -> None:
    (data / "red.png").write_bytes(b"not a picture")
    code, output, errors = run(model_path, data)
    assert (code, output) == (1, "")
    assert errors.startswith("aladin: red.png ")
    assert "expected one of JPEG" in errors


@pytest.mark.parametrize(("text", "size"), [("256M", 2**28), ("2G", 2**31), ("512k", 2**19), ("64", 2**26), ("1GB", 2**30)])
def test_memory_is_written_with_its_unit(text: str, size: int) -> None:
    assert memory_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1M", "many", "1.5G", "64T"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write it as 256M or 2G"):
        memory_size(text)


def test_wrong_usage_exits_with_2(run: Run, model_path: Path, data: Path) -> None:
    assert run(model_path, data, "--memory", "many")[0] == 2
    assert run(model_path)[0] == 2
