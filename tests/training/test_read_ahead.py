import dataclasses
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aladin.cli.train import TrainingShown
from aladin.errors import DataError
from aladin.network.checkpoints import save_model
from aladin.network.grid_features import GridFeatures, GridRows
from aladin.network.run import Run
from aladin.training.batches import Part, Plan, Step
from aladin.training.read_ahead import ReadAhead
from aladin.training.recipe import ComputeConfig, LossConfig, Recipe
from aladin.training.teachers.cross_encoder import CrossEncoderSettings
from tests.tiny_learning import FAST, TINY, Recorder, few_examples, losses, tiny_model, trainer, write_tokenizer

IMAGES = 11
THREADS, OWN = "read-ahead", "the run's own"


def thread_kind() -> str:
    return THREADS if threading.current_thread().name.startswith(THREADS) else OWN


@dataclass
class Watched:
    """A set of images that remembers who read what, and may take long or fail."""

    seconds: float = 0.0
    broken: int = -1

    def __post_init__(self) -> None:
        self.reads: list[list[int]] = []
        self.threads: set[str] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return IMAGES

    @property
    def views(self) -> int:
        return 2

    def read(self, rows: np.ndarray, views: int | np.ndarray = 0) -> GridRows:
        with self._lock:
            self.reads.append(rows.tolist())
            self.threads.add(thread_kind())
        time.sleep(self.seconds)
        if self.broken in rows:
            raise DataError(f"image {self.broken} is broken; mend it")
        maps = torch.from_numpy(rows + 100 * np.broadcast_to(views, rows.shape)).to(torch.float16)
        return GridRows(maps[:, None, None, None], torch.zeros(len(rows), 1, dtype=torch.int16))


def steps(epochs: int = 1) -> list[Step]:
    plan = Plan(np.arange(IMAGES), 2, 1, 2, 1, 1, 3)
    return list(plan.steps(0, epochs * plan.steps_per_epoch))


def whole(step: Step) -> list[Part]:
    return [step.whole]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]


@few_examples
@given(count=st.integers(0, 7), workers=st.integers(1, 4), parts=st.integers(1, 2))
def test_images_read_ahead_are_those_of_the_set_in_the_same_steps(count: int, workers: int, parts: int) -> None:
    images, plain = Watched(), Watched()
    ahead = ReadAhead(images, Run(), count, workers)
    taken = []
    with ahead.ahead(iter(steps(2)), lambda step: step.parts(parts)) as coming:
        for step in coming:
            taken.append(step.number)
            for part in step.parts(parts):
                rows, views = step.images[part.images], step.views[part.images]
                assert torch.equal(ahead.read(rows, views).maps, plain.read(rows, views).maps)
    assert taken == list(range(2 * 5))
    assert set(map(tuple, images.reads)) == set(map(tuple, plain.reads))
    assert len(images.reads) <= len(plain.reads)  # what two steps in a row want is read once
    assert images.threads == ({THREADS} if count else {OWN})
    assert not threads()


def test_no_more_steps_are_read_than_asked_for_and_none_is_kept_when_it_was_taken() -> None:
    images = Watched()
    ahead = ReadAhead(images, Run(), 2, 1)
    with ahead.ahead(iter(steps()), whole) as coming:
        for step in coming:
            ahead.read(step.images, step.views)
            time.sleep(0.05)
            assert images.reads == [each.images.tolist() for each in steps()[: step.number + 3]]
            assert len(ahead._reads) <= 3
    assert not ahead._reads


def test_what_nobody_asked_for_ahead_is_read_there_and_then() -> None:
    images = Watched()
    ahead = ReadAhead(images, Run(), 2, 1)
    with ahead.ahead(iter(steps()), lambda step: []) as coming:
        for step in coming:
            ahead.read(step.images, step.views)
    assert images.threads == {OWN}


def test_an_error_comes_up_in_the_step_that_wants_the_image_as_it_is() -> None:
    broken = int(steps()[3].images[1])
    ahead = ReadAhead(Watched(broken=broken), Run(), 4, 2)
    taken = []

    def take_all() -> None:
        with ahead.ahead(iter(steps()), whole) as coming:
            for step in coming:
                ahead.read(step.images, step.views)
                taken.append(step.number)

    with pytest.raises(DataError, match=rf"^image {broken} is broken; mend it$"):
        take_all()
    assert taken == [0, 1, 2]
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_is_stopped_leaves_no_thread_and_begins_no_further_read(error: type[BaseException]) -> None:
    images = Watched(seconds=0.05)
    ahead = ReadAhead(images, Run(), 5, 1)

    def stop_at_once() -> None:
        with ahead.ahead(iter(steps()), whole) as coming:
            next(coming)
            raise error

    with pytest.raises(error):
        stop_at_once()
    assert not threads()
    assert len(images.reads) <= 2


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.9, 1.0), (2, 0.2, 0.75)])
def test_the_share_of_time_that_steps_wait_is_measured(count: int, low: float, high: float) -> None:
    ahead = ReadAhead(Watched(seconds=0.04), Run(), count, 1)
    with ahead.ahead(iter(steps()), whole) as coming:
        for step in coming:
            with ahead.step():
                ahead.read(step.images, step.views)
                time.sleep(0.02 if count else 0.0)
    assert low < ahead.share_waited() <= high
    assert ahead.share_waited() == 0.0


