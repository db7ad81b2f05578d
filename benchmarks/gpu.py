"""What a GPU is checked by: equality with the processor, then speed and memory at the paper's sizes. Under ten minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cuda:1 --json > gpu.json

1. Twenty steps of the alignment head's recipe, of the joint one and of the distilling one in fp32 at small sizes, on the
   processor and on the GPU: no loss may differ by more than 1e-3 of itself. Exit 1 otherwise.
2. Steps of recipes/paper/alignment-triplet.toml at its full sizes, with its dropout, by precision and setting: pairs a second,
   and the most memory of the GPU.
3. Exhaustive alignment of 5,000 images with 25,000 captions of random tokens in blocks: seconds, memory, and how far some of
   the scores are from the processor's.

Data and weights are random (benchmarks/paper_step.py), so figures say nothing of accuracy. Sizes can be lowered to try the
script where there is no GPU: `--device cpu --layers 1 --images 40 --steps 2` takes some minutes.
"""

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from paper_step import RECIPE, synthetic
from torch.nn import functional

from aladin.cli.values import device_name
from aladin.errors import AladinError, MemoryFull
from aladin.evaluation.scoring import alignment_matrix
from aladin.network.backbones import new_backbone
from aladin.network.minilm import minilm_folder
from aladin.network.model import Aladin
from aladin.network.run import Run, chosen_device, memory_watched
from aladin.network.tensors import Tokens
from aladin.network.transformer import initialise
from aladin.training.recipe import ComputeConfig, Recipe, read_recipe
from aladin.training.start import Start
from aladin.training.trainer import Trainer

EQUAL = ("alignment-triplet", "alignment-and-matching-distill", "matching-distill-finetune")
WAYS: dict[str, tuple[str, ComputeConfig]] = {
    "fp32": ("fp32", ComputeConfig()),
    "fp32, TF32": ("fp32", ComputeConfig(tf32=True)),
    "bf16": ("bf16", ComputeConfig()),
    "fp16": ("fp16", ComputeConfig()),
    "bf16, compiled": ("bf16", ComputeConfig(compile=True)),
    "bf16, layers recomputed": ("bf16", ComputeConfig(recompute_layers=True)),
    "bf16, chunks of 8": ("bf16", ComputeConfig(chunk_images=8)),
}
TOLERANCE = 1e-3


def run_of(recipe: Recipe, steps: int, device: torch.device, folder: Path) -> Trainer:
    """A run on synthetic data from random weights, the same ones on every device."""
    torch.manual_seed(0)
    model = Aladin(recipe.model, new_backbone(recipe.model))
    model.apply(initialise)
    data = synthetic(recipe, steps)
    start = Start(model, minilm_folder() / "tokenizer.json")
    return Trainer(recipe, start, data, data, folder, run=Run(recipe.precision, device))


def without_dropout(recipe: Recipe, layers: int) -> Recipe:
    sizes = dataclasses.replace(
        recipe.model.backbone, dropout=0.0, attention_dropout=0.0, layers=layers, dim=96, feed_forward=192
    )
    heads = dataclasses.replace(recipe.model.heads, token_dim=96, matching_feed_forward=96, matching_dropout=0.0)
    model = dataclasses.replace(recipe.model, backbone=sizes, heads=heads)
    rates = dataclasses.replace(recipe.optimizer, learning_rate=1e-4, new_learning_rate=1e-4)
    return dataclasses.replace(recipe, model=model, captions="drawn", precision="fp32", optimizer=rates, frozen_dropout=False)


def differences(device: torch.device, steps: int) -> dict[str, float]:
    """For each recipe the largest difference of a step's loss from the processor's, as a share of it."""
    found = {}
    for name in EQUAL:
        recipe = without_dropout(read_recipe(RECIPE.with_stem(name)), layers=2)
        losses = []
        for where in (torch.device("cpu"), device):
            with tempfile.TemporaryDirectory() as folder:
                run = run_of(recipe, steps, where, Path(folder))
                losses.append([run.learn(step)["loss"] for step in run.plan.steps(0, steps)])
        found[name] = max(abs(there / here - 1) for here, there in zip(*losses, strict=True))
    return found


