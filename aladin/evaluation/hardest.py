"""The queries whose right answers stand furthest behind, with what came first instead."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from aladin.datasets import Dataset
from aladin.evaluation.encoding import EncodedData
from aladin.evaluation.scoring import alignment_matrix
from aladin.measures.html_report import HardQuery
from aladin.measures.protocols import Fold
from aladin.measures.recalls import DIRECTIONS, Direction, Ranks


def hardest_queries(
    data: EncodedData, dataset: Dataset, ranks: Mapping[Direction, Ranks], folds: Sequence[Fold], count: int
) -> dict[Direction, list[HardQuery]]:
    """For each direction the `count` queries of the highest ranks, highest first; `ranks` are those of the alignment head."""
    hardest = {direction: np.argsort(-ranks[direction], kind="stable")[:count].tolist() for direction in DIRECTIONS}
    texts = dataset.captions
    found: dict[Direction, list[HardQuery]] = {direction: [] for direction in DIRECTIONS}
    for image in hardest["image_to_text"]:
        example = dataset.examples[image]
        first = _first_caption(data, image, folds)
        came = f"{texts[first]} ({dataset.examples[data.owners[first]].id})"
        rank = int(ranks["image_to_text"][image])
        found["image_to_text"].append(HardQuery(rank, example.id, " · ".join(example.captions), came))
    for caption in hardest["text_to_image"]:
        came_first = dataset.examples[_first_image(data, caption, folds)]
        came = f"{came_first.id}: {came_first.captions[0]}"
        rank = int(ranks["text_to_image"][caption])
        found["text_to_image"].append(HardQuery(rank, texts[caption], dataset.examples[data.owners[caption]].id, came))
    return found


def _first_caption(data: EncodedData, image: int, folds: Sequence[Fold]) -> int:
    fold: Fold = next(fold for fold in folds if fold.images.start <= image < fold.images.stop)
    scores = alignment_matrix(data.images.tokens[image : image + 1], data.captions.tokens[fold.captions], data.pooling)
    return int(scores[0].argmax()) + int(fold.captions.start)


def _first_image(data: EncodedData, caption: int, folds: Sequence[Fold]) -> int:
    fold: Fold = next(fold for fold in folds if fold.captions.start <= caption < fold.captions.stop)
    asked = dataclasses.replace(data, captions=data.captions[caption : caption + 1], owners=data.owners[[caption]])
    words = asked.asked("text_to_image").captions.tokens
    scores = alignment_matrix(data.images.tokens[fold.images], words, data.pooling)
    return int(scores[:, 0].argmax()) + int(fold.images.start)
