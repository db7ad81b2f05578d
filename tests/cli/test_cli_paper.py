"""The paper, again: the chain of docs/training.md through the command line, on synthetic files in the real layout."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from aladin.cli import main
from aladin.network.weights import weights_fingerprint
from tests.tiny_official import TINY, Image, random_images, write_features, write_vinvl

pytestmark = pytest.mark.slow
RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
ALIGNED, DISTILLED, JOINT = "alignment-triplet", "matching-distill-finetune", "alignment-and-matching-distill"
TRAIN, VAL, TEST = 24, 4, 1000  # images; 1,000 are what coco-1k expects
SIZES = {
    "backbone": {
        "dim": TINY.dim,
        "layers": TINY.layers,
        "heads": TINY.heads,
        "feed_forward": TINY.feed_forward,
        "region_features": TINY.region - 6,
    },
    "heads": {"token_dim": TINY.dim, "matching_feed_forward": TINY.dim},
}
FASTER = {"learning_rate": 2e-3, "new_learning_rate": 5e-3}


@dataclass(frozen=True)
class Repeated:
    """What the chain made: a run and an evaluation of each of the three trainings."""

    folder: Path
    printed: dict[str, str]  # by the first words of a command
    reports: dict[str, dict[str, Any]]  # by training

    def best(self, training: str) -> Path:
        return self.folder / "runs" / training / "best"

    def weights(self, training: str) -> dict[str, torch.Tensor]:
        return load_file(self.best(training) / "model.safetensors")

    def settings(self, training: str) -> dict[str, Any]:
        return tomllib.loads((self.best(training) / "model.toml").read_text())


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Repeated:
    folder = tmp_path_factory.mktemp("paper")
    write_originals(folder)
    features, captions, test = folder / "features", folder / "captions.jsonl", folder / "captions-1k.jsonl"
    data = ("--train", captions, "--train-split", "train", "--train-images", features)
    data += ("--val", captions, "--val-split", "val", "--val-images", features)
    printed, reports = {}, {}
    printed["convert"] = aladin("convert", folder / "vinvl" / "pytorch_model.bin", folder / "vinvl", folder / "start")
    printed["features check"] = aladin("features", "check", features, "--numbers", TINY.region)
    printed["captions"] = aladin("features", "convert", folder / "data", captions)
    keys = ("--keys", folder / "data" / "test_img_keys_1k.tsv")
    printed["test captions"] = aladin("features", "convert", folder / "data" / "test_captions.pt", test, *keys)
    starts = {
        ALIGNED: folder / "start",
        DISTILLED: folder / "runs" / ALIGNED / "best",
        JOINT: folder / "runs" / ALIGNED / "best",
    }
    for training, start in starts.items():
        arguments = ("train", smaller(training, folder), "--start", start, *data, "--out", folder / "runs" / training)
        printed[training] = on_two_processes(*arguments) if training == JOINT else aladin(*arguments)
        measured = ("evaluate", folder / "runs" / training / "best", test, "--images", features, "--protocol", "coco-1k")
        against = () if training == JOINT else ("--against", training)
        reports[training] = json.loads(aladin(*measured, *against, "--json"))
    return Repeated(folder, printed, reports)


def aladin(*arguments: object) -> str:
    """What a command printed, which must succeed."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    assert stop.value.code == 0, errors.getvalue()
    return printed.getvalue()


def on_two_processes(*arguments: object) -> str:
    """What a command printed that torchrun started twice, as it does for two GPUs."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "aladin"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*torchrun, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def write_originals(folder: Path) -> None:
    """VinVL's checkpoint folder, one feature folder of all images, and the original's caption files of three splits."""
    write_vinvl(folder / "vinvl")
    images = random_images([2 + number % 5 for number in range(TRAIN + VAL + TEST)])
    write_features(folder / "features", images)
    (folder / "data").mkdir()
    splits = {"train": images[:TRAIN], "minival": images[TRAIN:-TEST], "test": images[-TEST:]}
    for split, some in splits.items():
        texts = {int(image.id): json.dumps(captions(image)) for image in some}
        torch.save(texts, folder / "data" / f"{split}_captions.pt")
    (folder / "data" / "test_img_keys_1k.tsv").write_text("".join(f"{image.id}\n" for image in splits["test"]))
    (folder / "dataset_coco.json").write_text(json.dumps({"images": [record(image) for image in splits["test"]]}))


def captions(image: Image) -> list[str]:
    """Five, or six of every seventh, of which the original reads five."""
    named = " and ".join(image.classes)
    texts = [f"{named}.", f"a picture of {named}.", f"a {image.classes[0]} picture.", f"{named} above.", f"a {named}"]
    return [*texts, "one more."] if int(image.id) % 49 == 0 else texts


def record(image: Image) -> dict[str, object]:
    """As Karpathy's dataset_coco.json has it."""
    number = int(image.id)
    sentences = [{"raw": text, "imgid": number, "sentid": 10 * number + k} for k, text in enumerate(captions(image))]
    name = f"COCO_val2014_{number:012}.jpg"
    return {"filepath": "val2014", "filename": name, "cocoid": number, "split": "test", "sentences": sentences}


