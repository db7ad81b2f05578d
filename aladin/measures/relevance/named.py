"""From the names that `aladin evaluate --measure` takes to what judges by them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from aladin.datasets import Dataset
from aladin.errors import ConfigError
from aladin.measures.graded import AveragePrecisionAtR, GradedRPrecision, Ndcg, RankedMeasure, RPrecision
from aladin.measures.protocols import Protocol, digest
from aladin.measures.recalls import RECALLS, Recall
from aladin.measures.relevance.coco import NEAREST, CocoIds, CocoSets, coco_ids, plausible_match, read_sets, shipped_sets
from aladin.measures.relevance.matrices import Matrix, RelevanceMatrix, computed_matrix, read_matrix
from aladin.measures.relevance.rouge import RougeL
from aladin.measures.relevance.sources import Judge
from aladin.measures.relevance.spice import Spice, SpiceProgram
from aladin.progress import Progress

Step = Callable[[str], AbstractContextManager[Progress]]
ROUGE_WORDS = "words parted by single spaces"  # earlier versions parted them by any white space
PAIR_BYTES = 16  # of a caption and a caption while ROUGE-L is computed


@dataclass(frozen=True)
class Judging:
    """What every judge may need: the data that a protocol chose, and where and how it may compute."""

    dataset: Dataset
    protocol: Protocol
    ids: Path | None  # COCO's captions JSON or Karpathy's, for the ids of captions
    cache: Path
    memory: int  # bytes
    step: Step
    warn: Callable[[str], None]


def named_judge(text: str, judging: Judging) -> Judge:
    """The judge called `name` or `name=file`."""
    name, _, file = text.partition("=")
    if name not in JUDGES:
        raise ConfigError(f"there is no measure {name!r}; choose {', '.join(JUDGES)}")
    return JUDGES[name](judging, Path(file) if file else None)


def _rouge(judging: Judging, file: Path | None) -> Judge:
    def compute() -> tuple[Matrix, str]:
        captions = judging.dataset.captions_as_written  # a space at the end is a word there
        scorer = RougeL(captions, judging.dataset.owners)
        block = max(1, judging.memory // (PAIR_BYTES * len(captions)))
        content = json.dumps([ROUGE_WORDS, digest(judging.dataset), *captions])
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return _kept_matrix(judging, "rouge-l", key, scorer.rows, block), f"ROUGE-L of the data's captions, {ROUGE_WORDS}"

    return _ndcg(judging, "ROUGE-L", file, compute)


def _spice(judging: Judging, file: Path | None) -> Judge:
    def compute() -> tuple[Matrix, str]:
        program = SpiceProgram.find()
        scorer = Spice(program, judging.dataset.captions, judging.dataset.owners, judging.cache / "spice-graphs")
        return _kept_matrix(
            judging, "spice", digest(judging.dataset), scorer.rows, scorer.block
        ), "SPICE of the data's captions"

    return _ndcg(judging, "SPICE", file, compute)


def _ndcg(judging: Judging, method: str, file: Path | None, compute: Callable[[], tuple[Matrix, str]]) -> Judge:
    if file is None:
        matrix, origin = compute()
    else:
        matrix, sha256 = read_matrix(file, _shape(judging.dataset))
        origin = f"file of SHA-256 {sha256}"
    return Judge(origin, RelevanceMatrix(matrix), {f"{Ndcg()} ({method})": Ndcg()})


def _kept_matrix(judging: Judging, method: str, key: str, compute: Callable[[slice], Matrix], block: int) -> Matrix:
    path = judging.cache / f"{method}-{key[:16]}.npy"
    with judging.step(method) as progress:
        return computed_matrix(compute, _shape(judging.dataset), block, path, progress)


def _shape(dataset: Dataset) -> tuple[int, int]:
    return dataset.caption_count, len(dataset)


def _eccv(judging: Judging, file: Path | None) -> Judge:
    _without_file("eccv", file)
    measures: tuple[RankedMeasure, ...] = (Recall(1), RPrecision(), AveragePrecisionAtR())
    return _sets(judging, shipped_sets("eccv", _ids(judging, "eccv")), "ECCV Caption", measures)


def _cxc(judging: Judging, file: Path | None) -> Judge:
    _without_file("cxc", file)
    return _sets(judging, shipped_sets("cxc", _ids(judging, "cxc")), "CxC", RECALLS)


def _plausible(judging: Judging, file: Path | None) -> Judge:
    if file is None:
        raise ConfigError("PMRP needs COCO's instances_val2014.json, or a folder with pm_*.json; pass --measure pmrp=FILE")
    if file.is_dir():
        return _sets(judging, read_sets(file, "pm", _ids(judging, "pmrp")), "Plausible Match", (RPrecision(),))
    measure = GradedRPrecision(NEAREST)
    relevances, sha256 = plausible_match(judging.dataset, file)
    return Judge(f"COCO's labels, file of SHA-256 {sha256}", relevances, {str(measure): measure})


def _sets(judging: Judging, sets: CocoSets, title: str, measures: tuple[RankedMeasure, ...]) -> Judge:
    if sets.missing:
        judging.warn(f"{title}: {sets.missing:,} judged captions are not in the data and left out")
    return Judge(
        f"{title}, files of SHA-256 {sets.sha256}", sets.relevances, {f"{title} {measure}": measure for measure in measures}
    )


def _ids(judging: Judging, name: str) -> CocoIds:
    if judging.protocol.folds > 1:
        raise ConfigError(f"the measure {name} is defined over all of COCO's 5,000 test images; pass --protocol coco-5k")
    if judging.ids is None:
        raise ConfigError(f"the measure {name} needs COCO's caption ids; pass --coco-ids captions_val2014.json")
    return coco_ids(judging.dataset, judging.ids)


def _without_file(name: str, file: Path | None) -> None:
    if file is not None:
        raise ConfigError(f"the measure {name} takes no file; its sets come with the package eccv-caption")


JUDGES: Mapping[str, Callable[[Judging, Path | None], Judge]] = {
    "ndcg-rouge": _rouge,
    "ndcg-spice": _spice,
    "eccv": _eccv,
    "cxc": _cxc,
    "pmrp": _plausible,
}
