"""Effectiveness against seconds per query at 1,000, 5,000 and 100,000 images, by each way of scoring with one transformer.

    python benchmarks/efficiency.py                      # time alone, lite's sizes
    python benchmarks/efficiency.py --sizes bert-base    # the paper's: 12 layers of 768, 34 regions
    python benchmarks/efficiency.py --data val.zip --distilled runs/both/best --triplet runs/triplet/best \\
        --cross-encoder runs/cross-encoder/best --plot efficiency.svg

Time: weights and images are random, since it does not depend on them; sizes are those of --distilled where it is given.
Included: encoding the text, scoring, choosing the best ten. Not included: encoding images, which is done once, before queries;
for the cross-encoder, which reads the images anew with every query, neither its image features. One query at a time, fp32,
PyTorch. After two stages a cross-encoder adds n pairs. What is marked "~" was measured on fewer images and multiplied. The
paper's figure of this kind says "almost 90 times faster" for the matching head against the cross-encoder.

Effectiveness: rsum of the models given, on the data given; what no model is given for has time only. Alone the cross-encoder
would have to read every pair, 5 million on Flickr8k's 1,000 validation images. It is judged after two stages;
what it would reach alone is not known, and its own row says "not read".
"""

import argparse
import dataclasses
import functools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aladin.datasets import read_dataset
from aladin.encoder.config import BackboneConfig, HeadsConfig
from aladin.encoder.folder import model_config
from aladin.evaluation.cross_encoder import CrossEncoder, check_cross_encoder
from aladin.evaluation.encoding import encode_dataset
from aladin.evaluation.heads import evaluate_heads
from aladin.evaluation.ranking import CrossEncoderStage
from aladin.evaluation.scoring import MEMORY
from aladin.measures.report import head_figures
from aladin.network.heads import AlignmentHead, CrossEncoderHead, MatchingHead
from aladin.network.run import Run
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Regions, Tokens
from aladin.network.transformer import Transformer
from aladin.progress import TimedSteps

IMAGES = (1_000, 5_000, 100_000)
MARKERS = dict(zip(IMAGES, "os^", strict=True))  # of the plot
DEPTHS = (50, 100, 500)  # k of two stages
RERANK = 100  # the k before a cross-encoder
WORDS = 13  # of a caption, with [CLS] and [SEP]
TAGS = 11
REPEATS = 7
MEASURED_ALIGNED = 5_000  # exhaustive alignment of more is multiplied
PAIRS_AT_ONCE = 50


@dataclass(frozen=True)
class Sizes:
    """What time depends on; `pairs` are read together to measure, more are multiplied."""

    backbone: BackboneConfig
    heads: HeadsConfig
    regions: int
    pairs: int


SIZES = {
    "lite": Sizes(BackboneConfig(region_features=2560), HeadsConfig(), 49, 1_000),
    "bert-base": Sizes(
        BackboneConfig(dim=768, layers=12, heads=12, feed_forward=3072, region_features=2048),
        HeadsConfig(token_dim=768, matching_feed_forward=768),
        34,
        100,
    ),
}


@dataclass(frozen=True)
class Cost:
    """Seconds of a query, and whether they are multiplied from fewer images."""

    seconds: float
    multiplied: bool


class Models:
    """One transformer, read apart and together."""

    def __init__(self, sizes: Sizes) -> None:
        torch.manual_seed(0)
        heads, dim = dataclasses.replace(sizes.heads, pooling="MrSw"), sizes.backbone.dim
        self.backbone = Transformer(sizes.backbone).eval()
        self.alignment = AlignmentHead(heads, dim).eval()
        self.matching = MatchingHead(heads, dim).eval()
        self.pairs = CrossEncoderHead(dim).eval()
        self.caption = torch.randint(1000, 2000, (1, WORDS))
        self.mask = torch.ones(1, WORDS, dtype=torch.bool)
        features = torch.randn(PAIRS_AT_ONCE, sizes.regions, sizes.backbone.region_features)
        boxes = torch.randn(PAIRS_AT_ONCE, sizes.regions, sizes.backbone.region_geometry)
        self.regions = Regions(features, boxes, torch.ones(features.shape[:2], dtype=torch.bool))
        self.tags = torch.randint(1000, 2000, (PAIRS_AT_ONCE, TAGS))
        self.vectors = torch.nn.functional.normalize(torch.randn(max(IMAGES), dim), dim=1)
        tokens = torch.nn.functional.normalize(torch.randn(MEASURED_ALIGNED, sizes.regions, heads.token_dim), dim=2)
        self.tokens = Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def query(self) -> tuple[Tensor, Tokens]:
        states = self.backbone.encode_captions(self.caption, self.mask)
        return self.matching(states)[0], self.alignment.words(states)

    def cross_encoder(self, images: int) -> None:
        scores = []
        for start in range(0, images, PAIRS_AT_ONCE):
            count = min(PAIRS_AT_ONCE, images - start)
            captions, mask = (part.expand(count, -1) for part in (self.caption, self.mask))
            tags, every = self.tags[:count], torch.ones(count, TAGS, dtype=torch.bool)
            scores.append(self.pairs(self.backbone.encode_pairs(captions, mask, tags, every, self.regions[:count])))
        torch.cat(scores).topk(min(10, images))

    def aligned(self, words: Tokens) -> None:
        alignment_scores(self.tokens, words)[:, 0].topk(10)

    def matched(self, images: int, rerank: int = 0) -> None:
        vector, words = self.query()
        best = (self.vectors[:images] @ vector).topk(max(rerank, 10)).indices
        if rerank:
            # The tokens of any images: which ones does not change the time.
            alignment_scores(self.tokens[best % MEASURED_ALIGNED], words)[:, 0].topk(10)