def speeds(device: torch.device, steps: int, layers: int) -> Iterator[dict[str, Any]]:
    """Pairs a second of each way to compute, after three steps that do not count."""
    full = read_recipe(RECIPE)
    sizes = dataclasses.replace(full.model.backbone, layers=layers)
    full = dataclasses.replace(full, captions="drawn", model=dataclasses.replace(full.model, backbone=sizes))
    for name, (precision, compute) in WAYS.items():
        recipe = dataclasses.replace(full, precision=precision, compute=compute)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            run = run_of(recipe, steps + 3, device, Path(folder))
            _start_counting(device)
            try:
                with memory_watched("give a GPU with more of it"):
                    for step in run.plan.steps(0, steps + 3):
                        if step.number == 3:
                            began = time.perf_counter()
                        run.learn(step)  # which waits for its losses
            except MemoryFull as error:
                yield {"way": name, "error": str(error)}
                continue
            seconds = time.perf_counter() - began
            torch.set_float32_matmul_precision("highest")
        yield {"way": name, "pairs_a_second": steps * recipe.batch_images / seconds, "gib": _most_gib(device)}


def scoring(device: torch.device, images: int) -> dict[str, Any]:
    """Exhaustive alignment of `images` with five captions each, at the paper's sizes."""
    random = torch.Generator().manual_seed(0)

    def tokens(count: int, longest: int) -> Tokens:
        states = functional.normalize(torch.randn(count, longest, 768, generator=random), dim=2)
        lengths = torch.randint(longest // 2, longest + 1, (count,), generator=random)
        return Tokens(states, torch.arange(longest)[None] < lengths[:, None])

    regions, words = tokens(images, 34), tokens(5 * images, 16)
    _start_counting(device)
    began = time.perf_counter()
    found = alignment_matrix(regions, words, "MrSw", 2**30, device=device)
    seconds = time.perf_counter() - began
    some = slice(0, 50)
    difference = float((found[some, some] - alignment_matrix(regions[some], words[some], "MrSw")).abs().max())
    return {"images": images, "captions": 5 * images, "seconds": seconds, "gib": _most_gib(device), "difference": difference}


def _start_counting(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _most_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


@click.command(help=__doc__)
@click.option("--device", type=device_name, default="cuda", show_default=True)
@click.option("--steps", default=20, show_default=True, help="Of each training.")
@click.option("--layers", default=12, show_default=True, help="Of the transformer whose speed is measured.")
@click.option("--images", default=5000, show_default=True, help="Of exhaustive alignment.")
@click.option("--json", "as_json", is_flag=True)
def main(device: str, steps: int, layers: int, images: int, as_json: bool) -> None:
    try:
        chosen = chosen_device(device)
    except AladinError as error:
        raise click.ClickException(str(error)) from None
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "differences": differences(chosen, steps)}
    report["speeds"] = list(speeds(chosen, steps, layers))
    report["scoring"] = scoring(chosen, images)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print(report)
    worst = max(report["differences"].values())
    if worst > TOLERANCE:
        click.echo(f"losses differ from the processor's by {worst:.2g}; expected at most {TOLERANCE}", err=True)
        sys.exit(1)


def _print(report: dict[str, Any]) -> None:
    click.echo(f"{report['device']}, PyTorch {report['torch']}\n")
    for recipe, difference in report["differences"].items():
        click.echo(f"{recipe}: losses differ from the processor's by {difference:.2g} at most")
    click.echo("\n| step | pairs a second | GiB |\n|---|---:|---:|")
    for row in report["speeds"]:
        figures = row.get("error") or f"{row['pairs_a_second']:.1f} | {'' if row['gib'] is None else format(row['gib'], '.1f')}"
        click.echo(f"| {row['way']} | {figures} |")
    found = report["scoring"]
    memory = "" if found["gib"] is None else f", {found['gib']:.1f} GiB"
    click.echo(
        f"\nexhaustive alignment of {found['images']:,} images with {found['captions']:,} captions: {found['seconds']:.1f} s"
        f"{memory}; from the processor's by {found['difference']:.2g} at most"
    )


if __name__ == "__main__":
    main()
