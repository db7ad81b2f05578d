"""A model folder measured on images with captions: what `aladin evaluate` does.

>>> import aladin
>>> found = aladin.evaluate(model, pictures, aladin.EvaluationConfig(rerank=2))
>>> list(found.report.heads)
['matching', 'alignment', 'two-stage k=2']
>>> 0 <= found.report.heads["matching"].rsum.value <= 600
True
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from aladin import __version__
from aladin.config import at_least, check_choice
from aladin.datasets import Data, Dataset, dataset_of
from aladin.encoder.folder import is_exported
from aladin.errors import ConfigError
from aladin.evaluation.cross_encoder import CrossEncoder, check_cross_encoder, has_cross_encoder
from aladin.evaluation.encoding import encode_dataset
from aladin.evaluation.hardest import hardest_queries
from aladin.evaluation.heads import agreements, evaluate_heads
from aladin.evaluation.ranking import CrossEncoderStage
from aladin.evaluation.scoring import MEMORY
from aladin.files import kept_or_temporary, path_of
from aladin.measures.gate import Baseline, check_same_queries
from aladin.measures.html_report import HardQuery
from aladin.measures.judgements import Judgements, read_judgements
from aladin.measures.protocols import PROTOCOLS, chosen, digest, folds
from aladin.measures.published import beside_the_paper, figures_of
from aladin.measures.recalls import Direction
from aladin.measures.relevance import Judge
from aladin.measures.relevance.named import Judging, named_judge
from aladin.measures.report import QueryValues, Report, Subject, full_report
from aladin.network.checkpoints import fingerprint
from aladin.network.run import PRECISIONS, Precision, Run, chosen_device, memory_watched
from aladin.progress import SILENT, Steps, TimedSteps

CROSS_ENCODER_DEPTH = 20  # read by a cross-encoder where there is one and nothing else is asked for


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured, and how."""

    protocol: str = "full"  # which images and captions, in how many folds
    measures: tuple[str, ...] = ()  # more than recalls: NAME or NAME=FILE, see docs/protocols.md
    coco_ids: Path | None = None  # COCO's captions JSON or Karpathy's, which some measures need
    against: str | None = None  # one of the paper's trainings, by its recipe's name: its figures are set beside
    judgements: Path | None = None  # Flickr8k's judgements by people, to correlate scores with
    rerank: int = 100  # how many of the matching head's best alignment puts in order again; 0: leave two-stage out
    cross_encoder: int | None = None  # how many of those a cross-encoder reads with the query; None: 20, if there is one
    cross_encoder_model: Path | None = None  # whose cross-encoder; None: the model's own
    precision: Precision | None = None  # of encoding by a trained model; None: fp32. An exported one has its own
    device: str = "auto"  # a GPU if there is one; cpu, cuda, cuda:N or mps
    memory: int = MEMORY  # bytes for blocks of scores, beside the results
    skip_bad: bool = False  # rows of the judgements that cannot be read are left out and counted
    hardest: int = 0  # how many of the queries whose right answers stand furthest behind are listed, in each direction

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"there is no protocol {self.protocol!r}; choose {', '.join(PROTOCOLS)}")
        if self.against is not None:
            figures_of(self.against, self.protocol)  # said before anything is encoded
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
        at_least(0, self, "rerank", "hardest", *(() if self.cross_encoder is None else ("cross_encoder",)))
        at_least(1, self, "memory")
        if self.cross_encoder and self.cross_encoder > self.rerank:
            raise ConfigError(
                f"--cross-encoder is {self.cross_encoder} and --rerank {self.rerank}; a cross-encoder reads what alignment has "
                "put in order: give a --rerank of at least --cross-encoder"
            )


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found."""

    report: Report
    hardest: Mapping[Direction, list[HardQuery]]  # by the alignment head, the highest rank first


def evaluate(
    model: str | Path,
    data: Data,
    config: EvaluationConfig = EvaluationConfig(),
    *,
    baseline: Baseline | None = None,
    cache: str | Path | None = None,
    progress: Steps = SILENT,
    warn: Callable[[str], None] = lambda sentence: None,
) -> Evaluated:
    """Measure the retrieval of a model folder, trained or exported, on a data set: a path, or what `read_dataset` gives.

    Recalls in percent and rsum of each way of scoring, in both directions, with 95 % bootstrap intervals; a tie counts against
    the right answer. With a `baseline` it is checked beforehand that the queries are the same. Image features and relevances
    are kept in `cache`. `warn` is called with what is left out and why.

    ConfigError for settings that contradict each other, DataError for data that the protocol does not fit, ModelError for a
    folder that cannot be evaluated; all of that before anything is encoded.
    """
    folder = path_of("model", model)
    check_model(folder, config)
    dataset = chosen(dataset_of(data), PROTOCOLS[config.protocol])
    subject = _subject(folder, dataset, config)
    if baseline:
        check_same_queries(baseline, subject)
    with kept_or_temporary(cache) as kept, memory_watched("lower --memory, or give --device cpu", "lower --memory"):
        return _evaluated(_Work(folder, dataset, config, kept, TimedSteps(progress), warn), subject)


def check_model(folder: Path, config: EvaluationConfig) -> None:
    """An error unless the model folder, and that of the cross-encoder, can be measured so."""
    if is_exported(folder) and config.precision:
        raise ConfigError(f"{folder} has the precision that it was exported with; leave out --precision")
    if config.cross_encoder or config.cross_encoder_model:
        check_cross_encoder(config.cross_encoder_model or folder)


@dataclass(frozen=True)
class _Work:
    folder: Path
    dataset: Dataset
    config: EvaluationConfig
    cache: Path
    steps: TimedSteps
    warn: Callable[[str], None]

    @property
    def run(self) -> Run:
        return Run(self.config.precision or "fp32", chosen_device(self.config.device))

    def judges(self) -> list[Judge]:
        protocol, ids, memory = PROTOCOLS[self.config.protocol], self.config.coco_ids, self.config.memory
        judging = Judging(self.dataset, protocol, ids, self.cache, memory, self.steps.step, self.warn)
        return [named_judge(text, judging) for text in dict.fromkeys(self.config.measures)]

    def judgements(self) -> Judgements | None:
        if self.config.judgements is None:
            return None
        found = read_judgements(self.config.judgements, self.dataset, self.config.skip_bad)
        for reason, count in found.skipped.items():
            self.warn(f"{self.config.judgements}: {count:,} rows skipped: {reason}")
        if found.positives:
            self.warn(f"{found.positives:,} judged pairs are left out, as their caption is one of the image's own")
        return found

    def cross_encoder(self, depth: int) -> CrossEncoderStage | None:
        if not depth:
            return None
        folder = self.config.cross_encoder_model or self.folder
        return CrossEncoderStage(depth, CrossEncoder.load(folder, self.dataset, self.run, self.cache, self.steps).scores)


def _evaluated(work: _Work, subject: Subject) -> Evaluated:
    config, dataset = work.config, work.dataset
    captions_of_each = [len(example.captions) for example in dataset.examples]
    parts = folds(captions_of_each, PROTOCOLS[config.protocol])
    judgements, judges = work.judgements(), work.judges()
    encoded = encode_dataset(work.folder, dataset, work.run, work.cache, work.steps)
    cross_encoder = work.cross_encoder(subject.cross_encoder)
    reader = fingerprint(config.cross_encoder_model or work.folder) if cross_encoder else ""
    subject = replace(subject, fingerprint=fingerprint(work.folder), cross_encoder_fingerprint=reader)
    found = evaluate_heads(encoded, config.rerank, config.memory, work.steps, parts, judges, cross_encoder)
    agreement = agreements(encoded, judgements, config.memory) if judgements else {}
    origins = {name: judge.origin for judge in judges for name in judge.measures}
    queries = QueryValues(captions_of_each, found.ranks, found.judged, origins)
    hardest = hardest_queries(encoded, dataset, found.ranks["alignment"], parts, config.hardest) if config.hardest else {}
    report = full_report(subject, queries, found.seconds, agreement)
    return Evaluated(beside_the_paper(report, config.against) if config.against else report, hardest)


def _subject(folder: Path, dataset: Dataset, config: EvaluationConfig) -> Subject:
    depth, reader = _cross_encoder_depth(folder, config), config.cross_encoder_model or folder
    return Subject(
        str(folder),
        dataset.name,
        dataset.split or None,
        len(dataset),
        dataset.caption_count,
        config.rerank,
        "as exported" if is_exported(folder) else config.precision or "fp32",
        config.protocol,
        digest(dataset),
        depth,
        str(reader) if depth else "",
        __version__,
    )


def _cross_encoder_depth(folder: Path, config: EvaluationConfig) -> int:
    """How many a cross-encoder reads, 0 for none."""
    if config.cross_encoder is None:
        reader = config.cross_encoder_model or folder
        return min(CROSS_ENCODER_DEPTH, config.rerank) if has_cross_encoder(reader) else 0
    return config.cross_encoder
