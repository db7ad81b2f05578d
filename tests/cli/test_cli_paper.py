"""The paper, again: the chain of docs/training.md through the command line, on synthetic files in the real layout."""

import contextlib
import io
import json
import os
import re
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
from aladin.measures.report import PUBLISHED_HEADINGS
from aladin.network.weights import weights_fingerprint
from tests.tiny_official import TINY, Image, random_images, write_features, write_vinvl

pytestmark = pytest.mark.slow
RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
ALIGNED, DISTILLED, JOINT = "alignment-triplet", "matching-distill-finetune", "alignment-and-matching-distill"
TRAININGS = sorted(path.stem for path in RECIPES.glob("*.toml"))
RUNS = {ALIGNED: "alignment", DISTILLED: "distilled", JOINT: "joint"}
DOCS = Path(__file__).parents[2] / "docs" / "training.md"
TRAIN, VAL, TEST = 24, 4, 5000  # images; 5,000 are what coco-5k expects
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
FASTER = {"learning_rate": 2e-4, "new_learning_rate": 1e-3}
# What a reader has installed; a box of the tests has other numbers than VinVL's.
INSTALLED = f"""
aladin() {{
    case "$1 $2" in "features check") set -- "$@" --numbers {TINY.region};; esac
    {sys.executable} -m aladin "$@"
}}
torchrun() {{ {sys.executable} -m torch.distributed.run --standalone "$@"; }}
"""


@dataclass(frozen=True)
class Repeated:
    """What the commands of the page made."""

    folder: Path
    printed: str

    def best(self, training: str) -> Path:
        return self.folder / "runs" / RUNS[training] / "best"

    def weights(self, training: str) -> dict[str, torch.Tensor]:
        return load_file(self.best(training) / "model.safetensors")

    def settings(self, training: str) -> dict[str, Any]:
        return tomllib.loads((self.best(training) / "model.toml").read_text())

    def start(self, training: str) -> str:
        """The fingerprint of the weights that a training says it started from."""
        found = self.settings(training)["training"]["start"]["fingerprint"]
        assert isinstance(found, str)
        return found

    def report(self, training: str, *data: object) -> dict[str, Any]:
        """Measured on the images that it learned from, which are few."""
        files = data or (self.folder / "features", "--split", "train")
        report = json.loads(aladin("evaluate", self.best(training), *files, "--json"))
        assert isinstance(report, dict)
        return report


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Repeated:
    folder = tmp_path_factory.mktemp("paper")
    write_originals(folder)
    for training in TRAININGS:
        write_smaller(training, folder)
    return Repeated(folder, in_bash(shown(), folder))


def shown() -> str:
    """The commands of the page."""
    section = DOCS.read_text(encoding="utf-8").partition("\n## The paper, again\n")[2].partition("\n## ")[0]
    return section.partition("```sh\n")[2].partition("```")[0]


def head_of(training: str) -> str:
    """The commands at the head of a recipe, which has them in comments."""
    lines = (RECIPES / f"{training}.toml").read_text().splitlines()
    return "\n".join(line.removeprefix("#") for line in lines if line.startswith("#   "))


def in_bash(script: str, folder: Path) -> str:
    """What a script printed, of which every command must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(DOCS.parents[1])}
    command = ["bash", "-e", "-c", INSTALLED + script]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def aladin(*arguments: object) -> str:
    """What a command printed, which must succeed."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), pytest.raises(SystemExit) as stop:
        main([*map(str, arguments)])
    assert stop.value.code == 0, errors.getvalue()
    return printed.getvalue()


def write_originals(folder: Path) -> None:
    """VinVL's checkpoint folder, one feature folder of all images, and the original's caption files of three splits."""
    write_vinvl(folder / "checkpoint-0132780")
    images = random_images([2 + number % 3 for number in range(TRAIN + VAL + TEST)])
    write_features(folder / "features", images)
    (folder / "data").mkdir()
    splits = {"train": images[:TRAIN], "minival": images[TRAIN:-TEST], "test": images[-TEST:]}
    for split, some in splits.items():
        texts = {int(image.id): json.dumps(captions(image)) for image in some}
        torch.save(texts, folder / "data" / f"{split}_captions.pt")
    (folder / "data" / "test_img_keys.tsv").write_text("".join(f"{image.id}\n" for image in splits["test"]))
    (folder / "dataset_coco.json").write_text(json.dumps({"images": [record(image) for image in splits["train"]]}))


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
    return {"filepath": "val2014", "filename": name, "cocoid": number, "split": "restval", "sentences": sentences}


def write_smaller(training: str, folder: Path) -> None:
    """The recipe at the size of the tests, faster and shorter; its losses and what it trains are as it says."""
    recipe = tomllib.loads((RECIPES / f"{training}.toml").read_text())
    recipe |= {"epochs": 2, "batch_images": 8, "validate_steps": 7}
    recipe["optimizer"] |= FASTER
    for section, sizes in SIZES.items():
        recipe["model"][section] |= sizes
    path = folder / "recipes" / "paper" / f"{training}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(recipe))


