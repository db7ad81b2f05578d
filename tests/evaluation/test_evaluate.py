import dataclasses
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

import aladin
from aladin.datasets import Dataset, read_dataset
from aladin.errors import ConfigError, DataError, ModelError
from aladin.evaluation.evaluate import EvaluationConfig, evaluate
from aladin.measures.gate import read_baseline
from aladin.measures.recalls import DIRECTIONS
from aladin.measures.report import to_json
from aladin.progress import SILENT, Progress


@pytest.fixture
def dataset(photos: Path) -> Dataset:
    """The photos, each with two captions that name its colour."""
    rows = [{"image": path.name, "captions": [path.stem, f"picture and {path.stem}"]} for path in sorted(photos.glob("*.png"))]
    (photos / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_dataset(photos)


class Named:
    """Steps that remember their names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def step(self, name: str) -> AbstractContextManager[Progress]:
        self.names.append(name)
        return nullcontext(SILENT)


def test_a_report_has_the_figures_of_every_head_and_what_was_measured(model_path: Path, dataset: Dataset) -> None:
    steps = Named()
    found = aladin.evaluate(model_path, dataset, aladin.EvaluationConfig(rerank=2), progress=steps)
    report = found.report
    assert {head: figures.rsum.value for head, figures in report.heads.items()} == dict.fromkeys(
        ("matching", "alignment", "two-stage k=2"), 600.0
    )
    assert (report.subject.model, report.subject.data, report.subject.images) == (str(model_path), dataset.name, 6)
    assert set(steps.names) == set(report.seconds) == {"images", "captions", "matching", "alignment", "two-stage"}
    assert found.hardest == {}


def test_data_may_be_given_by_their_path(model_path: Path, photos: Path, dataset: Dataset) -> None:
    found, again = evaluate(str(model_path), str(photos)).report, evaluate(model_path, dataset).report
    assert found.heads == again.heads
    assert found.subject == again.subject


def test_the_hardest_queries_are_as_many_as_asked_for(model_path: Path, dataset: Dataset) -> None:
    found = evaluate(model_path, dataset, EvaluationConfig(hardest=3))
    assert {direction: len(queries) for direction, queries in found.hardest.items()} == dict.fromkeys(DIRECTIONS, 3)
    assert {query.rank for query in found.hardest["text_to_image"]} == {1}


@pytest.mark.slow
def test_what_is_left_out_is_warned_of(model_path: Path, dataset: Dataset, tmp_path: Path) -> None:
    names = [example.id for example in dataset.examples]
    rows = [f"{image}\t{text}#0\t{1 + (image == text)}\t1\t2" for image in names for text in names]
    (tmp_path / "ExpertAnnotations.txt").write_text("\n".join([*rows, "unseen.png\tred.png#0\t1\t1\t1"]))
    warned: list[str] = []
    config = EvaluationConfig(judgements=tmp_path / "ExpertAnnotations.txt", skip_bad=True)
    evaluate(model_path, dataset, config, warn=warned.append)
    assert warned == [
        f"{tmp_path / 'ExpertAnnotations.txt'}: 1 rows skipped: unknown image",
        "6 judged pairs are left out, as their caption is one of the image's own",
    ]


def test_other_queries_than_the_baselines_are_refused(model_path: Path, dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(to_json(evaluate(model_path, dataset).report)))
    fewer = dataclasses.replace(dataset, examples=dataset.examples[1:])
    with pytest.raises(DataError, match="was measured on other images or captions"):
        evaluate(model_path, fewer, baseline=read_baseline(path))


def test_what_does_not_fit_is_said_before_anything_is_encoded(model_path: Path, dataset: Dataset) -> None:
    for example in dataset.examples:
        (Path(example.source.path)).unlink()  # type: ignore[union-attr]
    with pytest.raises(DataError, match="the data have 6 images where the protocol flickr8k expects"):
        evaluate(model_path, dataset, EvaluationConfig(protocol="flickr8k"))
    with pytest.raises(ModelError, match="has no weights of a cross-encoder"):
        evaluate(model_path, dataset, EvaluationConfig(cross_encoder=3))
    with pytest.raises(ConfigError, match="there is no measure 'bleu'"):
        evaluate(model_path, dataset, EvaluationConfig(measures=("bleu",)))
    with pytest.raises(ConfigError, match="has the precision that it was exported with"):
        evaluate(model_path, dataset, EvaluationConfig(precision="bf16"))


def test_a_config_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no protocol 'coco'; choose full, coco-5k"):
        EvaluationConfig(protocol="coco")
    with pytest.raises(ConfigError, match="--cross-encoder is 5 and --rerank 4"):
        EvaluationConfig(cross_encoder=5, rerank=4)
    with pytest.raises(ConfigError, match="rerank is -1; expected at least 0"):
        EvaluationConfig(rerank=-1)
    with pytest.raises(ConfigError, match="memory is 0; expected at least 1"):
        EvaluationConfig(memory=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        EvaluationConfig().rerank = 3  # type: ignore[misc]