@torch.inference_mode()
def costs(sizes: Sizes, pairs: int) -> dict[str, dict[int, Cost]]:
    """What a query costs by each way of scoring, for each number of images."""
    models = Models(sizes)
    text = seconds(models.query)
    models.cross_encoder(PAIRS_AT_ONCE)
    pair = seconds(lambda: models.cross_encoder(sizes.pairs), 2, warm=True) / sizes.pairs
    _, words = models.query()
    align = seconds(lambda: models.aligned(words))
    print(f"{platform.machine()}, {torch.get_num_threads()} threads; text: {1e3 * text:.1f} ms; a pair: {1e3 * pair:.1f} ms")

    def searched(images: int, rerank: int = 0) -> Cost:
        return Cost(seconds(lambda: models.matched(images, rerank)), False)

    ways: dict[str, Callable[[int], Cost]] = {
        "cross-encoder": lambda images: Cost(pair * images, images > sizes.pairs),
        "alignment": lambda images: Cost(text + align * images / MEASURED_ALIGNED, images != MEASURED_ALIGNED),
        f"cross-encoder k={RERANK} n={pairs}": lambda images: Cost(searched(images, RERANK).seconds + pairs * pair, False),
        **{f"two-stage k={k}": functools.partial(searched, rerank=k) for k in reversed(DEPTHS)},
        "matching": searched,
    }
    return {name: {images: way(images) for images in IMAGES} for name, way in ways.items()}


def seconds(run: Callable[[], object], repeats: int = REPEATS, warm: bool = False) -> float:
    """The median."""
    if not warm:
        run()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def judged(arguments: argparse.Namespace) -> dict[str, float]:
    """The rsum of each way of scoring that a model was given for."""
    dataset = read_dataset(arguments.data, arguments.split)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        cache, steps = arguments.cache or Path(name), TimedSteps()
        if arguments.triplet:
            encoded = encode_dataset(arguments.triplet, dataset, Run(arguments.precision), cache, steps)
            found["matching, triplet alone"] = head_figures(
                evaluate_heads(encoded, 0, MEMORY, steps).ranks["matching"]
            ).rsum.value
        if arguments.distilled:
            encoded = encode_dataset(arguments.distilled, dataset, Run(arguments.precision), cache, steps)
            stage = None
            if arguments.cross_encoder:
                reader = CrossEncoder.load(arguments.cross_encoder, dataset, Run(arguments.precision), cache, steps)
                stage = CrossEncoderStage(arguments.pairs, reader.scores)
            for k in DEPTHS:
                ranks = evaluate_heads(encoded, k, MEMORY, steps, cross_encoder=stage if k == RERANK else None).ranks
                found |= {head: head_figures(of_head).rsum.value for head, of_head in ranks.items()}
    return found


def rows(
    cost: Mapping[str, Mapping[int, Cost]], rsums: Mapping[str, float]
) -> dict[str, tuple[float | None, Mapping[int, Cost]]]:
    """Rsum, if it is known, and costs by what is printed and drawn; both matching heads cost the same."""
    found = {("matching, distilled" if name == "matching" else name): (rsums.get(name), taken) for name, taken in cost.items()}
    triplet = "matching, triplet alone"
    return found | ({triplet: (rsums[triplet], cost["matching"])} if triplet in rsums else {})


