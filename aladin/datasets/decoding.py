"""Leaving out the images of a data set that cannot be decoded."""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aladin.datasets.examples import Dataset, Example
from aladin.errors import DataError
from aladin.images import open_image

DRAFT_SIZE = 32  # px: a JPEG is decoded no larger than needed to meet what is wrong with it


def without_undecodable(dataset: Dataset, progress: Callable[[int, int], None] = lambda done, total: None) -> Dataset:
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
    return Dataset(tuple(kept), dict(skipped))


def _reason(example: Example) -> str | None:
    try:
        open_image(example.source.read(), name="it", draft_size=DRAFT_SIZE)
    except DataError as error:
        return str(error).rsplit("; ", 1)[0].split(" (")[0].replace("it ", "the image ", 1)
    return None
