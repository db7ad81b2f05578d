"""What an image costs on disk, and what storing less costs in rsum: vectors and region tokens in several forms.

python benchmarks/storage.py MODEL VAL --train TRAIN

Narrower tokens are the trained ones on their principal axes, found on training captions and images; nothing is learned on VAL.
What all tokens of an image share, the global head's numbers and the terms of hubs, is kept as it is. Captions are scored as
search does: as queries where images are searched.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from aladin.datasets import Dataset, read_dataset
from aladin.evaluation.encoding import EncodedData, EncodedSet, encode_dataset
from aladin.evaluation.scoring import alignment_matrix
from aladin.measures.recalls import right_answer_ranks, rsum_of_each
from aladin.network.principal_axes import principal_axes
from aladin.network.run import Run
from aladin.network.scores import matching_scores
from aladin.network.tensors import Tokens
from aladin.progress import SILENT

AXES_FROM = 1000  # training images whose tokens the principal axes are found on
BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "1 bit": 1 / 8}
SCALE_BYTES = 4  # int8 has one scale a vector or token


def stored(values: Float[Tensor, "*rows dim"], form: str) -> Float[Tensor, "*rows dim"]:
    """What is read back when `values` were written in this form."""
    match form:
        case "fp32":
            return values
        case "fp16":
            return values.half().float()
        case "int8":
            scale = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
            return (values / scale).round() * scale
        case "1 bit":
            return normalize(torch.where(values > 0, 1.0, -1.0), dim=-1)
    raise AssertionError(form)


def size(form: str, dim: int, rows: int = 1) -> int:
    """Bytes of `rows` stored vectors."""
    return int(rows * (dim * BYTES[form] + (SCALE_BYTES if form == "int8" else 0)))


def of_length_1(states: Float[Tensor, "*rows dim"], shared: int) -> Float[Tensor, "*rows dim"]:
    """The same with the learned dimensions stretched to what the shared ones leave of the length."""
    width = states.shape[-1] - shared
    learned, terms = states[..., :width], states[..., width:]
    rest = (1 - terms.square().sum(dim=-1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([normalize(learned, dim=-1) * rest, terms], dim=-1)


def axes_of(data: EncodedData, count: int) -> Float[Tensor, "axes learned"]:
    """The principal axes of the learned dimensions."""
    learned = data.images.tokens.states.shape[2] - data.heads.added_dim
    sides = (data.images.tokens, data.captions.tokens)
    return principal_axes([Tokens(tokens.states[..., :learned], tokens.mask) for tokens in sides], count)


def projected(tokens: Tokens, axes: Float[Tensor, "axes learned"]) -> Tokens:
    """Tokens whose learned dimensions are projected on axes; the others stay behind them."""
    width = axes.shape[1]
    learned, terms = tokens.states[..., :width], tokens.states[..., width:]
    return Tokens(of_length_1(torch.cat([learned @ axes.T, terms], dim=-1), terms.shape[2]), tokens.mask)


def pooled(tokens: Tokens, side: int, shared: int) -> Tokens:
    """Regions averaged to a side x side grid."""
    images, regions, dim = tokens.states.shape
    grid = int(regions**0.5)
    maps = tokens.states.transpose(1, 2).reshape(images, dim, grid, grid)
    states = adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2)
    return Tokens(of_length_1(states, shared), torch.ones(states.shape[:2], dtype=torch.bool))


def rsum_as_search(data: EncodedData, scores: Callable[[EncodedData], Float[np.ndarray, "images captions"]]) -> float:
    """The rsum with each direction scored as search does it, as `aladin evaluate` does."""
    total = 0.0
    for directions in data.alike:
        found = scores(data.asked(directions[0]))
        total += sum(float(rsum_of_each(right_answer_ranks(found, data.owners, name)).mean()) for name in directions)
    return total


def matching_rsum(data: EncodedData, form: str) -> float:
    kept = replace(data, images=EncodedSet(stored(data.images.vectors, form), data.images.tokens))
    return rsum_as_search(kept, lambda asked: matching_scores(asked.images.vectors, asked.captions.vectors).numpy())


def alignment_rsum(data: EncodedData, regions: Tokens, words: Tokens, form: str) -> float:
    images = EncodedSet(data.images.vectors, Tokens(stored(regions.states, form), regions.mask))
    kept = replace(data, images=images, captions=EncodedSet(data.captions.vectors, words))
    return rsum_as_search(
        kept, lambda asked: alignment_matrix(asked.images.tokens, asked.captions.tokens, asked.pooling).numpy()
    )


def first_images(dataset: Dataset, count: int) -> Dataset:
    return replace(dataset, examples=dataset.examples[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("val", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        sets: list[EncodedData] = []
        for dataset in (read_dataset(arguments.val), first_images(read_dataset(arguments.train), AXES_FROM)):
            sets.append(encode_dataset(arguments.model, dataset, Run(), Path(cache), SILENT))
    data, training = sets
    dim, (_, count, token_dim) = data.images.vectors.shape[1], data.images.tokens.states.shape
    rows: list[dict[str, object]] = []

    def add(what: str, form: str, stored_bytes: int, figure: float) -> None:
        rows.append({"stored": what, "form": form, "bytes": stored_bytes, "rsum": round(figure, 1)})
        if not arguments.json:
            print(f"| {what} | {form} | {stored_bytes:,} | {figure:.1f} |", flush=True)

    if not arguments.json:
        print(f"{arguments.model.name} on {arguments.val.name}: {len(data.owners):,} captions\n")
        print("| stored for an image | form | bytes | rsum |\n|---|---|---:|---:|")
    for form in BYTES:
        add(f"vector of {dim}", form, size(form, dim), matching_rsum(data, form))
    regions, words = data.images.tokens, data.captions.tokens
    for form in BYTES:
        add(f"{count} tokens of {token_dim}", form, size(form, token_dim, count), alignment_rsum(data, regions, words, form))
    shared = data.heads.added_dim
    others = f" and {shared} that they share" if shared else ""
    for narrow in (128, 64):
        axes = axes_of(training, narrow)
        figure = alignment_rsum(data, projected(regions, axes), projected(words, axes), "int8")
        add(f"{count} tokens of {narrow}{others}", "int8", size("int8", narrow + shared, count), figure)
    for side in (5, 4, 3):
        figure = alignment_rsum(data, pooled(regions, side, shared), words, "int8")
        add(f"{side**2} pooled tokens of {token_dim}", "int8", size("int8", token_dim, side**2), figure)
    axes = axes_of(training, 128)
    figure = alignment_rsum(data, projected(pooled(regions, 4, shared), axes), projected(words, axes), "int8")
    add(f"16 pooled tokens of 128{others}", "int8", size("int8", 128 + shared, 16), figure)
    if arguments.json:
        json.dump(rows, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
