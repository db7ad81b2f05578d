"""What a training step reads, fixed by the seed and the step's number alone."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

ORDER, DRAWS, WORDS, FOLDS, DROPOUT, PAIRS = 1, 2, 3, 4, 5, 6  # keep the uses of a seed apart
FIRST_CAPTIONS = 5  # of an image, which are read where each caption is; the original's data have five


@dataclass(frozen=True)
class Step:
    """The rows that one training step reads."""

    number: int  # from 0 over the whole run
    epoch: int
    images: Int[np.ndarray, " images"]
    views: Int[np.ndarray, " images"]
    captions: Int[np.ndarray, " captions"]  # rows of the data set's captions
    positives: Bool[Tensor, "images captions"]  # True where the caption is one of the image's
    keep: Int[Tensor, "images kept"] | None  # regions of each image, in reading order; None: all
    among: int = 0  # which of a step's parts it is, if it is one that stands alone

    @cached_property
    def owners(self) -> Int[np.ndarray, " captions"]:
        """The row among the step's images of each caption, rising."""
        rows: Int[np.ndarray, " captions"] = self.positives.int().argmax(dim=0).numpy()
        return rows

    @property
    def whole(self) -> "Part":
        return Part(self, slice(0, len(self.images)), slice(0, len(self.captions)))

    def part(self, images: slice) -> "Part":
        """Consecutive images, by their rows in the step, with their captions."""
        first, end = np.searchsorted(self.owners, (images.start, images.stop)).tolist()
        return Part(self, images, slice(first, end))

    def parts(self, count: int) -> list["Part"]:
        """All of the step in so many parts of nearly one size; where images are too few, the last ones are empty."""
        return [self.part(rows) for rows in shares(len(self.images), count)]

    def apart(self, count: int) -> list["Step"]:
        """The same parts as steps of their own, whose negatives are their own; none of a single image, which has none."""
        parts = self.parts(max(1, min(count, len(self.images) // 2)))
        return [part.alone(number) for number, part in enumerate(parts)]


@dataclass(frozen=True)
class Part:
    """Some consecutive images of a step and their captions, by rows of the step."""

    step: Step
    images: slice
    captions: slice

    def __len__(self) -> int:
        """How many images."""
        return int(self.images.stop - self.images.start)

    def parts(self, most: int) -> list["Part"]:
        """The same, at most so many images at a time."""
        starts = range(self.images.start, self.images.stop, most)
        return [self.step.part(slice(start, min(start + most, self.images.stop))) for start in starts]

    def alone(self, number: int) -> Step:
        """A step that reads nothing else, the `number`-th of the whole one's parts."""
        step = self.step
        return Step(
            step.number,
            step.epoch,
            step.images[self.images],
            step.views[self.images],
            step.captions[self.captions],
            step.positives[self.images, self.captions],
            None if step.keep is None else step.keep[self.images],
            number,
        )


@dataclass(frozen=True)
class Plan:
    """How the steps of a run are drawn. An epoch reads every image once, in an order of its own.

    With `each` it reads every one of an image's first five captions once instead, each beside its image. An image that comes
    twice in a batch is then two rows, and its two captions are each other's negatives, as in the original (spec, section 12).

    The last step of an epoch takes what is left, unless that is a single image, which would have no negatives. With `folds`
    each step reads images of one fold, and each fold has such a last step.

    With `shards` an epoch reads so many shards at a time, a window, and then the next ones: shards in an order of its own, the
    images of a window in any order. A step may read the end of a window and the beginning of the next.
    """

    owners: Int[np.ndarray, " captions"]  # the image row of each caption, in ascending order
    batch_images: int
    captions_per_image: int
    views: int
    regions: int
    kept_regions: int
    seed: int
    folds: Int[np.ndarray, " images"] | None = None  # the fold of each image
    each: bool = False
    shards: Int[np.ndarray, " images"] | None = None  # the file in which each image stands, by number
    window_shards: int = 1

    @property
    def images(self) -> int:
        return int(self.owners[-1]) + 1

    @cached_property
    def _read(self) -> Int[np.ndarray, " items"]:
        """The image of each thing that an epoch reads once: of every image, or of every caption that is read."""
        return self.owners[self._captions] if self.each else np.arange(self.images)

    @cached_property
    def _captions(self) -> Int[np.ndarray, " captions"]:
        """The rows of the first captions of every image."""
        first = np.searchsorted(self.owners, self.owners)
        return np.flatnonzero(np.arange(len(self.owners)) - first < FIRST_CAPTIONS)

    @cached_property
    def shards_digest(self) -> str:
        """A hash of which images stand together, as far as the order depends on it."""
        return "" if self.shards is None else hashlib.sha256(self.shards.astype("<i8").tobytes()).hexdigest()

    @cached_property
    def steps_per_epoch(self) -> int:
        sizes = [len(self._read)] if self.folds is None else np.bincount(self.folds[self._read]).tolist()
        return sum(size // self.batch_images + (size % self.batch_images >= 2) for size in sizes)

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Steps number `start` to `stop` - 1; the same whether or not those before them were drawn."""
        batches: list[Int[np.ndarray, "..."]] = []
        drawn_for = -1
        for number in range(start, stop):
            epoch, within = divmod(number, self.steps_per_epoch)
            if epoch != drawn_for:
                batches, drawn_for = self._batches(epoch), epoch
            yield self._step(number, epoch, batches[within])

    def _batches(self, epoch: int) -> list[Int[np.ndarray, "..."]]:
        """What each step of an epoch reads: rows of images, or of captions where each is read."""
        random = np.random.default_rng((self.seed, ORDER, epoch))
        order = self._order(random)
        if self.folds is None:
            return self._cut(order)
        folds = self.folds[self._read[order]]
        batches = [batch for fold in np.unique(self.folds) for batch in self._cut(order[folds == fold])]
        if self.shards is not None:
            places = np.argsort(order)
            return sorted(batches, key=lambda batch: int(places[batch[0]]))
        return [batches[number] for number in random.permutation(len(batches))]

    def _order(self, random: np.random.Generator) -> Int[np.ndarray, " items"]:
        """The order in which an epoch reads."""
        order = random.permutation(len(self._read))
        if self.shards is None:
            return order
        numbers, shards = np.unique(self.shards[self._read], return_inverse=True)
        windows = random.permutation(len(numbers))[shards] // self.window_shards
        return order[np.argsort(windows[order], kind="stable")]

    def _cut(self, rows: Int[np.ndarray, " images"]) -> list[Int[np.ndarray, "..."]]:
        batches = np.split(rows, range(self.batch_images, len(rows), self.batch_images))
        return [batch for batch in batches if len(batch) >= 2]

    def _step(self, number: int, epoch: int, read: Int[np.ndarray, " items"]) -> Step:
        random = np.random.default_rng((self.seed, DRAWS, epoch, number))
        images = self._read[read]
        if self.each:
            captions, positives = self._captions[read], torch.eye(len(read), dtype=torch.bool)
        else:
            captions = self._drawn(images, random)
            positives = torch.from_numpy(images[:, None] == self.owners[captions][None])
        keep = None
        if self.kept_regions < self.regions:
            order = random.random((len(images), self.regions)).argsort(axis=1)[:, : self.kept_regions]
            keep = torch.from_numpy(np.sort(order, axis=1))
        return Step(number, epoch, images, random.integers(self.views, size=len(images)), captions, positives, keep)

    def _drawn(self, images: Int[np.ndarray, " images"], random: np.random.Generator) -> Int[np.ndarray, " captions"]:
        """The rows of some captions of each image."""
        first = np.searchsorted(self.owners, images)
        count = np.searchsorted(self.owners, images, side="right") - first
        drawn = [f + np.sort(random.permutation(n)[: self.captions_per_image]) for f, n in zip(first, count, strict=True)]
        return np.concatenate(drawn)


def shares(count: int, parts: int) -> list[slice]:
    """`count` rows in so many consecutive parts, no two of which differ by more than one row."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def seed_for(seed: int, *use: int) -> int:
    """A seed of torch's for one use of a recipe's seed, which has nothing to do with those for others."""
    return int(np.random.SeedSequence((seed, *use)).generate_state(1, np.uint64)[0] >> 1)


def without_some_words(
    ids: Int[np.ndarray, "captions words"], mask: Bool[np.ndarray, "captions words"], share: float, random: np.random.Generator
) -> tuple[Int[np.ndarray, "captions words"], Bool[np.ndarray, "captions words"]]:
    """The captions without about `share` of their word pieces, each drawn on its own; first and last pieces always stay.

    What stays keeps its order and moves up to the front.
    """
    positions = np.arange(ids.shape[1])
    framing = (positions == 0) | (positions == mask.sum(axis=1, keepdims=True) - 1)
    stays = mask & (framing | (random.random(ids.shape) >= share))
    order = np.argsort(~stays, axis=1, kind="stable")
    stays = np.take_along_axis(stays, order, axis=1)
    return np.where(stays, np.take_along_axis(ids, order, axis=1), 0), stays
