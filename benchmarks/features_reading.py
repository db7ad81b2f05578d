"""How fast a training step gets a detector's regions: from tables, from shards, by several threads, and read ahead.

python benchmarks/features_reading.py FOLDER

Features are written to FOLDER/tables, FOLDER/shards and FOLDER/half if they are not there: 512 images of 50 boxes x 2,054
numbers of noise, 460 MB in all. Forms take turns, and each figure is the median of the rounds, so ratios hold whatever else
the machine does. Files are in memory after the first round: a slow disk adds its own time, for tables a third more of it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from aladin.datasets.vinvl import (
    BOX_NUMBERS,
    Detections,
    FeatureWriter,
    Objects,
    ShardWriter,
    is_feature_folder,
    open_features,
    with_geometry,
)
from aladin.encoder.config import BackboneConfig, LimitsConfig, ModelConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.network.backbone import ImageSet
from aladin.network.detections import RegionSet
from aladin.network.run import Run
from aladin.training.batches import Plan
from aladin.training.read_ahead import ReadAhead

IMAGES, BOXES, OBJECTS = 512, 50, 30
BATCH = 32
FORMS = {"tables": "base64 in TSV", "shards": "shards, float32", "half": "shards, float16"}
THREADS = (1, 2, 4)


def random_detections() -> Iterator[Detections]:
    random = np.random.default_rng(0)
    for image in range(IMAGES):
        corners = np.sort(random.uniform(0, 400, (BOXES, 2, 2)).astype(np.float32), axis=1).reshape(BOXES, 4)
        features = random.gamma(0.3, 2.0, (BOXES, BOX_NUMBERS - 6)).astype(np.float32)
        boxes = with_geometry(features, corners, 400.0, 400.0)
        names = tuple(("dog", "red ball", "green grass", "man")[number] for number in random.integers(0, 4, OBJECTS))
        scores = random.uniform(size=OBJECTS).astype(np.float32)
        yield Detections(str(image), boxes, Objects(names, 400.0, 400.0, corners[:OBJECTS], scores))


def write_missing(folder: Path) -> None:
    writers: dict[str, Callable[[Path], FeatureWriter | ShardWriter]] = {
        "tables": FeatureWriter,
        "shards": lambda path: ShardWriter(path, shard_bytes=50_000_000),
        "half": lambda path: ShardWriter(path, half=True, shard_bytes=50_000_000),
    }
    for form, writer in writers.items():
        if not is_feature_folder(folder / form):
            with writer(folder / form) as writing:
                for detections in random_detections():
                    writing.add(detections)


def region_set(folder: Path, regions: int) -> RegionSet:
    """All images of a folder as a model with that limit of regions reads them."""
    opened = open_features(folder)
    sources = [source for image in opened.images() if (source := opened.of_id(image)) is not None]
    config = ModelConfig(backbone=BackboneConfig(region_features=BOX_NUMBERS - 6), limits=LimitsConfig(regions=regions))
    tokenizer = Path(__file__).parents[1] / "aladin" / "models" / "lite" / "tokenizer.json"
    return RegionSet(tuple(sources), WordPieces.load(tokenizer, config.limits.object_pieces), config)


def seconds_a_batch(images: ImageSet, threads: int, seed: int) -> float:
    """Of reading every image once, in any order; with several threads a batch is done all the sooner."""
    batches = np.array_split(np.random.default_rng(seed).permutation(len(images)), len(images) // BATCH)
    began = time.perf_counter()
    if threads == 1:
        for batch in batches:
            images.read(batch)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(images.read, batches))
    return (time.perf_counter() - began) / len(batches)


def share_waited(images: ImageSet, ahead: int, workers: int, step: Callable[[], object], seed: int) -> tuple[float, float]:
    """Of an epoch whose steps compute `step`: the share of time that they wait for images, and seconds a step."""
    plan = Plan(np.arange(len(images)), BATCH, 1, 1, 1, 1, seed)
    reading = ReadAhead(images, Run(), ahead, workers)
    began = time.perf_counter()
    with reading.ahead(plan.steps(0, plan.steps_per_epoch), lambda step: [step.whole]) as steps:
        for each in steps:
            with reading.step():
                reading.read(each.images, each.views)
                step()
    return reading.share_waited(), (time.perf_counter() - began) / plan.steps_per_epoch


def print_reading(sets: dict[str, RegionSet], rounds: int) -> dict[str, float]:
    print(f"reading, ms a batch of {BATCH} images (as many times as fast as one thread on tables)")
    found: dict[tuple[str, int], list[float]] = {(form, threads): [] for form in sets for threads in THREADS}
    for number in range(rounds + 1):
        for (form, threads), seconds in found.items():
            taken = seconds_a_batch(sets[form], threads, number)
            if number:  # the first round reads from the disk
                seconds.append(taken)
    medians = {key: statistics.median(seconds) for key, seconds in found.items()}
    base = medians["tables", 1]
    for form in sets:
        times = {threads: medians[form, threads] for threads in THREADS}
        cells = [f"{threads} threads {1000 * times[threads]:7.1f} ({base / times[threads]:.1f}x)" for threads in THREADS]
        print(f"{FORMS[form]:<18}" + "  ".join(cells))
    return {f"{form} {threads}": seconds for (form, threads), seconds in medians.items()}


def print_waiting(sets: dict[str, RegionSet], rounds: int, device_seconds: float) -> dict[str, float]:
    weights = torch.randn(768, 768)
    states = torch.randn(32 * 64, 768)

    def on_the_processor() -> None:
        began = time.perf_counter()
        while time.perf_counter() - began < device_seconds:
            torch.tanh(states @ weights)

    steps = {"elsewhere": lambda: time.sleep(device_seconds), "on the same cores": on_the_processor}
    shares: dict[str, float] = {}
    for place, step in steps.items():
        print(f"steps of {1000 * device_seconds:.0f} ms {place}: share of time that they wait (seconds a step)")
        for form, images in sets.items():
            cells = []
            for ahead, workers in ((0, 1), (2, 1), (2, 2), (4, 4)):
                found = [share_waited(images, ahead, workers, step, seed) for seed in range(rounds)]
                share, taken = (statistics.median(values) for values in zip(*found, strict=True))
                shares[f"{form}, {place}, {ahead} ahead by {workers}"] = share
                name = f"{ahead} ahead by {workers}" if ahead else "none ahead"
                cells.append(f"{name} {100 * share:3.0f} % ({taken:.3f})")
            print(f"{FORMS[form]:<18}" + "   ".join(cells))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--regions", type=int, default=50, help="that a model reads of each image; the paper's: 34")
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a step without its reading")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    write_missing(arguments.folder)
    sets = {form: region_set(arguments.folder / form, arguments.regions) for form in FORMS}
    sizes = {form: sum(path.stat().st_size for path in (arguments.folder / form).iterdir()) for form in FORMS}
    print(", ".join(f"{FORMS[form]} {size / 1e6:,.0f} MB" for form, size in sizes.items()))
    figures = print_reading(sets, arguments.rounds)
    figures |= print_waiting(sets, arguments.rounds, arguments.step)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