def test_what_is_waited_for_between_steps_does_not_count() -> None:
    ahead = ReadAhead(Watched(seconds=0.02), Run(), 0, 1)
    ahead.read(np.arange(2))
    with ahead.step():
        time.sleep(0.02)
    assert ahead.share_waited() == 0.0


PLAIN = Recipe(
    train=("backbone", "matching_head"),
    epochs=2,
    batch_images=4,
    views=2,
    precision="fp32",
    loss=LossConfig(matching=1.0),
    optimizer=FAST,
)
TOGETHER = dataclasses.replace(PLAIN, train=("backbone", "cross_encoder"), loss=LossConfig(alignment=0.0, cross_encoder=1.0))
COMPUTE = [{}, {"chunk_images": 2}, {"read_ahead": 5, "workers": 3}, {"read_ahead": 1, "workers": 1}]


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kinds of threads that read images, as soon as they do."""
    found: set[str] = set()
    read = GridFeatures.read

    def watched(self: GridFeatures, rows: np.ndarray, views: int | np.ndarray = 0) -> GridRows:
        found.add(thread_kind())
        return read(self, rows, views)

    monkeypatch.setattr(GridFeatures, "read", watched)
    return found


def steps_of(recipe: Recipe, folder: Path, with_head: bool = False) -> dict[int, dict[str, float]]:
    settings = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=with_head))
    folder.mkdir()
    run = trainer(recipe, folder, tiny_model(write_tokenizer(folder), settings))
    run.validate = lambda: {"alignment rsum": 1.0, "matching rsum": 1.0, "cross_encoder rsum": 1.0}  # type: ignore[method-assign]
    run.run(Recorder())
    return losses(run.folder.path)


@pytest.mark.slow
@pytest.mark.parametrize("settings", COMPUTE, ids=str)
@pytest.mark.parametrize("parts", [1, 2])
def test_runs_that_read_ahead_have_the_same_losses_and_read_everything_ahead(
    tmp_path: Path, readers: set[str], settings: dict[str, int], parts: int
) -> None:
    recipe = dataclasses.replace(PLAIN, gradient_accumulation=parts)
    chunks = settings.get("chunk_images", 0)
    alone = dataclasses.replace(recipe, compute=ComputeConfig(read_ahead=0, chunk_images=chunks))
    expected = steps_of(alone, tmp_path / "alone")
    assert readers == {OWN}
    readers.clear()
    assert steps_of(dataclasses.replace(recipe, compute=ComputeConfig(**settings)), tmp_path / "ahead") == expected
    assert readers == {THREADS}
    assert not threads()


@pytest.mark.slow
def test_a_cross_encoder_and_a_teacher_of_one_read_ahead_too(tmp_path: Path, readers: set[str]) -> None:
    steps_of(TOGETHER, tmp_path / "together", with_head=True)
    assert readers == {THREADS}
    readers.clear()
    (tmp_path / "words").mkdir()
    tokenizer = write_tokenizer(tmp_path / "words")
    teacher = tiny_model(tokenizer, dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True)))
    save_model(teacher, tokenizer, tmp_path / "teacher")
    settings = CrossEncoderSettings(matching=1.0, models=(str(tmp_path / "teacher"),), list_length=3)
    taught = dataclasses.replace(PLAIN, loss=LossConfig(alignment=0.0), teacher=(settings,))
    steps_of(taught, tmp_path / "taught")
    assert readers == {THREADS}


def test_the_log_says_the_share_and_the_terminal_where_it_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = GridFeatures.read

    def slow(self: GridFeatures, rows: np.ndarray, views: int | np.ndarray = 0) -> GridRows:
        time.sleep(0.1)
        return read(self, rows, views)

    monkeypatch.setattr(GridFeatures, "read", slow)
    recipe = dataclasses.replace(PLAIN, epochs=1, compute=ComputeConfig(read_ahead=0))
    run = trainer(recipe, tmp_path)
    recorder = Recorder()
    run.run(recorder)
    records = [json.loads(line) for line in (run.folder.path / "log.jsonl").read_text().splitlines()]
    (share,) = [record["waited_share"] for record in records if "waited_share" in record]
    assert 0.2 < share <= 1
    show: Callable[[float], None] = lambda share: TrainingShown().validated(  # noqa: E731
        3, {"matching rsum": 1.0, "epoch_seconds": 20.0, "waited_share": share}
    )
    show(0.312)
    show(0.04)
    assert capsys.readouterr().err == (
        "epoch 3: matching rsum 1.0 () in 20 s, 31 % of it waiting for images\nepoch 3: matching rsum 1.0 () in 20 s\n"
    )
