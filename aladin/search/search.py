"""From a query to hits: the nearest vectors of the whole collection, then the best of them again by alignment.

Stage 1 compares one vector a row; stage 2 reads the region tokens of the `rerank` nearest and lets words (or regions of the
query image) choose among them. A re-ranking as long as the collection is exhaustive alignment.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from aladin.collection import filters
from aladin.collection.store import ImageRow, Nearest, Store
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError
from aladin.pictures.boxes import Box
from aladin.progress import SILENT, Progress
from aladin.search.encoding import EncodedQuery, encode_query
from aladin.search.explain import Explanation, explain, explanation_of
from aladin.search.probability import Background, Calibration, background_of, own_probabilities, read_calibration
from aladin.search.query import Query
from aladin.search.stage_two import Aligned, align, ranked
from aladin.search.stored_regions import stored_regions
from aladin.search.timing import Clock, Seconds

LIKELY = 0.05  # a best hit below that is called no match: fewer than one in twenty such hits would be one
SHOWN_NEAREST = 3  # named when nothing reaches the probability asked for


@dataclass(frozen=True)
class SearchConfig:
    """How many hits are wanted, how many of the nearest are ranked again, and what is told of each."""

    top: int = 10
    rerank: int = 100  # at least `top` are; 0: the order of stage 1 stands
    min_probability: float = 0.0  # hits below are left out
    why: bool = False  # explain every hit

    def __post_init__(self) -> None:
        if self.top < 1 or self.rerank < 0:
            raise ConfigError(f"top is {self.top} and rerank {self.rerank}; expected at least 1 and 0")
        if not 0 <= self.min_probability <= 1:
            raise ConfigError(f"the least probability is {self.min_probability}; expected 0 to 1")
        if not self.rerank and (self.why or self.min_probability):
            raise ConfigError("without ranking again there is no explanation and no probability; let rerank be above 0")


@dataclass(frozen=True)
class Hit:
    """One image found; `alignment_score` is None where stage 2 did not look."""

    rank: int  # from 1
    id: int
    path: str  # relative to the collection's root, as in ImageRow
    score: float  # the one that the order follows
    matching_score: float
    alignment_score: float | None
    probability: float | None  # that the image shows what the texts say; None for images as queries, or without calibration
    width: int  # px, upright
    height: int
    explanation: Explanation | None = None  # when asked for
    frame: int = 0  # which of the file's pictures, as in ImageRow


@dataclass(frozen=True)
class Results:
    """The hits, best first, and what they were chosen from."""

    hits: tuple[Hit, ...]
    searched: int  # images compared
    truncated: bool  # the end of a text was not read by the model
    answered: bool | None  # whether any image is likely to show what was asked; None where that cannot be told
    nearest: tuple[Hit, ...]  # the best three when no hit has the least probability; else nothing
    seconds: Seconds


class Searcher:
    """A collection and a model, ready for queries. It follows the collection's changes; one thread may use it at a time."""

    def __init__(self, collection: Store, encoder: Encoder, progress: Progress = SILENT) -> None:
        """IndexMismatch where they do not match. `progress` counts vectors while a large collection's cache grows."""
        collection.check_model(encoder.model)
        self.collection = collection
        self.encoder = encoder
        self._progress = progress
        self._calibration = read_calibration(encoder)
        self._background: Background | None = None

    def search(self, query: Query, config: SearchConfig | None = None) -> Results:
        """The images that answer the query best, of those in the collection that can be found. Ties go by id.

        A text is scored by the pooling that the model was trained with. An image is scored by regions both ways: the mean over
        its regions of each one's best region in the other image, and the same from the other side, halved.
        """
        config = config or SearchConfig()
        clock = Clock()
        with self.collection.snapshot():
            self.collection.check_model(self.encoder.model)
            encoded = encode_query(query, self.encoder, self.collection)
            clock.lap("encode")
            condition = None if query.where is None else filters.parsed(query.where)
            count = max(config.top, config.rerank)
            found = self.collection.nearest(encoded.vector, count, condition, encoded.excluded, self._progress)
            clock.lap("nearest")
            self._check_probabilities(encoded, config)
            hits = self._hits(encoded, found, config, clock)
        likely = tuple(hit for hit in hits if (hit.probability or 0.0) >= config.min_probability)
        best = max((hit.probability for hit in hits if hit.probability is not None), default=None)
        if self._calibration is None and not config.min_probability:
            best = None  # an encoder's own probability compares; what of it is likely, nobody has measured
        return Results(
            hits=likely,
            searched=found.searched,
            truncated=encoded.truncated,
            answered=False if not hits else None if best is None else best >= max(config.min_probability, LIKELY),
            nearest=() if likely else hits[:SHOWN_NEAREST],
            seconds=Seconds(**clock.seconds),
        )

    def explain(self, query: Query, image_id: int) -> Explanation:
        """Why the image with that id has its alignment score for the query; KeyError when there is no such image."""
        with self.collection.snapshot():
            encoded = encode_query(query, self.encoder, self.collection)
            row = self.collection.row(image_id)
            regions = stored_regions(self.collection, [image_id], encoded.encoder)[0][0]
        return explain(encoded, regions, self._boxes(row), self.encoder.model.config.heads.token_dim)

    def _check_probabilities(self, query: EncodedQuery, config: SearchConfig) -> None:
        """ConfigError where a least probability is asked for and none is known."""
        if config.min_probability and not self._knows_probabilities:
            raise ConfigError("the model has no calibration; leave out the least probability, or run `aladin calibrate`")
        if config.min_probability and not all(part.words for part in query.parts):
            raise ConfigError("probabilities are known for texts only; leave out the least probability, or the image")

    def _hits(self, query: EncodedQuery, found: Nearest, config: SearchConfig, clock: Clock) -> tuple[Hit, ...]:
        """The best of the nearest, in their final order."""
        ids, matching = found.ids, found.scores.astype(np.float64)
        if query.by_vector_alone:  # the same sum in another order, whose rounding would break ties
            ids, matching = ids[: config.top], matching[: config.top]
        aligned = self._aligned(query, ids, config, clock) if config.rerank and len(ids) else None
        found_order = aligned is None or query.by_vector_alone
        order = (np.arange(len(ids)) if found_order or aligned is None else ranked(aligned.scores, ids))[: config.top]
        probabilities = None if aligned is None else self._probabilities(query, aligned.by_part[:, order], ids[order])
        hits = []
        for position, row in enumerate(self.collection.rows(ids[order].tolist())):
            score = None if aligned is None else float(aligned.scores[order[position]])
            matched = float(matching[order[position]])
            chosen = None if aligned is None else aligned.chosen.get(row.id)
            hits.append(
                Hit(
                    rank=position + 1,
                    id=row.id,
                    path=row.path,
                    score=matched if score is None else score,
                    matching_score=matched,
                    alignment_score=score,
                    probability=None if probabilities is None else float(probabilities[position]),
                    width=row.width or 0,
                    height=row.height or 0,
                    explanation=None if chosen is None else explanation_of(query, chosen, self._boxes(row)),
                    frame=row.frame,
                )
            )
        return tuple(hits)

    def _aligned(self, query: EncodedQuery, ids: Int64[np.ndarray, " images"], config: SearchConfig, clock: Clock) -> Aligned:
        explained = config.top if config.why else 0
        return align(self.collection, query, ids, explained, self.encoder.model.config.heads.token_dim, clock)

    def _boxes(self, row: ImageRow) -> tuple[Box, ...]:
        """Where each region of an image is in it."""
        return self.encoder.model.config.region_boxes(Box(0, 0, row.width or 1, row.height or 1))

    def _probabilities(
        self, query: EncodedQuery, by_part: Float64[np.ndarray, "parts images"], ids: Int64[np.ndarray, " images"]
    ) -> Float64[np.ndarray, " images"] | None:
        """That an image shows each wanted text and no unwanted one, as if these were independent; None with a query image."""
        if not self._knows_probabilities or not all(part.words for part in query.parts):
            return None
        if self._calibration is None:
            vectors = self.collection.vectors_of(ids.tolist()).astype(np.float32)
            each = [own_probabilities(vectors @ part.vector, self.encoder.model.config.encoder) for part in query.parts]
        else:
            each = self._calibrated(query, by_part, self._calibration)
        wanted = [shown if part.weight > 0 else 1 - shown for part, shown in zip(query.parts, each, strict=True)]
        return np.asarray(np.prod(wanted, axis=0))

    def _calibrated(
        self, query: EncodedQuery, by_part: Float64[np.ndarray, "parts images"], calibration: Calibration
    ) -> list[Float64[np.ndarray, " images"]]:
        """That an image shows each text, by what `aladin calibrate` learned."""
        if self._background is None:
            self._background = background_of(self.collection, self.encoder, calibration)
        shown = []
        for part, scores in zip(query.parts, by_part, strict=True):
            pieces = len(part.tokens)
            means = scores if part.pooling.mean else scores / pieces
            shown.append(calibration.probabilities(means, pieces, self._background))
        return shown

    @property
    def _knows_probabilities(self) -> bool:
        return self._calibration is not None or self.encoder.model.config.encoder.sigmoid


def as_json(value: Any) -> Any:
    """Queries, results and explanations as plain values that `json.dumps` takes; what a file contains is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return f"{len(value)} bytes" if isinstance(value, bytes) else value
