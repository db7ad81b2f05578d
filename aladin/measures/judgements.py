"""What people said of pairs of an image and a caption (Flickr8k's experts and crowd), and how a model agrees with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64

from aladin.datasets import Dataset
from aladin.datasets.bad_rows import BadRow, BadRows
from aladin.errors import ConfigError, DataError

Kind = Literal["expert", "crowd"]
EXPERT_RATINGS = ("1", "2", "3", "4")
COLUMNS = "image, caption#number and three numbers, parted by tabs"


@dataclass(frozen=True)
class Judgements:
    """Rated pairs as rows of a data set. A pair stands once for each expert, and once with the share of yes of the crowd."""

    kind: Kind
    images: Int64[np.ndarray, " ratings"]
    captions: Int64[np.ndarray, " ratings"]
    ratings: Float[np.ndarray, " ratings"]  # 1 to 4 by an expert, 0 to 1 by the crowd
    positives: int  # pairs left out because the caption is one of the image's own (experts only)
    skipped: Mapping[str, int]  # reason -> rows left out

    @property
    def pairs(self) -> int:
        return len(set(zip(self.images.tolist(), self.captions.tolist(), strict=True)))


@dataclass(frozen=True)
class Agreement:
    """Kendall's rank correlation of scores with ratings: 1 the same order, -1 the opposite one.

    Both count ties; the field prints tau-c for the experts and tau-b for the crowd (Hessel et al. 2021, CLIPScore).
    """

    kind: Kind
    pairs: int
    ratings: int
    tau_b: float
    tau_c: float

    def __str__(self) -> str:
        return f"tau-b {self.tau_b:.3f}, tau-c {self.tau_c:.3f}"


def agreement(scores: Float[np.ndarray, " ratings"], judgements: Judgements) -> Agreement:
    """How well scores of the judged pairs, higher for better, order them as people did."""
    try:
        from scipy.stats import kendalltau
    except ModuleNotFoundError:
        raise ConfigError("--judgements needs the package scipy; run pip install 'aladin[protocols]'") from None
    tau = {variant: float(kendalltau(scores, judgements.ratings, variant=variant).statistic) for variant in ("b", "c")}
    if not np.isfinite(list(tau.values())).all():
        raise DataError("the scores or the ratings of the judged pairs are all alike, so that there is no order to compare")
    return Agreement(judgements.kind, judgements.pairs, len(judgements.ratings), tau["b"], tau["c"])


def read_judgements(path: Path, dataset: Dataset, skip_bad: bool = False) -> Judgements:
    """ExpertAnnotations.txt or CrowdFlowerAnnotations.txt of Flickr8k, told apart by their numbers.

    An image is found by its file name, a caption by its number among those of its image in the data, from 0. Of the experts'
    pairs, those whose caption is one of the image's own are left out, as papers do since SPICE (Anderson et al. 2016).
    A bad row is a DataError that names its line, or with `skip_bad` is counted.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give Flickr8k's ExpertAnnotations.txt") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text; give Flickr8k's ExpertAnnotations.txt or CrowdFlowerAnnotations.txt") from None
    reader = _Reader(dataset, _kind(lines))
    bad = BadRows(skip_bad)
    for number, line in enumerate(lines, start=1):
        with bad.at(f"{path}, line {number}"):
            if line.strip():
                reader.read(line)
    if not reader.rows:
        raise DataError(f"{path} judges no pair of these data; give the split that was judged, Flickr8k's test images")
    images, captions, ratings = zip(*reader.rows, strict=True)
    rated = np.array(images), np.array(captions), np.array(ratings, float)
    return Judgements(reader.kind, *rated, reader.positives, dict(bad.counts))


class _Reader:
    def __init__(self, dataset: Dataset, kind: Kind) -> None:
        self.kind: Kind = kind
        self.rows: list[tuple[int, int, float]] = []
        self.positives = 0
        self._captions = dataset.captions
        self._positives = [set(example.captions) for example in dataset.examples]
        first = np.cumsum([0, *(len(example.captions) for example in dataset.examples)]).tolist()
        self._images: dict[str, tuple[int, range]] = {}
        for row, example in enumerate(dataset.examples):
            name = PurePosixPath(example.id).name
            if name in self._images:
                raise DataError(f"two images of the data are called {name!r}, so judgements cannot be told apart; rename one")
            self._images[name] = row, range(first[row], first[row + 1])

    def read(self, line: str) -> None:
        columns = line.strip().split("\t")
        if len(columns) != 5:
            raise BadRow("wrong number of columns", f"{len(columns)} columns where 5 were expected", f"write {COLUMNS}")
        image, _ = self._image(columns[0])
        name, _, number = columns[1].rpartition("#")
        _, captions = self._image(name)
        if not number.isdecimal() or int(number) >= len(captions):
            found = f"caption {columns[1]!r} where {name!r} has 0 to {len(captions) - 1}"
            raise BadRow("unknown caption", found, "give the data with all captions")
        ratings = _ratings(self.kind, columns[2:])
        caption = captions[int(number)]
        if self.kind == "expert" and self._captions[caption] in self._positives[image]:
            self.positives += 1
        else:
            self.rows += [(image, caption, rating) for rating in ratings]

    def _image(self, name: str) -> tuple[int, range]:
        if name not in self._images:
            raise BadRow("unknown image", f"image {name!r} is not among the data's", "give the split that was judged")
        return self._images[name]


def _kind(lines: Sequence[str]) -> Kind:
    """By the first row: what the crowd said contains a 0 or a fraction, an expert's rating neither."""
    first = next((line for line in lines if line.strip()), "")
    return "expert" if all(value in EXPERT_RATINGS for value in first.strip().split("\t")[2:]) else "crowd"


def _ratings(kind: Kind, values: Sequence[str]) -> list[float]:
    if kind == "expert":
        if not all(value in EXPERT_RATINGS for value in values):
            raise BadRow("wrong rating", f"ratings {', '.join(values)} where 1 to 4 were expected", "correct them")
        return [float(value) for value in values]
    try:
        share, yes, no = float(values[0]), int(values[1]), int(values[2])
        agrees = abs(share * (yes + no) - yes) < 1e-4 * (yes + no)
    except ValueError:
        agrees = False
    if not agrees:
        found = f"{', '.join(values)} where the share of yes and the numbers of yes and no were expected"
        raise BadRow("wrong rating", found, "correct them")
    return [share]
