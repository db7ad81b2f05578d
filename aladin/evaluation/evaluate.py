"""Encoding of a whole data set, its score matrices and the ranks of right answers, in bounded memory."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from aladin.datasets import Dataset, Example, placing_undecodable
from aladin.encoder.config import HeadsConfig, Pooling
from aladin.encoder.encoder import Encoder
from aladin.encoder.hub_terms import as_queries
from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import ModelError
from aladin.measures.judgements import Agreement, Judgements, agreement
from aladin.measures.judging import Values, judged_values
from aladin.measures.protocols import Fold
from aladin.measures.recalls import DIRECTIONS, Direction, Ranks, right_answer_ranks
from aladin.measures.relevance import Judge
from aladin.network.caption_blocks import caption_blocks
from aladin.network.checkpoints import is_exported, load_model
from aladin.network.detections import RegionSet, check_photographs, region_set
from aladin.network.features import Features, cached_features
from aladin.network.model import Aladin, Encoded
from aladin.network.scores import alignment_scores, matching_scores
from aladin.network.tensors import Tokens, concatenate
from aladin.pictures.pixels import Pixels, open_image, to_pixels
from aladin.progress import SILENT, Progress

BATCH = 64
MEMORY = 64 * 2**20  # bytes; blocks of scores gain no speed beyond
END_TO_END = ("MrSw", "MrAVGw")  # poolings in which words add up, so that captions need no padding
BROKEN = 1e300  # worse than any float32, and not the worst float64
LARGE = 1e6  # beyond every score of the matching head, which are cosines
STAGE = 1e12  # between the scores of two stages: beyond any number of places, and small enough to count on from there
# From the image rows and the caption rows of pairs to their scores; cross_encoder.CrossEncoder.scores is one.
PairScores = Callable[[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Progress], Float[np.ndarray, " pairs"]]


@dataclass(frozen=True)
class EncodedSet:
    """Vectors and tokens for all images or all captions of a data set, in its order."""

    vectors: Float[Tensor, "rows dim"]
    tokens: Tokens

    def __getitem__(self, rows: slice) -> "EncodedSet":
        return EncodedSet(self.vectors[rows], self.tokens[rows])


@dataclass(frozen=True)
class EncodedData:
    """A data set as scores need it: `owners` is each caption's image row, `heads` what the model's heads are."""

    images: EncodedSet
    captions: EncodedSet
    owners: Int[np.ndarray, " captions"]
    heads: HeadsConfig

    @property
    def pooling(self) -> Pooling:
        return self.heads.pooling

    @property
    def alike(self) -> tuple[tuple[Direction, ...], ...]:
        """The directions in groups that share their scores."""
        return tuple((direction,) for direction in DIRECTIONS) if self.heads.hub_centres else (DIRECTIONS,)

    def asked(self, direction: Direction) -> "EncodedData":
        """The same as search has it in a direction: captions by which images are searched are queries."""
        if direction == "image_to_text" or not self.heads.hub_centres:
            return self
        vectors, tokens = self.captions.vectors, self.captions.tokens
        pieces = tokens.mask.sum(dim=1).numpy()
        states = torch.from_numpy(as_queries(tokens.states.numpy(), pieces, self.heads))
        queries = EncodedSet(torch.from_numpy(as_queries(vectors.numpy(), pieces, self.heads)), Tokens(states, tokens.mask))
        return dataclasses.replace(self, captions=queries)

    def part(self, fold: Fold) -> "EncodedData":
        """The images of a fold with their captions."""
        owners = self.owners[fold.captions] - fold.images.start
        return EncodedData(self.images[fold.images], self.captions[fold.captions], owners, self.heads)


class Stages:
    """Times the stages of an evaluation and shows their progress: `shown` opens what is told how far a named stage is."""

    def __init__(self, shown: Callable[[str], AbstractContextManager[Progress]] = SILENT.step) -> None:
        self._shown = shown
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        """Within it the stage runs; the progress is its to tell."""
        started = time.perf_counter()
        with self._shown(name) as tell:
            yield tell
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def precision_context(precision: str) -> AbstractContextManager[object]:
    """Matrix products in bfloat16 for "bf16", everything in full precision for "fp32"."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.inference_mode()
