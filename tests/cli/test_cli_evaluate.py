import dataclasses
import doctest
import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

import aladin
from aladin import __version__
from aladin.cli import main
from aladin.cli.values import memory_size
from aladin.encoder.folder import ModelFolder
from aladin.evaluation import evaluate
from aladin.measures.protocols import PROTOCOLS
from aladin.measures.relevance.named import JUDGES
from aladin.measures.report import to_json
from aladin.network import grid_features
from aladin.network.checkpoints import save_model
from aladin.network.grid import NETWORKS
from aladin.network.grid_features import GridFeatures
from aladin.network.weights import weights_fingerprint
from tests.tiny_learning import TINY, tiny_model, write_tokenizer

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
    headed = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True))
    save_model(tiny_model(tokenizer, headed), tokenizer, tmp_path / "headed")

    def invented(dataset: object, *settings: object) -> GridFeatures:
        images = len(dataset)  # type: ignore[arg-type]
        maps = (
            np.random.default_rng(0)
            .normal(size=(1, images, NETWORKS["efficientnet-lite0"].map_channels, 4, 4))
            .astype(np.float16)
        )
        return GridFeatures(maps, np.zeros((1, images, 1), dtype=np.int16))

    monkeypatch.setattr(grid_features, "cached_features", invented)
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
    assert report["subject"].pop("digest")
    assert report["subject"] == {
        "model": str(model_path),
        "data": str(data),
        "split": None,
        "images": 6,
        "captions": 12,
        "rerank": 2,
        "precision": "as exported",
        "protocol": "full",
        "cross_encoder": 0,
        "cross_encoder_model": "",
        "aladin": __version__,
        "fingerprint": ModelFolder.open(model_path).fingerprint,
        "cross_encoder_fingerprint": "",
    }
    assert report["queries"]["ranks"]["alignment"] == {"image_to_text": "1 1 1 1 1 1", "text_to_image": " ".join("1" * 12)}
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
    assert report["subject"]["fingerprint"] == weights_fingerprint(trained / "model.safetensors")
    assert set(report["seconds"]) == {"image features", "images", "captions", "matching", "alignment", "two-stage"}
    # With k beyond the number of candidates, two stages are exhaustive alignment.
    assert report["heads"]["two-stage k=100"] == report["heads"]["alignment"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--cross-encoder-model", "headed"), ("--cross-encoder", "2")])
def test_a_cross_encoder_reads_the_best_of_stage_2(run: Run, trained: Path, data: Path, options: tuple[str, ...]) -> None:
    folder = trained.parent / "headed"
    options = tuple(str(folder) if option == "headed" else option for option in options)
    subject = trained if "--cross-encoder-model" in options else folder
    count = 2 if "--cross-encoder" in options else 12
    code, output, _ = run(subject, data, "--json", "--rerank", 12, *options)
    report = json.loads(output)
    assert code == 0
    assert (report["subject"]["cross_encoder"], report["subject"]["cross_encoder_model"]) == (count, str(folder))
    assert report["subject"]["cross_encoder_fingerprint"] == weights_fingerprint(folder / "model.safetensors")
    heads = ["matching", "alignment", "two-stage k=12", f"cross-encoder k=12 n={count}"]
    assert list(report["heads"]) == heads
    for figures in report["heads"][heads[-1]]["directions"].values():
        assert figures["recalls"]["Recall@1"]["low"] <= figures["recalls"]["Recall@1"]["value"]
    assert "cross-encoder" in report["seconds"]
    code, output, _ = run(subject, data, "--rerank", 12, *options)
    assert f"k = 12, n = {count} by {folder}" in output
    assert "Cross-encoder: " in output


def test_old_options_mean_the_same(run: Run, trained: Path, data: Path) -> None:
    old = run(trained, data, "--json", "--rerank", 12, "--pairs", 2, "--pair-model", trained.parent / "headed")
    subject = json.loads(old[1])["subject"]
    assert (subject["cross_encoder"], subject["cross_encoder_model"]) == (2, str(trained.parent / "headed"))


def test_the_library_does_what_the_command_does(model_path: Path, data: Path, run: Run) -> None:
    found = doctest.testmod(evaluate, extraglobs={"model": model_path, "pictures": data})
    assert (found.attempted, found.failed) == (4, 0)
    report = aladin.evaluate(model_path, data, aladin.EvaluationConfig(hardest=2)).report
    printed = json.loads(run(model_path, data, "--json")[1])
    assert {**to_json(report), "seconds": 0} == {**printed, "seconds": 0, "subject": {**printed["subject"], "data": data.name}}


def test_the_cross_encoder_is_left_out_when_asked(run: Run, trained: Path, data: Path) -> None:
    code, output, _ = run(trained.parent / "headed", data, "--cross-encoder", 0)
    assert code == 0
    assert "cross-encoder" not in output.lower()


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
        (
            "model",
            "photos",
            ("--cross-encoder", "5"),
            "has no weights of a cross-encoder; give a folder",
        ),
        ("model", "photos", ("--cross-encoder-model", "nowhere"), "nowhere has no weights of a cross-encoder"),
        (
            "model",
            "photos",
            ("--cross-encoder", "5", "--rerank", "4"),
            "--cross-encoder is 5 and --rerank 4",
        ),
        ("model", "photos", ("--protocol", "flickr8k"), "the data have 6 images where the protocol flickr8k expects 1,000"),
        ("model", "photos", ("--measure", "bleu"), "there is no measure 'bleu'; choose ndcg-rouge"),
        ("model", "photos", ("--measure", "eccv"), "needs COCO's caption ids; pass --coco-ids captions_val2014.json"),
        ("model", "photos", ("--measure", "ndcg-spice=photos/red.png"), "is no .npy and has"),
        ("model", "photos", ("--judgements", "nowhere"), "nowhere cannot be read: No such file"),
        ("model", "photos", ("--gate", "nowhere"), "nowhere cannot be read: No such file"),
        ("model", "photos", ("--gate", "photos/captions.jsonl"), "is no report with the ranks of every query"),
        ("model", "photos", ("--html", "photos"), "photos cannot be written: Is a directory; give another --html"),
        (
            "model",
            "photos",
            ("--html", "nowhere/report.html"),
            "there is no folder nowhere for --html; make it, or give another",
        ),
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


def test_more_measures_are_told_for_every_head_and_direction(run: Run, model_path: Path, data: Path, tmp_path: Path) -> None:
    matrix = np.repeat(np.eye(6, dtype=np.float32), 2, axis=0)  # only own captions are relevant
    np.save(tmp_path / "spice.npy", matrix)
    measures = ("--measure", "ndcg-rouge", "--measure", f"ndcg-spice={tmp_path / 'spice.npy'}")
    code, output, _ = run(model_path, data, "--json", "--rerank", 2, "--cache", tmp_path / "cache", *measures)
    report = json.loads(output)
    assert code == 0
    found = {(f["head"], f["direction"], f["measure"]): (f["queries"], f["value"]["value"]) for f in report["judged"]}
    assert len(found) == 3 * 2 * 2
    for (_, direction, measure), (queries, value) in found.items():
        assert queries == {"image_to_text": 6, "text_to_image": 12}[direction]
        if (direction, measure) == ("text_to_image", "NDCG@25 (SPICE)"):  # only an own caption's image is worth anything
            assert value == 100.0
        else:
            assert 0 < value <= 100
    assert len(list((tmp_path / "cache").glob("rouge-l-*.npy"))) == 1
    _, output, _ = run(model_path, data, *measures)
    assert output.count("NDCG@25 (ROUGE-L)") == output.count("NDCG@25 (SPICE)") == 6


def test_scores_are_correlated_with_what_people_said(run: Run, model_path: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "CrowdFlowerAnnotations.txt"
    names = sorted(photo.name for photo in data.glob("*.png"))
    pairs = [(image, caption) for image in names for caption in names]
    path.write_text(
        "".join(
            f"{image}\t{caption}#0\t{int(image == caption)}\t{int(image == caption) * 3}\t{int(image != caption) * 3}\n"
            for image, caption in pairs
        )
    )
    code, output, _ = run(model_path, data, "--json", "--judgements", path)
    assert code == 0
    agreements = json.loads(output)["agreements"]
    assert list(agreements) == ["matching", "alignment"]
    for found in agreements.values():
        assert (found["kind"], found["pairs"], found["ratings"]) == ("crowd", 36, 36)
        assert found["tau_c"] > 0.5
    path.write_text(path.read_text() + "unseen.png\tred.png#0\t1\t3\t0\n")
    code, _, errors = run(model_path, data, "--judgements", path)
    assert code == 1
    assert "CrowdFlowerAnnotations.txt, line 37: image 'unseen.png' is not among the data's" in errors
    code, output, errors = run(model_path, data, "--judgements", path, "--skip-bad")
    assert code == 0
    assert "1 rows skipped: unknown image" in errors
    assert [line.split()[:3] for line in output.splitlines() if "crowd" in line] == [
        ["matching", "crowd", "36"],
        ["alignment", "crowd", "36"],
    ]


def test_a_page_with_plots_and_the_hardest_queries_is_written(run: Run, model_path: Path, data: Path, tmp_path: Path) -> None:
    code, output, _ = run(model_path, data, "--html", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert code == 0
    assert output.startswith("model ")
    assert page.count('<svg class="plot"') == 6
    assert "picture and red" in page
    assert "red.png: red" in page


def test_a_gate_passes_the_same_model_and_refuses_a_worse_one(
    run: Run, model_path: Path, trained: Path, data: Path, tmp_path: Path
) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_text(run(model_path, data, "--json")[1])
    code, output, errors = run(model_path, data, "--gate", baseline)
    assert code == 0
    assert output.startswith("model ")
    assert errors.startswith("gate passed: none of 18 measures is significantly worse")
    code, output, errors = run(trained, data, "--gate", baseline, "--json")
    assert code == 1
    assert json.loads(output)["heads"]
    assert "of 18 measures are significantly worse" in errors
    assert "alignment, text_to_image, Recall@1: 100.00 -> " in errors
    assert len([line for line in errors.splitlines() if line.startswith("aladin: ")]) == 1
    assert f"{baseline} is of other weights: {model_path}, " in errors


def test_a_gate_of_other_data_is_refused_before_anything_is_encoded(
    run: Run, model_path: Path, data: Path, tmp_path: Path
) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_text(run(model_path, data, "--json", "--split", "val")[1])
    (data / "red.png").write_bytes(b"cannot be decoded")
    code, output, errors = run(model_path, data, "--gate", baseline)
    assert (code, output) == (1, "")
    assert "was measured on other images or captions" in errors


def test_a_picture_that_cannot_be_decoded_is_named_with_its_line_or_skipped(run: Run, model_path: Path, data: Path) -> None:
    (data / "red.png").write_bytes(b"not a picture")
    number = 1 + [path.name for path in sorted(data.glob("*.png"))].index("red.png")
    code, output, errors = run(model_path, data)
    assert (code, output) == (1, "")
    what = "image 'red.png' is not an image of a known format; replace it or pass --skip-bad"
    assert errors == f"aladin: {data / 'captions.jsonl'}, line {number}: {what}\n"
    code, output, errors = run(model_path, data, "--skip-bad", "--json")
    assert (code, json.loads(output)["subject"]["images"]) == (0, 5)
    assert errors == f"{data}: 1 rows skipped: the image is not an image of a known format\n"


def test_data_without_any_picture_are_refused_although_bad_ones_are_skipped(run: Run, model_path: Path, data: Path) -> None:
    for path in data.glob("*.png"):
        path.write_bytes(b"not a picture")
    code, output, errors = run(model_path, data, "--skip-bad")
    assert (code, output) == (1, "")
    assert "has no image that can be decoded; read it without --skip-bad to see where" in errors


def test_the_command_offers_every_protocol_and_measure(run: Run) -> None:
    code, output, _ = run("--help")
    assert code == 0
    assert f"[{'|'.join(PROTOCOLS)}]" in output
    assert all(name in output for name in JUDGES)


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


@pytest.mark.parametrize(
    ("training", "protocol", "sentence"),
    [
        ("alignment-triplet", "full", "no figure of the paper is known for alignment-triplet by the protocol full; choose"),
        (
            "matching-triplet-e2e",
            "coco-5k",
            "no figure of the paper is known for 'matching-triplet-e2e'; choose alignment-trip",
        ),
    ],
)
def test_what_the_paper_has_no_figure_for_is_one_sentence(
    run: Run, model_path: Path, data: Path, training: str, protocol: str, sentence: str
) -> None:
    code, output, errors = run(model_path, data, "--against", training, "--protocol", protocol)
    assert (code, output) == (1, "")
    assert errors.startswith(f"aladin: {sentence}")
    assert len(errors.splitlines()) == 1
