"""Exporting and the correction of hubs as functions of the library; the commands are tested in tests/cli."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import aladin
from aladin.datasets import read_dataset
from aladin.encoder.folder import ModelFolder
from aladin.errors import AladinError, ConfigError
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


MAKING: tuple[Callable[..., Any], ...] = (aladin.export, aladin.correct_hubs, aladin.add_global_head)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("make", MAKING, ids=lambda make: str(make.__name__))
def test_a_model_is_not_written_over_itself(trained: Path, tmp_path: Path, make: Callable[..., Any]) -> None:
    (tmp_path / "link").symlink_to(trained)
    before = contents(trained)
    for out in (trained, trained / ".." / trained.name, tmp_path / "link"):
        with pytest.raises(ConfigError, match="the folder of the model itself, which stays as it is; give another folder"):
            make(trained, out, tmp_path / "no-data")
    assert contents(trained) == before


@pytest.mark.parametrize("make", MAKING, ids=lambda make: str(make.__name__))
def test_a_file_as_the_folder_to_write_to_is_said_first(trained: Path, tmp_path: Path, make: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=f"^out is {tmp_path / 'file'}, which is no folder; give the path of a folder"):
        make(trained, tmp_path / "file", tmp_path / "no-data")
    with pytest.raises(ConfigError, match=f"^out is .*, but {tmp_path / 'file'} is no folder; give a path inside folders"):
        make(trained, tmp_path / "file" / "out", tmp_path / "no-data")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("make", MAKING, ids=lambda make: str(make.__name__))
def test_a_folder_that_is_no_models_is_said_before_the_data_are_looked_for(tmp_path: Path, make: Callable[..., Any]) -> None:
    with pytest.raises(AladinError, match=r"no-model is not a model folder: it has no model\.toml"):
        make(tmp_path / "no-model", tmp_path / "out", tmp_path / "no-data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "settings", "sentence"),
    [
        (aladin.correct_hubs, {"centres": 0}, "centres is 0; expected a whole number of at least 1"),
        (aladin.correct_hubs, {"scale": float("nan")}, "hub_scale is nan; expected a finite number"),
        (aladin.correct_hubs, {"weight": -1.0}, r"hub_weight is -1\.0; expected at least 0"),
        (aladin.add_global_head, {"dim": 0}, "dim is 0; expected a whole number from 1 to 384"),
        (aladin.add_global_head, {"dim": 385}, "dim is 385; expected a whole number from 1 to 384"),
        (aladin.add_global_head, {"epochs": 0}, "epochs is 0; expected a whole number of at least 1"),
        (aladin.add_global_head, {"seed": -1}, "seed is -1; expected a whole number of at least 0"),
        (aladin.add_global_head, {"share": 1.0}, r"share is 1\.0; expected a number of more than 0 and less than 1"),
        (aladin.add_global_head, {"share": float("nan")}, "share is nan; expected a number of more than 0 and less than 1"),
    ],
)
def test_what_an_option_of_the_command_would_refuse_is_refused_before_anything_is_read(
    trained: Path, tmp_path: Path, make: Callable[..., Any], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        make(trained, tmp_path / "out", tmp_path / "no-data", **settings)
    assert list(tmp_path.iterdir()) == []


# In a process of its own: here the test run would say that these are no arguments for the signatures.
WRONG_KINDS = """
import sys
import aladin
model, data = sys.argv[1:]
for call in (
    lambda: aladin.evaluate(3, data),
    lambda: aladin.evaluate(None, data),
    lambda: aladin.evaluate(model, 3),
    lambda: aladin.EvaluationConfig(precision="fp8"),
    lambda: aladin.export(model, "out", data, precision="int4"),
    lambda: aladin.export(model, None, data),
    lambda: aladin.correct_hubs(model, "out", data, centres=4.5),
    lambda: aladin.correct_hubs(model, "out", data, scale="x"),
    lambda: aladin.add_global_head(model, "out", data, share="x"),
    lambda: aladin.add_global_head(model, "out", data, dim=True),
    lambda: aladin.train("recipe.toml", data, data, ""),
    lambda: aladin.calibrate(None, data),
):
    try:
        call()
    except aladin.AladinError as error:
        print(type(error).__name__, error)
"""


def test_an_argument_of_another_kind_is_a_sentence_and_no_failure_of_ours(trained: Path, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "pictures", 2)
    done = subprocess.run([sys.executable, "-c", WRONG_KINDS, trained, data], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "ConfigError model is 3; expected a path, as text or as a Path",
        "ConfigError model is None; expected a path, as text or as a Path",
        "ConfigError data is 3; expected a path, as text or as a Path",
        "ConfigError precision is 'fp8'; expected one of 'fp32', 'bf16', 'fp16'",
        "ConfigError precision is 'int4'; expected one of 'int8', 'fp16', 'fp32'",
        "ConfigError out is None; expected a path, as text or as a Path",
        "ConfigError centres is 4.5; expected a whole number of at least 1",
        "ConfigError hub_scale is 'x'; expected a finite number",
        "ConfigError share is 'x'; expected a number of more than 0 and less than 1",
        "ConfigError dim is True; expected a whole number from 1 to 384",
        "ConfigError out is ''; expected a path, as text or as a Path",
        "ConfigError model is None; expected a path, as text or as a Path",
    ]