def table(cost: Mapping[str, Mapping[int, Cost]], rsums: Mapping[str, float]) -> str:
    """Of all ways, as Markdown."""
    lines = ["| scored by | rsum | " + " | ".join(f"{images:,} images | times as fast" for images in IMAGES) + " |"]
    lines.append("|---|---:|" + "---:|" * (2 * len(IMAGES)))
    for name, (rsum, taken) in rows(cost, rsums).items():
        cells = [f"{rsum:.1f}" if rsum is not None else "not read" if name == "cross-encoder" else ""]
        for images, one in taken.items():
            faster = cost["cross-encoder"][images].seconds / one.seconds
            cells += [f"{'~' if one.multiplied else ''}{1e3 * one.seconds:,.1f} ms", f"{faster:,.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(path: Path, cost: Mapping[str, Mapping[int, Cost]], rsums: Mapping[str, float], pairs: int) -> None:
    """Rsum over seconds per query: a line for each way that was judged, a mark for each number of images.

    The cross-encoder has no rsum of its own: where it would stand in time is a dashed line for each number of images.
    """
    from matplotlib.figure import Figure  # here, because the table needs no drawing

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    for name, (rsum, taken) in rows(cost, rsums).items():
        if rsum is None:
            continue
        times = [one.seconds for one in taken.values()]
        (line,) = axes.plot(times, [rsum] * len(times), linewidth=1, label=name)
        for images, one in taken.items():
            colour = line.get_color()
            filling = "white" if one.multiplied else colour
            axes.plot(one.seconds, rsum, MARKERS[images], color=colour, markerfacecolor=filling)
    for images, one in cost["cross-encoder"].items():
        axes.axvline(one.seconds, color="0.6", linestyle="--", linewidth=1)
        text = f"cross-encoder, {images:,} images"
        at = (one.seconds, 0.02)
        axes.annotate(
            text, at, xycoords=("data", "axes fraction"), fontsize=7, color="0.4", rotation=90, ha="right", va="bottom"
        )
    for images, marker in MARKERS.items():
        axes.plot([], [], marker, color="0.4", linestyle="none", label=f"{images:,} images")
    axes.set_xscale("log")
    axes.set_xlabel("seconds per query, text encoded and scored (hollow: multiplied from fewer images)")
    axes.set_ylabel("rsum")
    if f"cross-encoder k={RERANK} n={pairs}" in rsums:
        axes.set_title(f"cross-encoder: the {pairs} best of two stages", fontsize=9)
    axes.grid(color="0.92")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, help="without --distilled; lite if not given")
    parser.add_argument("--data", type=Path, help="images with captions to judge the models on")
    parser.add_argument("--split", help="of the data, where they name splits")
    parser.add_argument("--distilled", type=Path, help="model folder: its matching head, alignment head and both in two stages")
    parser.add_argument("--triplet", type=Path, help="model folder: its matching head")
    parser.add_argument("--cross-encoder", type=Path, help="model folder with a cross-encoder: after two stages of --distilled")
    parser.add_argument("--pairs", type=int, default=20, help=f"how many of the {RERANK} it reads of each query")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the models that are judged")
    parser.add_argument("--cache", type=Path, help="folder to keep image features in")
    parser.add_argument("--plot", type=Path, help="file to draw to: .svg or .png")
    arguments = parser.parse_args()
    models = [arguments.distilled, arguments.triplet, arguments.cross_encoder]
    if any(models) != bool(arguments.data) or (arguments.cross_encoder and not arguments.distilled):
        parser.error(
            "models are judged on --data, and --cross-encoder judges what --distilled has found: give all of these or none"
        )
    if arguments.cross_encoder:
        check_cross_encoder(arguments.cross_encoder)
    if arguments.plot and (arguments.plot.suffix not in (".svg", ".png") or not arguments.data):
        parser.error("--plot needs a name that ends in .svg or .png, and models that are judged on --data")
    if arguments.sizes and arguments.distilled:
        parser.error("sizes are those of --distilled; leave out --sizes")
    sizes = SIZES[arguments.sizes or "lite"]
    if arguments.distilled:
        config = model_config(arguments.distilled)
        regions = config.regions if config.image.source == "photograph" else config.limits.regions
        sizes = Sizes(config.backbone, config.heads, regions, sizes.pairs)
    cost = costs(sizes, arguments.pairs)
    rsums = judged(arguments) if arguments.data else {}
    print(table(cost, rsums))
    if arguments.plot:
        draw(arguments.plot, cost, rsums, arguments.pairs)


if __name__ == "__main__":
    main()
