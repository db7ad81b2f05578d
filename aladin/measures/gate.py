"""Whether a model is worse than an earlier report of the same queries says another one was: a gate for continuous integration.

Each head, direction and measure is compared by the same queries in both reports: how likely is a mean difference of zero or
more when images are drawn again, each with all queries that belong to it (one-sided paired bootstrap)? The Holm-Bonferroni
correction over all comparisons of a gate keeps the chance that a model which is nowhere worse is refused at 5 %.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from aladin.errors import DataError, Regression
from aladin.measures.recalls import RECALLS, resampled_means
from aladin.measures.report import QueryValues, Subject, query_values
from aladin.old_names import renamed_subject

LEVEL = 0.05  # chance, over all comparisons, to refuse a model that is nowhere worse
GATE_RESAMPLES = 10_000
Key = tuple[str, str, str]  # head, direction, measure
Sample = Float[np.ndarray, " queries"]
Rows = Int[np.ndarray, " queries"]


@dataclass(frozen=True)
class Baseline:
    """An earlier report: what was measured, and what was found for each query."""

    path: Path
    protocol: str
    digest: str
    queries: QueryValues
    # Older reports say less of their model.
    model: str = ""
    data: str = ""
    fingerprint: str = ""
    cross_encoder_fingerprint: str = ""


@dataclass(frozen=True)
class Comparison:
    """A measure before and now, and the chance that it would come out at least this much worse by the drawing of queries."""

    head: str
    direction: str
    measure: str
    before: float
    now: float
    p: float

    def __str__(self) -> str:
        change = f"{self.before:.2f} -> {self.now:.2f} ({self.now - self.before:+.2f}, p = {self.p:.4f})"
        return f"{self.head}, {self.direction}, {self.measure}: {change}"


def read_baseline(path: Path) -> Baseline:
    """The report that `aladin evaluate --json` printed into this file."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        subject = renamed_subject(table["subject"])
        known = {name: str(subject.get(name, "")) for name in ("model", "data", "fingerprint", "cross_encoder_fingerprint")}
        return Baseline(path, subject["protocol"], subject["digest"], query_values(table["queries"]), **known)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; give a report of `aladin evaluate --json`") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path} is no report with the ranks of every query; write one anew with `aladin evaluate --json`"
        ) from None


def check_same_queries(baseline: Baseline, subject: Subject) -> None:
    """DataError when the baseline was measured on other queries than `subject` is."""
    if baseline.protocol != subject.protocol:
        raise DataError(
            f"{baseline.path} was measured by the protocol {baseline.protocol}, this is {subject.protocol}; "
            f"pass --protocol {baseline.protocol}, or make a new baseline"
        )
    if baseline.digest != subject.digest:
        raise DataError(
            f"{baseline.path} was measured on other images or captions (digest {baseline.digest[:12]}, these have "
            f"{subject.digest[:12]}); give the same data and split, or make a new baseline"
        )


def differences(baseline: Baseline, subject: Subject) -> list[str]:
    """One sentence for each thing that a comparison does not refuse and a reader should know: other weights, other data."""
    path, found = baseline.path, []
    if not baseline.fingerprint:
        found.append(f"{path} does not say of which weights it is, as it was written by an older aladin")
    elif baseline.fingerprint != subject.fingerprint:
        was, now = (f"{some.model}, {some.fingerprint[:12]}" for some in (baseline, subject))
        found.append(f"{path} is of other weights: {was}; now {now}")
    if baseline.cross_encoder_fingerprint and subject.cross_encoder_fingerprint not in ("", baseline.cross_encoder_fingerprint):
        found.append(f"{path} is of a cross-encoder of other weights")
    if baseline.data != subject.data:
        found.append(
            f"{path} is of {baseline.data or 'data without a name'}, now it is {subject.data}: images and captions are called "
            "the same; whether the pictures are is not known"
        )
    return found


def compared(baseline: Baseline, queries: QueryValues) -> list[Comparison]:
    """Every measure of the baseline against the same of now; DataError when one of them was not measured now."""
    before, now = samples_of(baseline.queries), samples_of(queries)
    for key, sample in before.items():
        if key not in now or len(sample) != len(now[key]):
            raise DataError(
                f"{baseline.path} has {len(sample):,} queries of {', '.join(key)}, now there are {len(now.get(key, ())):,}; "
                "evaluate with the same options, or make a new baseline"
            )
        origin, origin_now = (some.origins.get(key[2]) for some in (baseline.queries, queries))
        if origin != origin_now:
            raise DataError(
                f"{baseline.path} has {key[2]} by the relevances {origin!r}, now it is by {origin_now!r}; "
                "give the same, or make a new baseline"
            )
    owners = np.repeat(np.arange(len(queries.captions_of_each)), queries.captions_of_each)
    images: dict[str, Rows] = {"image_to_text": np.arange(len(queries.captions_of_each)), "text_to_image": owners}
    return [_comparison(key, sample, now[key], images[key[1]]) for key, sample in before.items()]


def _comparison(key: Key, before: Sample, now: Sample, images: Rows) -> Comparison:
    judged = ~np.isnan(before)
    before, now, images = before[judged], now[judged], images[judged]
    # Captions of one image win or lose together: drawn one by one, they would feign more certainty than there is.
    gains = np.bincount(images, now - before)[np.unique(images)]
    drawn = resampled_means(gains, GATE_RESAMPLES, np.random.default_rng(0))
    # That it was drawn so once is counted in, so that no chance is nought (Davison and Hinkley 1997, section 4.2).
    p = (1 + np.count_nonzero(drawn >= 0)) / (1 + GATE_RESAMPLES)
    return Comparison(*key, float(np.mean(before)), float(np.mean(now)), float(p))


def worse(comparisons: Sequence[Comparison], level: float = LEVEL) -> list[Comparison]:
    """Those that are significantly worse, by Holm-Bonferroni over all of them, the surest first."""
    found: list[Comparison] = []
    for surer, comparison in enumerate(sorted(comparisons, key=lambda comparison: comparison.p)):
        if comparison.p > level / (len(comparisons) - surer):
            break
        found.append(comparison)
    return found


def pass_gate(comparisons: Sequence[Comparison]) -> str:
    """One sentence about what passed; Regression when something is significantly worse."""
    found = worse(comparisons)
    how = f"one-sided paired bootstrap, {GATE_RESAMPLES:,} draws of images, level 5 % over all by Holm-Bonferroni"
    if found:
        listed = "; ".join(map(str, found))
        raise Regression(f"{len(found)} of {len(comparisons)} measures are significantly worse ({how}): {listed}")
    return f"gate passed: none of {len(comparisons)} measures is significantly worse ({how})"


def samples_of(queries: QueryValues) -> dict[Key, Sample]:
    """What each query adds to each measure's mean."""
    recalls: dict[Key, Sample] = {
        (head, direction, str(recall)): recall.of_each(ranks)
        for head, directions in queries.ranks.items()
        for direction, ranks in directions.items()
        for recall in RECALLS
    }
    judged: dict[Key, Sample] = {
        (head, direction, measure): values
        for head, directions in queries.judged.items()
        for direction, measures in directions.items()
        for measure, values in measures.items()
    }
    return recalls | judged