def encode_images(
    model: Aladin, images: Features | RegionSet, precision: str = "fp32", progress: Progress = SILENT
) -> EncodedSet:
    """Every image, of photographs the whole picture."""
    parts = []
    for rows in _blocks(len(images), BATCH):
        with precision_context(precision):
            encoded = model.images(model.backbone.batch(images, np.arange(rows.start, rows.stop)))
        parts.append(EncodedSet(encoded.vectors, encoded.tokens))  # and not its states
        progress(rows.stop, len(images))
    return EncodedSet(torch.cat([part.vectors for part in parts]), concatenate([part.tokens for part in parts]))


@torch.inference_mode()
def encode_captions(model: Aladin, pieces: Pieces, precision: str = "fp32") -> EncodedSet:
    """Every caption; those of like length are encoded together, so that little padding is computed."""
    whole: EncodedSet | None = None
    for block in caption_blocks(pieces, 2 * BATCH):
        with precision_context(precision):
            encoded = model.captions(block.ids, block.mask)
        if whole is None:
            # Written in place: COCO's test captions take 4 GB at BERT-base sizes, and parts to be joined would take that twice.
            width = encoded.tokens.mask.shape[1] - block.ids.shape[1] + int(pieces.mask.sum(axis=1).max())
            whole = _nothing_yet(encoded, len(pieces.ids), width)
        whole.vectors[block.rows] = encoded.vectors
        whole.tokens.states[block.rows, : encoded.tokens.mask.shape[1]] = encoded.tokens.states
        whole.tokens.mask[block.rows, : encoded.tokens.mask.shape[1]] = encoded.tokens.mask
    assert whole is not None, "a data set has captions"
    return whole


def _nothing_yet(like: Encoded, rows: int, width: int) -> EncodedSet:
    """Zeros for so many rows of so many tokens."""
    states, vectors = like.tokens.states, like.vectors
    tokens = Tokens(states.new_zeros(rows, width, states.shape[2]), like.tokens.mask.new_zeros(rows, width))
    return EncodedSet(vectors.new_zeros(rows, vectors.shape[1]), tokens)


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


def _by_trained_model(folder: Path, dataset: Dataset, precision: str, cache: Path, stages: Stages) -> EncodedData:
    model = load_model(folder)
    config = model.config
    tokenizer = WordPieces.load(folder / "tokenizer.json", config.limits.caption_pieces)
    read: Features | RegionSet
    if model.image_network is None:
        read = region_set(dataset, folder / "tokenizer.json", config)
    else:
        check_photographs(dataset)
        with stages.stage("image features") as tell, placing_undecodable(dataset):
            read = cached_features(dataset, model.image_network, config.image.size, config.limits.tags, 1, cache, tell)
    with stages.stage("images") as tell:
        images = encode_images(model, read, precision, tell)
    with stages.stage("captions"):
        captions = encode_captions(model, tokenizer.encode(list(dataset.captions)), precision)
    return EncodedData(images, captions, dataset.owners, config.heads)


def _by_exported_model(encoder: Encoder, dataset: Dataset, stages: Stages) -> EncodedData:
    check_photographs(dataset)
    with stages.stage("images") as tell, placing_undecodable(dataset):
        images = _exported_images(encoder, dataset.examples, tell)
    with stages.stage("captions") as tell:
        captions = _exported_captions(encoder, dataset.captions, tell)
    return EncodedData(images, captions, dataset.owners, encoder.model.config.heads)


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
        # One by one, as a search does.
        encoded = encoder.encode_texts([caption])
        vectors.append(torch.from_numpy(encoded.vectors))
        tokens.append(Tokens(torch.from_numpy(encoded.words), torch.from_numpy(encoded.word_mask)))
        progress(number + 1, len(captions))
    return EncodedSet(torch.cat(vectors), concatenate(tokens))


@dataclass(frozen=True)
class HeadEvaluation:
    """Where one way of scoring puts right answers, and what its judged measures are, for each query in the data's order."""

    ranks: dict[Direction, Ranks]
    judged: dict[Direction, Values]


@dataclass(frozen=True)
class Evaluation:
    """What was found by each way of scoring, and how long that took."""

    heads: dict[str, HeadEvaluation]  # "matching", "alignment", "two-stage k=100", "three-stage k=100 n=20" or other numbers
    seconds: dict[str, float]  # of each stage

    @property
    def ranks(self) -> dict[str, dict[Direction, Ranks]]:
        return {name: head.ranks for name, head in self.heads.items()}

    @property
    def judged(self) -> dict[str, dict[Direction, Values]]:
        return {name: head.judged for name, head in self.heads.items()}


