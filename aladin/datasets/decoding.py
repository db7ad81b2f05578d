"""The images of a data set that cannot be decoded: left out, or named with their position in the data."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from aladin.datasets.examples import Dataset, Example
from aladin.datasets.vinvl import DetectionSource
from aladin.errors import DataError
from aladin.pictures.pixels import open_image
from aladin.progress import SILENT, Progress

DRAFT_SIZE = 32  # px: a JPEG is decoded no larger than needed to meet what is wrong with it


def without_undecodable(dataset: Dataset, progress: Progress = SILENT) -> Dataset:
    """The data set without the images that cannot be decoded; they are counted among its skipped rows by reason."""
    kept: list[Example] = []
    skipped = Counter(dataset.skipped)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (example, reason) in enumerate(zip(dataset.examples, pool.map(_reason, dataset.examples), strict=True), 1):
            if reason:
                skipped[reason] += 1
            else:
                kept.append(example)
            progress(done, len(dataset.examples))
    return replace(dataset, examples=tuple(kept), skipped=dict(skipped))


@contextmanager
def placing_undecodable(dataset: Dataset) -> Iterator[None]:
    """Within it, a failure over an image that cannot be decoded says where the data name that image, and what to do."""
    try:
        yield
    except DataError:
        # Who decodes knows nothing of rows; the image is looked for again rather than carry its position through all of that.
        for example in dataset.examples:
            if problem := _problem(example, f"image {example.id!r}"):
                raise DataError(f"{example.position}: {problem}; replace it or pass --skip-bad") from None
        raise


def _reason(example: Example) -> str | None:
    problem = _problem(example, "the image")
    return problem and problem.split(" (")[0]


def _problem(example: Example, name: str) -> str | None:
    """What is wrong with an image, which the sentence calls `name`; a detector's regions are no image."""
    if isinstance(example.source, DetectionSource):
        return None
    try:
        open_image(example.source.read(), name, DRAFT_SIZE)
    except DataError as error:
        return str(error).rsplit("; ", 1)[0]
    return None
