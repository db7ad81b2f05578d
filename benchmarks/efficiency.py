"""Seconds a query takes against 1,000, 5,000 and 100,000 images, by each way of scoring, with the same transformer.

    python benchmarks/efficiency.py                      # lite's sizes
    python benchmarks/efficiency.py --sizes bert-base    # the paper's: 12 layers of 768, 34 regions

Weights and images are random: time does not depend on them. Included: encoding the text, scoring, choosing the best ten. Not
included: encoding images, which is done once, before any query; for the entangled model, which reads the images anew with
every query, neither its image features. One query at a time, fp32, PyTorch. What is marked "~" was measured on fewer images and
multiplied. The paper's figure of this kind says "almost 90 times faster" for the matching head against the entangled model.
"""

import argparse
import dataclasses
import functools
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from aladin.backbone import Backbone
from aladin.config import BackboneConfig, HeadsConfig
from aladin.heads import AlignmentHead, MatchingHead, PairHead
from aladin.scores import alignment_scores
from aladin.tensors import Tokens

IMAGES = (1_000, 5_000, 100_000)
WORDS = 13  # of a caption, with [CLS] and [SEP]
TAGS = 11
REPEATS = 7
MEASURED_PAIRS = 1_000  # entangled scoring of more is multiplied
MEASURED_ALIGNED = 5_000  # exhaustive alignment of more is multiplied
PAIRS_AT_ONCE = 125
SIZES = {
    "lite": (BackboneConfig(region_features=2560), HeadsConfig(), 49),
    "bert-base": (
        BackboneConfig(dim=768, layers=12, heads=12, feed_forward=3072, region_features=2048),
        HeadsConfig(token_dim=768, matching_feed_forward=768),
        34,
    ),
}


class Models:
    """One transformer, read apart and together."""

    def __init__(self, backbone: BackboneConfig, heads: HeadsConfig, regions: int) -> None:
        torch.manual_seed(0)
        self.backbone = Backbone(backbone).eval()
        self.alignment = AlignmentHead(heads, backbone.dim).eval()
        self.matching = MatchingHead(heads, backbone.dim).eval()
        self.pairs = PairHead(backbone.dim).eval()
        self.caption = torch.randint(1000, 2000, (1, WORDS))
        self.mask = torch.ones(1, WORDS, dtype=torch.bool)
        count = PAIRS_AT_ONCE
        features = torch.randn(count, regions, backbone.region_features + backbone.region_geometry)
        self.regions = Tokens(features, torch.ones(count, regions, dtype=torch.bool))
        self.tags = torch.randint(1000, 2000, (count, TAGS))
        self.vectors = torch.nn.functional.normalize(torch.randn(max(IMAGES), backbone.dim), dim=1)
        tokens = torch.nn.functional.normalize(torch.randn(MEASURED_ALIGNED, regions, heads.token_dim), dim=2)
        self.tokens = Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def query(self) -> tuple[Tensor, Tokens]:
        states = self.backbone.encode_captions(self.caption, self.mask)
        return self.matching(states)[0], self.alignment.words(states)

    def entangled(self, images: int) -> None:
        scores = []
        for _ in range(0, images, PAIRS_AT_ONCE):
            captions, mask = (part.expand(PAIRS_AT_ONCE, -1) for part in (self.caption, self.mask))
            every = torch.ones_like(self.tags, dtype=torch.bool)
            scores.append(self.pairs(self.backbone.encode_pairs(captions, mask, self.tags, every, self.regions)))
        torch.cat(scores).topk(10)

    def aligned(self, images: int) -> None:
        _, words = self.query()
        alignment_scores(self.tokens[:images], words)[:, 0].topk(10)

    def matched(self, images: int, rerank: int = 0) -> None:
        vector, words = self.query()
        best = (self.vectors[:images] @ vector).topk(max(rerank, 10)).indices
        if rerank:
            # The tokens of any images: which ones does not change the time.
            alignment_scores(self.tokens[best % MEASURED_ALIGNED], words)[:, 0].topk(10)


def seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median."""
    run()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="lite")
    backbone, heads, regions = SIZES[parser.parse_args().sizes]
    models = Models(backbone, dataclasses.replace(heads, pooling="MrSw"), regions)
    text = seconds(models.query)
    pair = seconds(lambda: models.entangled(MEASURED_PAIRS), 3) / MEASURED_PAIRS
    align = seconds(lambda: models.aligned(MEASURED_ALIGNED)) - text

    def searched(images: int, rerank: int = 0) -> float:
        return seconds(lambda: models.matched(images, rerank))

    rows: dict[str, Callable[[int], float]] = {
        "entangled": lambda images: pair * images,
        "alignment, all images": lambda images: text + align * images / MEASURED_ALIGNED,
        **{f"two-stage, k = {k}": functools.partial(searched, rerank=k) for k in (50, 100, 500)},
        "matching": searched,
    }
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads; encoding the text: {1e3 * text:.1f} ms, in all but the first"
    )
    print("| scored by | " + " | ".join(f"{images:,} images | faster" for images in IMAGES) + " |")
    print("|---|" + "---:|" * (2 * len(IMAGES)))
    for name, measure in rows.items():
        cells = []
        for images in IMAGES:
            taken = measure(images)
            multiplied = (name == "entangled" and images > MEASURED_PAIRS) or (
                name.startswith("alignment") and images != MEASURED_ALIGNED
            )
            cells += [f"{'~' if multiplied else ''}{1e3 * taken:,.1f} ms", f"{pair * images / taken:,.0f} x"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
