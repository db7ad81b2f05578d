"""A model of a detector's regions learns from shards as from tables, and window by window where the recipe says so."""

import dataclasses
import json
from pathlib import Path

import pytest

import aladin
from aladin.datasets import Dataset, read_dataset
from aladin.datasets.vinvl import ShardWriter, open_features
from aladin.errors import ConfigError, DataError
from aladin.exporting.conversion import convert_checkpoint
from aladin.training.recipe import ComputeConfig, LossConfig, Recipe
from aladin.training.training_progress import SilentTraining
from tests.tiny_learning import FAST, Recorder, losses
from tests.tiny_official import TINY, random_images, write_features, write_vinvl

TRAIN, VAL = 12, 4
RECIPE = Recipe(
    train=("backbone", "matching_head"),
    epochs=2,
    batch_images=3,
    captions_per_image=1,
    views=1,
    precision="fp32",
    validate_every=2,
    loss=LossConfig(matching=1.0),
    optimizer=FAST,
    compute=ComputeConfig(workers=3),
)
BY_SHARDS = dataclasses.replace(RECIPE, shuffle="shards", window_shards=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features as tables and as shards, captions of both, and a model to start from."""
    folder = tmp_path_factory.mktemp("learning")
    images = random_images([2 + row % 3 for row in range(TRAIN + VAL)])
    write_features(folder / "tables", images)
    write_shards(folder / "tables", folder / "shards", 6)
    for name, chosen in (("train", images[:TRAIN]), ("val", images[TRAIN:])):
        rows = [{"image": image.id, "captions": [f"a {image.classes[0]} picture", f"red {image.id}"]} for image in chosen]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    vinvl = write_vinvl(folder / "vinvl")
    convert_checkpoint(vinvl / "pytorch_model.bin", vinvl, folder / "start", "own")
    return folder


def write_shards(tables: Path, out: Path, boxes: int) -> None:
    opened = open_features(tables)
    with ShardWriter(out, shard_bytes=boxes * 4 * TINY.region) as writer:
        for image in opened.images():
            found = opened.find(image)
            assert found is not None
            writer.add(found.detections())


def read(data: Path, name: str, images: str) -> Dataset:
    return read_dataset(data / f"{name}.jsonl", images=data / images)


def learned(
    data: Path, images: str, out: Path, recipe: Recipe = RECIPE, progress: Recorder | SilentTraining | None = None
) -> dict[int, dict[str, float]]:
    aladin.train(
        recipe,
        read(data, "train", images),
        read(data, "val", images),
        out,
        start=data / "start",
        device="cpu",
        progress=progress or SilentTraining(),
    )
    return losses(out)


@pytest.mark.slow
def test_losses_are_the_same_from_tables_and_from_shards(data: Path, tmp_path: Path) -> None:
    assert learned(data, "tables", tmp_path / "tables") == learned(data, "shards", tmp_path / "shards")


@pytest.mark.slow
def test_a_run_by_shards_that_was_stopped_goes_on_to_the_same_losses(data: Path, tmp_path: Path) -> None:
    class Stopping(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            if what == "training steps" and done == 6:
                raise KeyboardInterrupt

    whole = learned(data, "shards", tmp_path / "whole", BY_SHARDS)
    assert whole != learned(data, "shards", tmp_path / "all")
    with pytest.raises(KeyboardInterrupt):
        learned(data, "shards", tmp_path / "stopped", BY_SHARDS, Stopping())
    # Read ahead otherwise, and under another path: neither matters.
    (data / "moved").symlink_to(data / "shards")
    otherwise = dataclasses.replace(BY_SHARDS, compute=ComputeConfig(read_ahead=0))
    assert learned(data, "moved", tmp_path / "stopped", otherwise) == whole
    write_shards(data / "tables", data / "smaller", 4)
    with pytest.raises(ConfigError, match="belongs to a run on the same features in other shards; give another --out"):
        learned(data, "smaller", tmp_path / "stopped", BY_SHARDS)
    with pytest.raises(ConfigError, match="belongs to another recipe; give another --out"):
        learned(data, "shards", tmp_path / "stopped")


def test_features_that_stand_in_no_shards_cannot_be_read_by_shards(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"shuffle is .shards., but the images of train.jsonl do not stand in several shards"):
        learned(data, "tables", tmp_path / "run", BY_SHARDS)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_shard_that_breaks_while_a_run_reads_ahead_ends_it_with_that_sentence(data: Path, tmp_path: Path) -> None:
    class Cutting(Recorder):
        def progress(self, what: str, done: int, total: int) -> None:
            if what == "training steps" and done == 1:
                for shard in (data / "cut").glob("*.safetensors"):
                    shard.write_bytes(shard.read_bytes()[:900])

    write_shards(data / "tables", data / "cut", 6)
    with pytest.raises(DataError, match=r"boxes-0000[0-9].safetensors has 900 bytes where [0-9,]+ were expected; copy"):
        learned(data, "cut", tmp_path / "run", RECIPE, Cutting())
