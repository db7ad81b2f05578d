"""Exporting and the correction of hubs as functions of the library; the commands are tested in tests/cli."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import aladin
from aladin.datasets import read_dataset
from aladin.encoder.folder import ModelFolder
from aladin.network.checkpoints import load_model, save_model
from aladin.progress import Progress
from tests.tiny_learning import tiny_model, write_pictures, write_tokenizer

pytestmark = pytest.mark.slow


class Watched:
    """Remembers the names of steps and how far each came."""

    def __init__(self) -> None:
        self.ends: dict[str, tuple[int, int]] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        def progress(done: int, total: int) -> None:
            self.ends[name] = (done, total)

        yield progress


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    save_model(tiny_model(write_tokenizer(folder)), folder / "tokenizer.json", folder / "model")
    return folder / "model"


def test_hubs_are_corrected_and_exported_by_two_calls(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aladin.exporting.export.MAX_RSUM_LOSS", 600.0)  # eight pictures say nothing of rsum
    data, watched = write_pictures(tmp_path / "pictures", 8), Watched()
    correction = aladin.correct_hubs(trained, tmp_path / "corrected", read_dataset(data), centres=4, progress=watched)
    assert (correction.centres, correction.images, correction.captions) == (4, 8, 16)
    assert load_model(tmp_path / "corrected").config.heads.hub_centres == 4
    assert watched.ends["image features"] == (8, 8)
    exported = aladin.export(str(tmp_path / "corrected"), str(tmp_path / "out"), str(data), precision="fp16")
    assert exported.report.subject.images == 8
    assert exported.parity.cosine > 0.999
    assert ModelFolder.open(tmp_path / "out").config.heads.hub_centres == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corrected", "out", "pictures"]