def test_every_command_says_what_it_made(repeated: Repeated) -> None:
    lines = [line for line in repeated.printed.splitlines() if not line.startswith("features: boxes end in ")]
    assert lines[:4] == [
        "features: no problems",
        f"features/captions.jsonl: {TRAIN + VAL + TEST:,} images",
        f"captions-5k.jsonl: {TEST:,} images",
        "start: the original's quirks; 2 layers of 16, 2 in the matching head, regions of 8 + 6 numbers, pooling MrSw",
    ]
    judged = [line for line in lines if line.startswith("best validation rsum of the ")]
    assert [line.rpartition(" ")[2] for line in judged] == [f"runs/{run}/best" for run in RUNS.values()]
    heads = [line.removeprefix("best validation rsum of the ").partition(" head")[0] for line in judged]
    assert heads == ["matching and alignment", "matching", "matching and alignment"]


@pytest.mark.parametrize("training", RUNS)
def test_a_training_reads_every_caption_once_an_epoch_and_validates_within_it(repeated: Repeated, training: str) -> None:
    lines = (repeated.best(training).parent / "log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = 2 * TRAIN * 5 // 8
    assert [record["step"] for record in records if "loss" in record] == list(range(steps))
    assert [record["step"] for record in records if "matching rsum" in record] == [6, 13, 14, 20, 27, 29]


def test_the_second_and_the_third_training_start_from_the_first(repeated: Repeated) -> None:
    first = weights_fingerprint(repeated.best(ALIGNED) / "model.safetensors")
    assert repeated.start(ALIGNED) == weights_fingerprint(repeated.folder / "start" / "model.safetensors")
    assert repeated.start(DISTILLED) == repeated.start(JOINT) == first


def test_a_frozen_transformer_and_its_alignment_scores_stay_and_the_matching_head_learns(repeated: Repeated) -> None:
    before, after = repeated.weights(ALIGNED), repeated.weights(DISTILLED)
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith("matching_head.") for name in changed)
    ranks = {training: repeated.report(training)["queries"]["ranks"] for training in RUNS}
    assert ranks[DISTILLED]["alignment"] == ranks[ALIGNED]["alignment"]
    assert ranks[DISTILLED]["matching"] != ranks[ALIGNED]["matching"]
    for head in ("alignment", "matching"):
        assert ranks[JOINT][head] != ranks[DISTILLED][head]


@pytest.mark.parametrize("training", RUNS)
def test_a_trained_model_has_the_quirks_and_the_limits_of_the_original(repeated: Repeated, training: str) -> None:
    settings, start = repeated.settings(training), tomllib.loads((repeated.folder / "start" / "model.toml").read_text())
    assert settings["quirks"] == start["quirks"]
    assert settings["quirks"]["image_first_token"] == "[UNK]"
    assert (settings["limits"]["regions"], settings["preprocessing"]["caption_pieces"]) == (34, 50)


def test_the_papers_figures_stand_beside_those_of_the_runs(repeated: Repeated) -> None:
    """All worse, since networks of two layers that saw 24 images cannot be better; test_published.py plants other verdicts."""
    tables = [re.split(r"\n\s*\n", part) for part in repeated.printed.split("\nmodel runs/")[1:]]
    found = [[re.split(r"\s{2,}", line.strip()) for line in table[2].splitlines()] for table in tables]
    assert found[0][0] == list(PUBLISHED_HEADINGS)
    assert [(row[0], *row[1:5], row[7]) for row in found[0][1:]] == [
        ("A/ft.", "alignment", "image_to_text", "Recall@1", "70.0", "worse"),
        ("A/ft.", "alignment", "text_to_image", "Recall@1", "54.7", "worse"),
        ("A/ft.", "alignment", "text_to_image", "sum of recalls", "224.0", "worse"),
        ("A/ft. + D/ft.", "matching", "text_to_image", "sum of recalls", "215.0", "worse"),
    ]
    joint = {(row[2], row[3]): row for row in found[1][1:]}
    assert len(joint) == 7
    assert {row[0] for row in joint.values()} == {"D/e2e"}
    assert (joint["both", "rsum"][4], joint["both", "rsum"][7]) == ("466.0", "worse")
    figures = [re.split(r"\s{2,}", line.strip()) for line in tables[1][1].splitlines()]
    measured = {(row[0], row[1]): row[3:6] for row in figures[1:]}
    for direction in ("image_to_text", "text_to_image"):
        here = [joint[direction, measure][5] for measure in ("Recall@1", "Recall@5", "Recall@10")]
        assert here == measured["matching", direction]


def test_karpathys_file_gives_the_same_figures(repeated: Repeated) -> None:
    data = (repeated.folder / "dataset_coco.json", "--split", "train", "--images", repeated.folder / "features")
    found, expected = repeated.report(JOINT, *data), repeated.report(JOINT)
    assert found["heads"] == expected["heads"]
    assert found["queries"] == expected["queries"]
    assert expected["subject"]["images"] == TRAIN


@pytest.mark.parametrize("training", TRAININGS)
def test_the_command_at_the_head_of_a_recipe_is_that_of_the_page_or_runs(repeated: Repeated, training: str) -> None:
    *_, command = commands = re.sub(r"\\\n", " ", head_of(training)).splitlines()
    arguments = command.split()
    assert arguments[:3] == ["aladin", "train", f"recipes/paper/{training}.toml"]
    if training in RUNS:
        page = [line.split() for line in re.sub(r"\\\n", " ", shown()).splitlines()]
        assert arguments in [words[words.index("aladin") :] for words in page if "aladin" in words]
    else:
        printed = in_bash(command, repeated.folder)
        assert f"the model is in runs/{training}/best" in printed
    assert (len(commands) == 2) == (arguments[arguments.index("--start") + 1] == "start")
