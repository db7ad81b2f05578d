"""Whether explanations are faithful: what a score loses without the region that it is said to rest on.

The cases are pairs of an image of DATA with one of its captions. In each, one region is taken away in two ways:

- "token": the region's token is left out before the maximum over regions. This tests the explanation's arithmetic: the word
  chose the best region, so its next best must be worse.
- "pixels": the region's cell of the picture is filled with grey, and the picture is encoded again. This tests whether what
  the model saw there is what the score rests on; nothing makes it true by definition, since every token has seen the whole
  picture.

The region is the one that a word chose (one word of each caption, drawn at random), or the one that adds most to the caption,
or all that any word chose. Against each stand as many others, drawn at random from all regions that are not taken away.

    python benchmarks/faithfulness.py val.zip
"""

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from aladin.datasets import Example, read_dataset
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model
from aladin.encoder.pooling import POOLINGS
from aladin.pictures.pixels import open_image, to_pixels
from aladin.search.alignment import alignment_scores, best_regions, token_similarity

GREY = 127  # what the image networks' normalisation makes (nearly) zero
NOISE = 1e-6  # of single precision
RESAMPLES = 2000
BATCH = 16  # pairs

Regions = Float32[np.ndarray, "regions dim"]
Words = Float32[np.ndarray, "words dim"]
Places = Int64[np.ndarray, " some"]


@dataclass(frozen=True)
class Case:
    """What is taken away from a pair's image, and which pieces of the caption are looked at."""

    name: str
    row: int  # of the image in its batch
    words: Words
    chosen: Places  # regions
    others: Places  # as many


@click.command(help=__doc__)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="Model folder.  [default: the one that comes with aladin]")
@click.option("--cases", default=1000, show_default=True, help="Images, each with one of its captions in turn.")
@click.option("--seed", default=0, show_default=True)
def main(data: Path, model: Path | None, cases: int, seed: int) -> None:
    encoder = Encoder.load(model or shipped_model())
    random = np.random.default_rng(seed)
    examples = read_dataset(data).examples[:cases]
    drops: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(examples), BATCH):
        for name, found in measured(encoder, examples[start : start + BATCH], start, random).items():
            drops.setdefault(name, []).append(found)
        click.echo(f"{min(start + BATCH, len(examples)):,} of {len(examples):,}", err=True)
    table = {name: summary(np.concatenate(found), seed) for name, found in drops.items()}
    json.dump({"model": encoder.model.fingerprint[:12], "seed": seed, "removed": table}, sys.stdout, indent=2)
    click.echo()


def measured(encoder: Encoder, examples: tuple[Example, ...], start: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """For each kind of removal what each pair loses: without the chosen regions, and without the others."""
    fitting, grid = encoder.model.config.preprocessing.fitting, encoder.model.config.image.grid
    pixels = np.stack(
        [to_pixels(open_image(example.source.read(), example.id, fitting.draft_size), fitting) for example in examples]
    )
    whole = encoder.encode_images(pixels).regions
    cases: list[Case] = []
    for row, example in enumerate(examples):
        caption = example.captions[(start + row) % len(example.captions)]
        cases += cases_of(encoder, row, whole[row], caption, random)
    pictures = [_greyed(pixels[case.row], gone, grid) for case in cases for gone in (case.chosen, case.others)]
    again = encoder.encode_images(np.stack(pictures)).regions
    drops: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number, case in enumerate(cases):
        before = score(whole[case.row], case)
        tokens = [np.delete(whole[case.row], gone, axis=0) for gone in (case.chosen, case.others)]
        drops[f"{case.name}, token"].append((before - score(tokens[0], case), before - score(tokens[1], case)))
        greyed = again[2 * number : 2 * number + 2]
        drops[f"{case.name}, pixels"].append((before - score(greyed[0], case), before - score(greyed[1], case)))
    return {name: np.array(found) for name, found in drops.items()}


def cases_of(encoder: Encoder, row: int, regions: Regions, caption: str, random: np.random.Generator) -> list[Case]:
    """What is taken away for one pair; nothing where a caption chooses more than half of the regions."""
    encoded, typed = encoder.encode_queries([caption]), encoder.typed_words(caption)
    words = encoded.words[0][encoded.word_mask[0]]
    chosen, best = best_regions(token_similarity(regions[None], words)[0])
    every = np.unique(chosen)
    if 2 * len(every) > len(regions):
        return []
    word = typed[random.integers(len(typed))]
    piece = max(word.pieces, key=lambda piece: best[piece])  # as an explanation shows it
    dim = encoder.model.config.heads.token_dim  # what comes after it is the same in all regions
    own = token_similarity(regions[None, :, :dim], words[:, :dim])[0][chosen, np.arange(len(chosen))]
    sums = np.bincount(chosen, weights=own, minlength=len(regions))

    def case(name: str, looked_at: Words, gone: Places) -> Case:
        others = np.setdiff1d(np.arange(len(regions)), gone)
        return Case(name, row, looked_at, gone, random.choice(others, len(gone), replace=False))

    return [
        case("a word's region, that word", words[[piece]], chosen[[piece]]),
        case("a word's region, the caption", words, chosen[[piece]]),
        case("the strongest region, the caption", words, np.array([sums.argmax()])),
        case("every chosen region, the caption", words, every),
    ]


def score(regions: Regions, case: Case) -> float:
    """The alignment of the words that are looked at, their mean, with the regions that there are."""
    similarity = token_similarity(regions[None], case.words)
    return float(alignment_scores(similarity, np.ones((1, len(regions)), dtype=bool), POOLINGS["MrAVGw"])[0])


def summary(drops: Float32[np.ndarray, "pairs 2"], seed: int) -> dict[str, object]:
    """How often the score falls, and by how much, with 95 % bootstrap intervals over the pairs."""
    chosen, others = drops[:, 0], drops[:, 1]
    picks = np.random.default_rng(seed).integers(len(drops), size=(RESAMPLES, len(drops)))
    values = {
        "falls without the chosen, %": 100.0 * (chosen > NOISE),
        "falls without others, %": 100.0 * (others > NOISE),
        "falls more without the chosen than without others, %": 100.0 * (chosen > others + NOISE),
        "mean loss without the chosen": chosen,
        "mean loss without others": others,
    }
    table: dict[str, object] = {"pairs": len(drops)}
    for name, each in values.items():
        low, high = np.percentile(each[picks].mean(axis=1), (2.5, 97.5))
        table[name] = [round(float(value), 4) for value in (each.mean(), low, high)]
    return table


def _greyed(pixels: UInt8[np.ndarray, "size size 3"], regions: Places, grid: int) -> UInt8[np.ndarray, "size size 3"]:
    """The picture with the cells of these regions, in reading order, filled with grey."""
    edges = np.round(np.arange(grid + 1) * len(pixels) / grid).astype(int)
    picture = pixels.copy()
    for region in regions.tolist():
        row, column = divmod(region, grid)
        picture[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = GREY
    return picture


if __name__ == "__main__":
    main()