@dataclass(frozen=True)
class ThirdStage:
    """The `depth` best of two stages are put in order once more, by these scores."""

    depth: int
    scores: PairScores


def evaluate(
    data: EncodedData,
    rerank: int,
    memory: int,
    stages: Stages,
    folds: Sequence[Fold] = (),
    judges: Sequence[Judge] = (),
    third: ThirdStage | None = None,
) -> Evaluation:
    """Ranks by the matching head, by the alignment head, and by both: the `rerank` best of the one re-ranked by the other.

    `rerank` 0 leaves the last one out; with it, `third` re-ranks the best of these. A query's candidates are those of its
    fold; without folds, all. Beside the score matrix of one head and the input, of which the captions stand twice where hubs
    are corrected, about `memory` bytes are in use, with judges or a third stage 12 bytes for each pair that the second has
    re-ranked, and what the third stage's scores need.
    """
    whole = [Fold(slice(0, len(data.images.tokens)), slice(0, len(data.owners)))]
    works = [_FoldWork(judges, fold, memory, stages) for fold in folds or whole]
    found = [_evaluate_fold(data.part(work.fold), work, rerank, third) for work in works]
    return Evaluation({name: _joined([heads[name] for heads in found]) for name in found[0]}, stages.seconds)


def _evaluate_fold(data: EncodedData, work: "_FoldWork", rerank: int, third: ThirdStage | None) -> dict[str, HeadEvaluation]:
    """`data` are those of the fold; judges and third stage know queries and candidates by their rows before it was taken."""
    found = [_evaluate_directions(data.asked(alike[0]), alike, work, rerank, third) for alike in data.alike]
    return {name: _both_directions([heads[name] for heads in found]) for name in found[0]}


def _both_directions(found: Sequence[HeadEvaluation]) -> HeadEvaluation:
    ranks = {direction: ranks for head in found for direction, ranks in head.ranks.items()}
    return HeadEvaluation(ranks, {direction: values for head in found for direction, values in head.judged.items()})


def _evaluate_directions(
    data: EncodedData, directions: Sequence[Direction], work: "_FoldWork", rerank: int, third: ThirdStage | None
) -> dict[str, HeadEvaluation]:
    """In directions that share their scores."""
    heads: dict[str, HeadEvaluation] = {}

    def all_ranks(scores: Float[np.ndarray, "images captions"]) -> dict[Direction, Ranks]:
        return {direction: right_answer_ranks(scores, data.owners, direction) for direction in directions}

    with work.stages.stage("matching"):
        matching = matching_scores(data.images.vectors, data.captions.vectors).numpy()
        ranks = all_ranks(matching)
    heads["matching"] = HeadEvaluation(ranks, work.by_matrix(matching, directions))
    staged = _evaluate_stages(data, directions, matching, work, rerank, third) if rerank else {}
    del matching
    with work.stages.stage("alignment") as tell:
        alignment = alignment_matrix(data.images.tokens, data.captions.tokens, data.pooling, work.memory, tell).numpy()
        ranks = all_ranks(alignment)
    heads["alignment"] = HeadEvaluation(ranks, work.by_matrix(alignment, directions))
    return heads | staged


def _evaluate_stages(
    data: EncodedData,
    directions: Sequence[Direction],
    matching: Float[np.ndarray, "images captions"],
    work: "_FoldWork",
    rerank: int,
    third: ThirdStage | None,
) -> dict[str, HeadEvaluation]:
    """Two stages, and three if there is a third, by their names."""
    two, three = HeadEvaluation({}, {}), HeadEvaluation({}, {})
    for direction in directions:
        with work.stages.stage("two-stage") as tell:
            blocks: Iterable[Reranked] = reranked(data, matching, direction, rerank, work.memory, tell)
            blocks = list(blocks) if work.judges or third else blocks
            first = right_answer_ranks(matching, data.owners, direction)
            two.ranks[direction] = _reranked_ranks(data, first, direction, blocks)
        if work.judges:
            two.judged[direction] = work.by_stages(matching, direction, blocks)
        if third:
            with work.stages.stage("three-stage") as tell:
                last = reranked_again(data, blocks, direction, work.fold, third, tell)
                three.ranks[direction] = _reranked_ranks(data, two.ranks[direction], direction, [last])
            if work.judges:
                three.judged[direction] = work.by_stages(matching, direction, blocks, last)
    found = {f"two-stage k={rerank}": two}
    return found | {f"three-stage k={rerank} n={third.depth}": three} if third else found


