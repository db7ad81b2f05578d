"""Encoding of a whole data set, its score matrices and the ranks of right answers, in bounded memory."""

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aladin.checkpoints import load_model
from aladin.config import Pooling
from aladin.datasets import Dataset, Example
from aladin.encode import Encoder
from aladin.errors import ModelError
from aladin.features import Features, cached_features
from aladin.images import Pixels, open_image, to_pixels
from aladin.measures import DIRECTIONS, Direction, Ranks, right_answer_ranks
from aladin.model import Aladin
from aladin.scores import alignment_scores, matching_scores
from aladin.tensors import Tokens, concatenate
from aladin.text import Pieces, WordPieces

BATCH = 64
MEMORY = 64 * 2**20  # bytes; blocks of scores gain no speed beyond
END_TO_END = ("MrSw", "MrAVGw")  # poolings in which words add up, so that captions need no padding
BROKEN = 1e300  # worse than any float32, and not the worst float64
Progress = Callable[[int, int], None]  # told how much of all is done


def quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class EncodedSet:
    """Both heads' output for all images or all captions of a data set, in its order."""

    vectors: Float[Tensor, "rows dim"]
    tokens: Tokens


@dataclass(frozen=True)
class EncodedData:
    """A data set as scores need it: `owners` is each caption's image row, `pooling` how the model compares tokens."""

    images: EncodedSet
    captions: EncodedSet
    owners: Int[np.ndarray, " captions"]
    pooling: Pooling


