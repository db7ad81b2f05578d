"""What every kind of relevance gives: rows of numbers for the queries that it judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int

from aladin.measures.graded import RankedMeasure
from aladin.measures.recalls import Direction

Rows = Int[np.ndarray, " queries"]  # of images or captions, ascending
RelevanceRows = Float32[np.ndarray, "queries candidates"]


@runtime_checkable
class Relevances(Protocol):
    """How relevant captions are to images and images to captions; 0 is wrong, not-a-number is not judged."""

    def queries(self, direction: Direction) -> Rows:
        """The queries that are judged."""

    def rows(self, direction: Direction, queries: Rows, candidates: slice) -> RelevanceRows:
        """The relevance of these candidates to some of the judged queries."""


@dataclass(frozen=True)
class Judge:
    """Relevances, and what is measured by them."""

    origin: str  # what the relevances are; equal in two reports exactly when they are the same
    relevances: Relevances
    measures: Mapping[str, RankedMeasure]  # by the name that the report prints


@dataclass(frozen=True)
class RelevanceSets:
    """For some queries the rows of all candidates that are right: relevance 1, others 0."""

    right: Mapping[Direction, Mapping[int, Sequence[int]]]

    def queries(self, direction: Direction) -> Rows:
        return np.array(sorted(self.right[direction]), dtype=np.int64)

    def rows(self, direction: Direction, queries: Rows, candidates: slice) -> RelevanceRows:
        found = np.zeros((len(queries), candidates.stop - candidates.start), dtype=np.float32)
        for row, query in zip(found, queries.tolist(), strict=True):
            right = np.array(self.right[direction][query]) - candidates.start
            row[right[(right >= 0) & (right < len(row))]] = 1.0
        return found