def smaller(training: str, folder: Path) -> Path:
    """The recipe at the size of the tests, faster and shorter; its losses and what it trains are as it says."""
    recipe = tomllib.loads((RECIPES / f"{training}.toml").read_text())
    recipe |= {"epochs": 2, "batch_images": 8, "validate_steps": 7}
    recipe["optimizer"] |= FASTER
    for section, sizes in SIZES.items():
        recipe["model"][section] |= sizes
    (folder / f"{training}.toml").write_text(tomli_w.dumps(recipe))
    return folder / f"{training}.toml"


def test_every_command_says_what_it_made(repeated: Repeated) -> None:
    folder, printed = repeated.folder, repeated.printed
    assert printed["convert"].startswith(f"{folder / 'start'}: the original's quirks; 2 layers of 16, 2 in the matching head")
    assert printed["features check"].endswith(f"{folder / 'features'}: no problems\n")
    assert printed["captions"] == f"{folder / 'captions.jsonl'}: {TRAIN + VAL + TEST:,} images\n"
    assert printed["test captions"] == f"{folder / 'captions-1k.jsonl'}: {TEST:,} images\n"
    for training, head in ((ALIGNED, "matching and alignment"), (DISTILLED, "matching"), (JOINT, "matching and alignment")):
        assert printed[training].startswith(f"best validation rsum of the {head} head: ")
        assert printed[training].endswith(f"the model is in {repeated.best(training)}\n")


@pytest.mark.parametrize("training", [ALIGNED, DISTILLED, JOINT])
def test_a_training_reads_every_caption_once_an_epoch_and_validates_within_it(repeated: Repeated, training: str) -> None:
    lines = (repeated.best(training).parent / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = 2 * TRAIN * 5 // 8
    assert [record["step"] for record in records if "loss" in record] == list(range(steps))
    assert [record["step"] for record in records if "matching rsum" in record] == [6, 13, 14, 20, 27, 29]


def test_the_second_and_the_third_training_start_from_the_first(repeated: Repeated) -> None:
    first = weights_fingerprint(repeated.best(ALIGNED) / "model.safetensors")
    assert repeated.settings(ALIGNED)["training"]["start"]["fingerprint"] == weights_fingerprint(
        repeated.folder / "start" / "model.safetensors"
    )
    for training in (DISTILLED, JOINT):
        assert repeated.settings(training)["training"]["start"]["fingerprint"] == first


def test_a_frozen_transformer_and_its_alignment_scores_stay_and_the_matching_head_learns(repeated: Repeated) -> None:
    before, after = repeated.weights(ALIGNED), repeated.weights(DISTILLED)
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith("matching_head.") for name in changed)
    ranks = {training: report["queries"]["ranks"] for training, report in repeated.reports.items()}
    assert ranks[DISTILLED]["alignment"] == ranks[ALIGNED]["alignment"]
    assert ranks[DISTILLED]["matching"] != ranks[ALIGNED]["matching"]
    for head in ("alignment", "matching"):
        assert ranks[JOINT][head] != ranks[DISTILLED][head]


@pytest.mark.parametrize("training", [ALIGNED, DISTILLED, JOINT])
def test_a_trained_model_has_the_quirks_and_the_limits_of_the_original(repeated: Repeated, training: str) -> None:
    settings, start = repeated.settings(training), tomllib.loads((repeated.folder / "start" / "model.toml").read_text())
    assert settings["quirks"] == start["quirks"]
    assert settings["quirks"]["image_first_token"] == "[UNK]"
    assert (settings["limits"]["regions"], settings["preprocessing"]["caption_pieces"]) == (34, 50)


@pytest.mark.parametrize("training", [ALIGNED, DISTILLED])
def test_the_papers_figures_stand_beside_those_of_the_run(repeated: Repeated, training: str) -> None:
    report = repeated.reports[training]
    found = {(row["head"], row["direction"], row["measure"]): row for row in report["published"]}
    assert {key: row["published"] for key, row in found.items()} == {
        ("alignment", "image_to_text", "Recall@1"): 88.1,
        ("alignment", "text_to_image", "Recall@1"): 75.4,
    }
    for (head, direction, measure), row in found.items():
        assert row["here"] == report["heads"][head]["directions"][direction]["recalls"][measure]
        assert row["difference"] == row["here"]["value"] - row["published"]
        assert row["verdict"] == "worse", "a network of two layers that saw 24 images"


def test_karpathys_file_gives_the_same_figures(repeated: Repeated) -> None:
    data = (repeated.folder / "dataset_coco.json", "--split", "test", "--images", repeated.folder / "features")
    found = json.loads(aladin("evaluate", repeated.best(JOINT), *data, "--protocol", "coco-1k", "--rerank", 0, "--json"))
    expected = repeated.reports[JOINT]
    assert found["subject"]["captions"] == expected["subject"]["captions"] == 5 * TEST
    assert {head: found["heads"][head] for head in ("matching", "alignment")} == {
        head: expected["heads"][head] for head in ("matching", "alignment")
    }