class Stages:
    """Times the stages of an evaluation and shows their progress: `shown` opens what is told how far a named stage is."""

    def __init__(self, shown: Callable[[str], AbstractContextManager[Progress]] = lambda name: nullcontext(quiet)) -> None:
        self._shown = shown
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Within it the stage runs; the progress is its to tell."""
        started = time.perf_counter()
        with self._shown(name) as tell:
            yield tell
        self.seconds[name] = time.perf_counter() - started


def precision_context(precision: str) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 for "bf16", everything in full precision for "fp32"."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.inference_mode()
def encode_images(model: Aladin, features: Features, precision: str = "fp32", view: int = 0) -> EncodedSet:
    """Every image of `features`, as the given view shows it."""
    parts = []
    for rows in _blocks(features.maps.shape[1], BATCH):
        maps = torch.from_numpy(features.maps[view, rows]).float()
        classes = torch.from_numpy(features.tags[view, rows].astype(np.int64))
        with precision_context(precision):
            parts.append(model.encoded_images(model.image_states(maps, classes)))
    return EncodedSet(torch.cat([part.vectors for part in parts]), concatenate([part.tokens for part in parts]))


@torch.inference_mode()
def encode_captions(model: Aladin, pieces: Pieces, precision: str = "fp32") -> EncodedSet:
    """Every caption; those of like length are encoded together, so that little padding is computed."""
    lengths = pieces.mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    vectors: list[Tensor] = []
    tokens: list[Tokens] = []
    for block in _blocks(len(order), 2 * BATCH):
        rows = order[block]
        width = int(lengths[rows].max())
        ids, mask = torch.from_numpy(pieces.ids[rows, :width]), torch.from_numpy(pieces.mask[rows, :width])
        with precision_context(precision):
            encoded = model.encoded_captions(model.caption_states(ids, mask))
        vectors.append(encoded.vectors)
        tokens.append(encoded.tokens)
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return EncodedSet(torch.cat(vectors)[back], concatenate(tokens)[back])


def encode_dataset(folder: Path, dataset: Dataset, precision: str, cache: Path, stages: Stages) -> EncodedData:
    """The data set by the model of a folder, which is a trained one or, without model.safetensors, an exported one.

    A trained model's image features are kept in `cache`. An exported one has the precision that it was exported with, and
    encodes as search does.
    """
    if (folder / "model.safetensors").is_file():
        return _by_trained_model(folder, dataset, precision, cache, stages)
    if is_exported(folder):
        return _by_exported_model(Encoder.load(folder), dataset, stages)
    found = "has neither model.safetensors nor text.onnx" if folder.is_dir() else "is not a folder"
    raise ModelError(f"{folder} {found}; give a model folder that `aladin train` or `aladin export` wrote")


def is_exported(folder: Path) -> bool:
    """Whether the model folder holds nothing but what search needs."""
    return (folder / "text.onnx").is_file() and not (folder / "model.safetensors").is_file()


def _by_trained_model(folder: Path, dataset: Dataset, precision: str, cache: Path, stages: Stages) -> EncodedData:
    model = load_model(folder)
    config = model.config
    assert model.image_network is not None
    tokenizer = WordPieces.load(folder / "tokenizer.json", config.limits.caption_pieces)
    with stages.stage("image features") as tell:
        features = cached_features(dataset, model.image_network, config.image.size, config.limits.tags, 1, cache, tell)
    with stages.stage("images"):
        images = encode_images(model, features, precision)
    with stages.stage("captions"):
        captions = encode_captions(model, tokenizer.encode(list(dataset.captions)), precision)
    return EncodedData(images, captions, dataset.owners, config.heads.pooling)


def _by_exported_model(encoder: Encoder, dataset: Dataset, stages: Stages) -> EncodedData:
    with stages.stage("images") as tell:
        images = _exported_images(encoder, dataset.examples, tell)
    with stages.stage("captions") as tell:
        captions = _exported_captions(encoder, dataset.captions, tell)
    return EncodedData(images, captions, dataset.owners, encoder.model.config.heads.pooling)


def _exported_images(encoder: Encoder, examples: tuple[Example, ...], progress: Progress) -> EncodedSet:
    size = encoder.model.config.image.size

    def decode(example: Example) -> Pixels:
        return to_pixels(open_image(example.source.read(), name=example.id, draft_size=size), size)

    parts = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in _blocks(len(examples), BATCH // 2):
            parts.append(encoder.encode_images(np.stack(list(pool.map(decode, examples[rows])))))
            progress(rows.stop, len(examples))
    regions = torch.from_numpy(np.concatenate([part.regions for part in parts]))
    vectors = torch.from_numpy(np.concatenate([part.vectors for part in parts]))
    return EncodedSet(vectors, Tokens(regions, torch.ones(regions.shape[:2], dtype=torch.bool)))


def _exported_captions(encoder: Encoder, captions: tuple[str, ...], progress: Progress) -> EncodedSet:
    vectors, tokens = [], []
    for number, caption in enumerate(captions):
        # One by one, as a search does: an int8 graph finds one scale for all that it is given at once.
        encoded = encoder.encode_texts([caption])
        vectors.append(torch.from_numpy(encoded.vectors))
        tokens.append(Tokens(torch.from_numpy(encoded.words), torch.from_numpy(encoded.word_mask)))
        progress(number + 1, len(captions))
    return EncodedSet(torch.cat(vectors), concatenate(tokens))


@dataclass(frozen=True)
class Evaluation:
    """Where the right answers stand by each way of scoring, and how long that took."""

    ranks: dict[str, dict[Direction, Ranks]]  # "matching", "alignment", and "two-stage k=100" or another k
    seconds: dict[str, float]  # of each stage


def evaluate(data: EncodedData, rerank: int, memory: int, stages: Stages) -> Evaluation:
    """Ranks by the matching head, by the alignment head, and by both: the `rerank` best of the one re-ranked by the other.

    `rerank` 0 leaves the last one out. Beside the score matrix of one head and the input, about `memory` bytes are in use.
    """
    ranks: dict[str, dict[Direction, Ranks]] = {}

    def all_ranks(scores: Float[np.ndarray, "images captions"]) -> dict[Direction, Ranks]:
        return {direction: right_answer_ranks(scores, data.owners, direction) for direction in DIRECTIONS}

    with stages.stage("matching"):
        matching = matching_scores(data.images.vectors, data.captions.vectors).numpy()
        ranks["matching"] = all_ranks(matching)
    if rerank:
        with stages.stage("two-stage") as tell:
            two_stage = {d: two_stage_ranks(data, matching, d, rerank, memory, tell) for d in DIRECTIONS}
    del matching
    with stages.stage("alignment") as tell:
        ranks["alignment"] = all_ranks(
            alignment_matrix(data.images.tokens, data.captions.tokens, data.pooling, memory, tell).numpy()
        )
    if rerank:
        ranks[f"two-stage k={rerank}"] = two_stage
    return Evaluation(ranks, stages.seconds)


@torch.inference_mode()
def alignment_matrix(
    regions: Tokens, words: Tokens, pooling: Pooling, memory: int = MEMORY, progress: Progress = quiet
) -> Float[Tensor, "images captions"]:
    """`scores.alignment_scores` of all pairs, with at most about `memory` bytes beside the result."""
    images, captions = len(regions), len(words)
    scores = torch.empty(images, captions)
    image_block, caption_block = _block_shape(regions, words, pooling, memory, images)
    for columns in _blocks(captions, caption_block):
        chosen = torch.arange(columns.start, columns.stop)
        for rows in _blocks(images, image_block):
            scores[rows, columns] = _block_scores(regions[rows], words, chosen, pooling)
        progress(columns.stop, captions)
    return scores


@torch.inference_mode()
def two_stage_ranks(
    data: EncodedData,
    matching: Float[np.ndarray, "images captions"],
    direction: Direction,
    rerank: int,
    memory: int = MEMORY,
    progress: Progress = quiet,
) -> Ranks:
    """`right_answer_ranks` when the `rerank` best by matching score are ordered by alignment and the others follow.

    Only those pairs are aligned. A tie counts against us in both stages.
    """
    images = np.arange(len(matching))
    image_of_query, image_of_candidate = (images, data.owners) if direction == "image_to_text" else (data.owners, images)
    scores = matching if direction == "image_to_text" else matching.T
    depth = min(rerank, len(image_of_candidate))
    ranks = right_answer_ranks(matching, data.owners, direction)
    # A pair takes 8 bytes in each of about eight arrays.
    for queries in _blocks(len(ranks), max(1, memory // (64 * depth))):
        candidates = _nearest(scores[queries], image_of_query[queries], image_of_candidate, depth)
        right = image_of_candidate[candidates] == image_of_query[queries, None]
        asked = np.repeat(np.arange(queries.start, queries.stop), depth)
        pairs = (asked, candidates.ravel()) if direction == "image_to_text" else (candidates.ravel(), asked)
        aligned = _pair_scores(data, *pairs, memory).reshape(right.shape)
        best = np.fmax.reduce(np.where(right, aligned, -np.inf), axis=1)
        before = np.count_nonzero(~right & ~(aligned < best[:, None]), axis=1)
        ranks[queries] = np.where(right.any(axis=1), 1 + before, ranks[queries])
        progress(queries.stop, len(ranks))
    return ranks


def _nearest(
    scores: Float[np.ndarray, "queries candidates"],
    image_of_query: Int[np.ndarray, " queries"],
    image_of_candidate: Int[np.ndarray, " candidates"],
    count: int,
) -> Int[np.ndarray, "queries nearest"]:
    """The `count` best candidates of each query in no order; of equal ones the first rows, but a right answer is the last."""
    nearest = np.empty((len(scores), count), dtype=np.int64)
    for query, row in enumerate(scores):
        badness = np.nan_to_num(-row.astype(np.float64), nan=BROKEN, posinf=BROKEN)
        right = image_of_candidate == image_of_query[query]
        # A step so small stands between any two values that float32 tells apart.
        badness[right] = np.nextafter(badness[right], np.inf)
        limit = np.partition(badness, count - 1)[count - 1]
        better, equal = np.flatnonzero(badness < limit), np.flatnonzero(badness == limit)
        nearest[query] = np.concatenate([better, equal[: count - len(better)]])
    return nearest


def _pair_scores(
    data: EncodedData, images: Int[np.ndarray, " pairs"], captions: Int[np.ndarray, " pairs"], memory: int
) -> Float[np.ndarray, " pairs"]:
    """The alignment score of each pair of an image row and a caption row."""
    regions, words = data.images.tokens, data.captions.tokens
    _, size = _block_shape(regions, words, data.pooling, memory, 1)
    scores = torch.empty(len(images))
    every_caption = torch.from_numpy(captions)
    of_image = torch.from_numpy(np.argsort(images, kind="stable")).split_with_sizes(np.bincount(images).tolist())
    for image, pairs in enumerate(of_image):
        for block in _blocks(len(pairs), size):
            some = pairs[block]
            scores[some] = _block_scores(regions[image : image + 1], words, every_caption[some], data.pooling)[0]
    return scores.numpy()


def _block_shape(regions: Tokens, words: Tokens, pooling: Pooling, memory: int, images: int) -> tuple[int, int]:
    """How many images and captions to score at once in about `memory` bytes, half of it for pairs, half for their words."""
    (_, region_count, dim), word_count = regions.states.shape, words.mask.shape[1]
    # The padded forms hold some copies of their similarities, and one of them every region as it sees the caption.
    pair_bytes = 4 * region_count * (word_count if pooling in END_TO_END else 4 * (word_count + dim))
    pairs = max(1, memory // (2 * pair_bytes))
    image_block = max(1, min(images, math.isqrt(pairs)))
    return image_block, max(1, min(pairs // image_block, memory // (2 * word_count * 4 * (dim + 16))))


def _block_scores(
    regions: Tokens, words: Tokens, captions: Int[Tensor, " chosen"], pooling: Pooling
) -> Float[Tensor, "images chosen"]:
    """`alignment_scores` of these images with the chosen rows of `words`.

    Where words add up, captions are laid end to end, so that no padded word is multiplied.
    """
    if pooling not in END_TO_END:
        return alignment_scores(regions, words[captions], pooling)
    owners, places = words.mask[captions].nonzero(as_tuple=True)
    cells = captions[owners] * words.mask.shape[1] + places
    flat = words.states.flatten(0, 1).index_select(0, cells).float()
    similarity = (regions.states.float().flatten(0, 1) @ flat.T).view(*regions.mask.shape, len(flat))
    best = similarity.masked_fill_(~regions.mask[:, :, None], -torch.inf).amax(dim=1)
    scores = torch.zeros(len(regions), len(captions)).index_add_(1, owners, best)
    return scores / words.mask[captions].sum(dim=1).clamp(min=1) if pooling == "MrAVGw" else scores


def _blocks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
