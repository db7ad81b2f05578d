"""Exhaustive alignment of COCO's 5,000 images with 25,000 captions at BERT-base sizes: ours against the formulation of 2022.

    python benchmarks/exhaustive.py

Tokens are random, of 768 dimensions: 34 regions an image, captions of 6 to 22 words. The formulation of 2022 pads both sides
to 71 tokens, and for one image at a time expands it to all captions of a block, multiplies, masks with zeros, takes the maximum
and adds up. Both are timed on slices of the same tokens in the same run, each in a process of its own, and their seconds
multiplied up to the whole. The memory printed is what scoring added to the peak that making the tokens had reached.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aladin.evaluation.scoring import alignment_matrix
from aladin.network.tensors import Tokens

IMAGES, CAPTIONS = 5_000, 25_000
REGIONS, DIM, PADDED = 34, 768, 71
OUR_SLICE, OLD_SLICE = (500, 2_500), (20, 2_500)  # images, captions
OLD_BLOCK = 250  # captions that the original's evaluation took at once: its 5 batches of 50


def tokens(images: int, captions: int) -> tuple[Tokens, Tokens]:
    """The first of the same tokens, however many are asked for."""
    torch.manual_seed(0)
    most_images, most_captions = OUR_SLICE
    regions = torch.nn.functional.normalize(torch.randn(most_images, REGIONS, DIM), dim=2)[:images]
    lengths = torch.randint(6, 23, (most_captions,))
    every = [torch.nn.functional.normalize(torch.randn(int(length), DIM), dim=1) for length in lengths]
    words = pad_sequence(every[:captions], batch_first=True)
    mask = torch.arange(words.shape[1])[None] < lengths[:captions, None]
    return Tokens(regions, torch.ones(images, REGIONS, dtype=torch.bool)), Tokens(words, mask)


def ours(regions: Tokens, words: Tokens) -> Tensor:
    return alignment_matrix(regions, words, "MrSw")


def of_2022(regions: Tokens, words: Tokens) -> Tensor:
    images = torch.nn.functional.pad(regions.states, (0, 0, 0, PADDED - regions.states.shape[1]))
    image_mask = torch.nn.functional.pad(regions.mask, (0, PADDED - regions.mask.shape[1]))
    captions = torch.nn.functional.pad(words.states, (0, 0, 0, PADDED - words.states.shape[1]))
    caption_mask = torch.nn.functional.pad(words.mask, (0, PADDED - words.mask.shape[1]))
    rows = []
    for image, real in zip(images, image_mask, strict=True):
        scores = []
        for start in range(0, len(captions), OLD_BLOCK):
            block, block_mask = captions[start : start + OLD_BLOCK], caption_mask[start : start + OLD_BLOCK]
            expanded = image[None].expand(len(block), -1, -1).contiguous()
            similarity = torch.matmul(expanded, block.permute(0, 2, 1))
            cells = real[None, :, None] & block_mask[:, None, :]
            scores.append(similarity.masked_fill(~cells, 0).max(dim=1).values.sum(dim=1))
        rows.append(torch.cat(scores))
    return torch.stack(rows)


def measured(score: Callable[[Tokens, Tokens], Tensor], size: tuple[int, int], answer: Connection) -> None:
    with torch.inference_mode():
        regions, words = tokens(*size)
        score(regions[:2], words[:50])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        corner = score(regions, words)[:5, :5].clone()
        taken = time.perf_counter() - started
    answer.send((taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10, corner))


def in_its_own_process(score: Callable[[Tokens, Tokens], Tensor], size: tuple[int, int]) -> tuple[float, float, Tensor]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(score, size, sender))
    process.start()
    found: tuple[float, float, Tensor] = receiver.recv()
    process.join()
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    whole, corners = {}, []
    for name, score, size in (("2022", of_2022, OLD_SLICE), ("ours", ours, OUR_SLICE)):
        taken, memory, corner = in_its_own_process(score, size)
        whole[name] = taken * IMAGES * CAPTIONS / (size[0] * size[1])
        corners.append(corner)
        slice_ = f"{size[0]} x {size[1]:,} pairs"
        print(f"{name}: {slice_} in {taken:.1f} s, {memory:,.0f} MB; so ~{whole[name]:,.0f} s for {IMAGES:,} x {CAPTIONS:,}")
    torch.testing.assert_close(*corners)
    print(f"ours is {whole['2022'] / whole['ours']:.1f} times as fast, with {torch.get_num_threads()} threads; scores agree")


if __name__ == "__main__":
    main()