class _FoldWork:
    """What the evaluation of one fold needs beside its data, and its judged measures, in blocks of about `memory` bytes."""

    def __init__(self, judges: Sequence[Judge], fold: Fold, memory: int, stages: Stages) -> None:
        self.judges, self.fold, self.memory, self.stages = judges, fold, memory, stages

    def by_matrix(
        self, scores: Float[np.ndarray, "images captions"], directions: Sequence[Direction]
    ) -> dict[Direction, Values]:
        if not self.judges:
            return {}
        found = {}
        for direction in directions:
            by_query = scores if direction == "image_to_text" else scores.T
            with self.stages.stage("judged measures"):
                blocks = ((rows, by_query[rows]) for rows in _blocks(len(by_query), self._queries_at_once(by_query)))
                found[direction] = judged_values(self.judges, direction, self.fold, blocks)
        return found

    def by_stages(
        self,
        matching: Float[np.ndarray, "images captions"],
        direction: Direction,
        blocks: Iterable["Reranked"],
        last: "Reranked | None" = None,
    ) -> Values:
        """Of the second stage's blocks, and of the third stage where there is one."""
        first = matching if direction == "image_to_text" else matching.T
        size = self._queries_at_once(first)
        parts = (part for block in blocks for part in block.parts(size))
        with self.stages.stage("judged measures"):
            rows = (
                (part.queries, _staged_rows(first[part.queries], [part, last.at(part.queries)] if last else [part]))
                for part in parts
            )
            return judged_values(self.judges, direction, self.fold, rows)

    def _queries_at_once(self, by_query: Float[np.ndarray, "queries candidates"]) -> int:
        candidates: int = by_query.shape[1]
        return max(1, self.memory // (32 * candidates))  # scores and relevances, some of them as float64


def _joined(folds: Sequence[HeadEvaluation]) -> HeadEvaluation:
    ranks = {direction: np.concatenate([fold.ranks[direction] for fold in folds]) for direction in folds[0].ranks}
    judged = {
        direction: {name: np.concatenate([fold.judged[direction][name] for fold in folds]) for name in values}
        for direction, values in folds[0].judged.items()
    }
    return HeadEvaluation(ranks, judged)


def agreements(data: EncodedData, judgements: Judgements, memory: int) -> dict[str, Agreement]:
    """How well the scores of each head order pairs that people judged."""
    images, captions = judgements.images, judgements.captions
    matching = (data.images.vectors[images] * data.captions.vectors[captions]).sum(dim=1).numpy()
    scores = {"matching": matching, "alignment": pair_scores(data, images, captions, memory)}
    return {head: agreement(some, judgements) for head, some in scores.items()}


@torch.inference_mode()
def alignment_matrix(
    regions: Tokens, words: Tokens, pooling: Pooling, memory: int = MEMORY, progress: Progress = SILENT
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


@dataclass(frozen=True)
class Reranked:
    """The best candidates of consecutive queries by the stage before, in the data's order, and their scores by this one."""

    queries: slice
    candidates: Int[np.ndarray, "queries depth"]
    scores: Float[np.ndarray, "queries depth"]

    def parts(self, size: int) -> Iterator["Reranked"]:
        """The same, up to `size` queries at a time."""
        for rows in _blocks(len(self.scores), size):
            yield self.at(slice(self.queries.start + rows.start, self.queries.start + rows.stop))

    def at(self, queries: slice) -> "Reranked":
        """Those of some of the queries."""
        rows = slice(queries.start - self.queries.start, queries.stop - self.queries.start)
        return Reranked(queries, self.candidates[rows], self.scores[rows])


def two_stage_ranks(
    data: EncodedData,
    matching: Float[np.ndarray, "images captions"],
    direction: Direction,
    rerank: int,
    memory: int = MEMORY,
) -> Ranks:
    """`right_answer_ranks` when the `rerank` best by matching score are ordered by alignment and the others follow.

    Only those pairs are aligned. A tie counts against us in both stages.
    """
    first = right_answer_ranks(matching, data.owners, direction)
    return _reranked_ranks(data, first, direction, reranked(data, matching, direction, rerank, memory))


@torch.inference_mode()
def reranked(
    data: EncodedData,
    matching: Float[np.ndarray, "images captions"],
    direction: Direction,
    rerank: int,
    memory: int = MEMORY,
    progress: Progress = SILENT,
) -> Iterator[Reranked]:
    """Every query's `rerank` best candidates by matching score, with their alignment scores."""
    image_of_query, image_of_candidate = _images_of(data, direction)
    scores = matching if direction == "image_to_text" else matching.T
    depth = min(rerank, len(image_of_candidate))
    # A pair takes 8 bytes in each of about eight arrays.
    for queries in _blocks(len(scores), max(1, memory // (64 * depth))):
        asked_for = zip(scores[queries], image_of_query[queries], strict=True)
        candidates = np.stack([_best(row, image_of_candidate == image, depth) for row, image in asked_for])
        asked = np.repeat(np.arange(queries.start, queries.stop), depth)
        pairs = (asked, candidates.ravel()) if direction == "image_to_text" else (candidates.ravel(), asked)
        yield Reranked(queries, candidates.astype(np.int32), pair_scores(data, *pairs, memory).reshape(candidates.shape))
        progress(queries.stop, len(scores))


def reranked_again(
    data: EncodedData, blocks: Iterable[Reranked], direction: Direction, fold: Fold, third: ThirdStage, progress: Progress
) -> Reranked:
    """Every query's best candidates after two stages, with the third stage's scores; `fold` is where `data` come from."""
    image_of_query, image_of_candidate = _images_of(data, direction)
    chosen = []
    for block in blocks:
        right = image_of_candidate[block.candidates] == image_of_query[block.queries, None]
        depth = min(third.depth, block.candidates.shape[1])
        places = np.stack([_best(row, own, depth) for row, own in zip(block.scores, right, strict=True)])
        chosen.append(np.take_along_axis(block.candidates, places, axis=1))
    candidates = np.concatenate(chosen)
    asked = np.repeat(np.arange(len(candidates)), candidates.shape[1])
    images, captions = (asked, candidates.ravel()) if direction == "image_to_text" else (candidates.ravel(), asked)
    scores = third.scores(images + fold.images.start, captions + fold.captions.start, progress)
    return Reranked(slice(0, len(candidates)), candidates, scores.reshape(candidates.shape))


def _reranked_ranks(data: EncodedData, before: Ranks, direction: Direction, blocks: Iterable[Reranked]) -> Ranks:
    """The ranks after a stage; a query whose candidates are all wrong keeps its rank `before` that stage."""
    image_of_query, image_of_candidate = _images_of(data, direction)
    ranks = before.copy()
    for block in blocks:
        right = image_of_candidate[block.candidates] == image_of_query[block.queries, None]
        best = np.fmax.reduce(np.where(right, block.scores, -np.inf), axis=1)
        better = np.count_nonzero(~right & ~(block.scores < best[:, None]), axis=1)
        ranks[block.queries] = np.where(right.any(axis=1), 1 + better, ranks[block.queries])
    return ranks


def _staged_rows(
    first: Float[np.ndarray, "queries candidates"], stages: Sequence[Reranked]
) -> Float[np.ndarray, "queries candidates"]:
    """Scores that order candidates as several stages do: those re-ranked above all others, by the last that did."""
    rows = np.clip(first.astype(np.float64), -LARGE, LARGE)
    for number, stage in enumerate(stages, 1):
        # Places, since a score plus a large number would lose its last digits.
        places = np.unique(stage.scores, return_inverse=True)[1].reshape(stage.scores.shape)
        lifted = np.where(np.isnan(stage.scores), np.nan, number * STAGE + places)
        np.put_along_axis(rows, stage.candidates.astype(np.int64), lifted, axis=1)
    return rows


def _images_of(data: EncodedData, direction: Direction) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " candidates"]]:
    """The image row of each query, and of each candidate."""
    images = np.arange(len(data.images.tokens))
    return (images, data.owners) if direction == "image_to_text" else (data.owners, images)


def _best(
    scores: Float[np.ndarray, " candidates"], right: Bool[np.ndarray, " candidates"], count: int
) -> Int[np.ndarray, " best"]:
    """The places of a query's `count` best candidates, ascending; of equal ones the first, but a right answer is the last."""
    badness = np.nan_to_num(-scores.astype(np.float64), nan=BROKEN, posinf=BROKEN)
    # A step so small stands between any two values that float32 tells apart.
    badness[right] = np.nextafter(badness[right], np.inf)
    limit = np.partition(badness, count - 1)[count - 1]
    better, equal = np.flatnonzero(badness < limit), np.flatnonzero(badness == limit)
    return np.sort(np.concatenate([better, equal[: count - len(better)]]))


def pair_scores(
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
