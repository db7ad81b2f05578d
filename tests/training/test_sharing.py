"""Several processes that share the steps of a run: by torchrun and gloo, as they are on GPUs by NCCL."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from aladin.errors import ConfigError, TrainingError
from aladin.network.checkpoints import save_model
from aladin.network.minilm import minilm_folder
from aladin.network.run import Run
from aladin.training import sharing
from aladin.training.batches import Plan, shares
from aladin.training.sharing import one_of_several
from tests import shared_training
from tests.tiny_learning import TINY, Recorder, few_examples, losses, tiny_model, write_pictures, write_tokenizer

ROOT = Path(__file__).parents[2]
NAMES = [*shared_training.RECIPES, "alignment-and-matching-distill"]


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def on_two_hosts(*arguments: str) -> list[tuple[int, str]]:
    """Exit code and stderr of two processes that nobody watches, as torchrun does those of one host alone."""
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, *arguments], stderr=subprocess.PIPE, text=True, cwd=ROOT, env=shared | {"RANK": str(rank)}
        )
        for rank in range(2)
    ]
    texts = [process.communicate(timeout=300)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, texts, strict=True)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """So that the processes round alike."""
    torch.set_num_threads(1)


def alone(name: str, folder: Path) -> dict[int, dict[str, float]]:
    """The losses of a run of a single process, of this one."""
    run = shared_training.run_of(name, folder, Run("fp32"))
    run.run(Recorder())
    return losses(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_compute_what_one_does(name: str, tmp_path: Path) -> None:
    expected = alone(name, tmp_path / "one")
    done = torchrun(2, "-m", "tests.shared_training", name, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    found = losses(tmp_path / "two" / "run")
    assert found.keys() == expected.keys()
    assert len(found) >= 50
    for step, record in expected.items():
        assert found[step] == pytest.approx(record, rel=1e-5, abs=1e-5), step
    first, second = (json.loads((tmp_path / "two" / f"weights {rank}.json").read_text()) for rank in (0, 1))
    assert first == second


@pytest.mark.slow
def test_more_processes_than_a_step_has_images_compute_the_same(tmp_path: Path) -> None:
    expected = alone("both", tmp_path / "one")
    done = torchrun(3, "-m", "tests.shared_training", "both", str(tmp_path / "three"))
    assert done.returncode == 0, done.stderr
    found = losses(tmp_path / "three" / "run")
    assert {step: found[step] for step in range(20)} == {
        step: pytest.approx(expected[step], rel=1e-5, abs=1e-5) for step in range(20)
    }


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_goes_on_with_one_to_the_same_losses(tmp_path: Path) -> None:
    expected = alone("both", tmp_path / "one")
    first, second = on_two_hosts("-m", "tests.shared_training", "both", str(tmp_path / "two"), "20")
    assert second[0] == -signal.SIGKILL
    assert first[0] == 1
    assert "process 0 lost another process of this run" in first[1]
    assert "start the same command again" in first[1]
    before = losses(tmp_path / "two" / "run")
    assert 19 <= len(before) < 50
    assert alone("both", tmp_path / "two").keys() == expected.keys()
    for step, record in losses(tmp_path / "two" / "run").items():
        assert record == pytest.approx(expected[step], rel=1e-5, abs=1e-5), step


@pytest.mark.slow
def test_the_command_trains_by_several_processes_of_which_one_writes(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "start")
    pictures, others = write_pictures(tmp_path / "pictures", 8), write_pictures(tmp_path / "others", 4, first=8)
    (tmp_path / "recipe.toml").write_text('train = ["backbone"]\nepochs = 2\nbatch_images = 4\nviews = 2\n')
    arguments = ["--train", str(pictures), "--val", str(others), "--start", str(tmp_path / "start"), "--device", "cpu"]
    # Without -- torchrun takes --start for one of its own options.
    command = ["-m", "--", "aladin", "train", str(tmp_path / "recipe.toml"), *arguments]
    done = torchrun(2, *command, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best validation rsum") == 1
    assert sum(line.startswith("epoch 0:") for line in done.stderr.splitlines()) == 1
    assert len(losses(tmp_path / "run")) == 4
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    wrong = torchrun(2, *command, "--out", str(tmp_path / "other"), "--start", str(tmp_path / "nowhere"))
    assert wrong.returncode != 0
    assert "nowhere" in wrong.stderr


@pytest.mark.slow
def test_a_cross_fitted_teacher_is_learned_by_one_process_and_heard_by_all(tmp_path: Path) -> None:
    tokenizer = minilm_folder() / "tokenizer.json"
    sizes = dataclasses.replace(TINY.backbone, vocabulary=Tokenizer.from_file(str(tokenizer)).get_vocab_size())
    save_model(tiny_model(tokenizer, dataclasses.replace(TINY, backbone=sizes)), tokenizer, tmp_path / "start")
    pictures, others = write_pictures(tmp_path / "pictures", 8), write_pictures(tmp_path / "others", 4, first=8)
    (tmp_path / "recipe.toml").write_text(
        'train = ["backbone"]\nepochs = 2\nbatch_images = 4\nviews = 1\nprecision = "fp32"\n[[teacher]]\nalignment = 1.0\n'
        'kind = "cross_fitted"\nnetworks = ["efficientnet-lite0"]\nsize = 64\nfolds = 2\nepochs = 1\n'
        "[model.backbone]\ndropout = 0.0\n"
    )
    arguments = ["--train", str(pictures), "--val", str(others), "--start", str(tmp_path / "start"), "--device", "cpu"]
    for processes in (1, 2):
        done = torchrun(
            processes,
            "-m",
            "--",
            "aladin",
            "train",
            str(tmp_path / "recipe.toml"),
            *arguments,
            "--out",
            f"{tmp_path}/{processes}",
        )
        assert done.returncode == 0, done.stderr
    expected, found = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(found) == 4
    assert found == {step: pytest.approx(record, rel=1e-4, abs=1e-4) for step, record in expected.items()}


TWICE = """
import sys, torch, aladin
recipe, pictures, others, start, out = sys.argv[1:]
for number in range(2):
    print(aladin.train(recipe, pictures, others, f"{out} {number}", start=start, device="cpu").head)
    print(torch.distributed.is_initialized(), torch.get_float32_matmul_precision())
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_two_runs_in_a_row_leave_nothing_behind_in_their_processes(processes: int, tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "start")
    write_pictures(tmp_path / "pictures", 4)
    write_pictures(tmp_path / "others", 2, first=4)
    (tmp_path / "recipe.toml").write_text(
        'train = ["backbone"]\nepochs = 1\nbatch_images = 4\nviews = 1\n[compute]\ntf32 = true\n'
    )
    (tmp_path / "twice.py").write_text(TWICE)
    paths = [str(tmp_path / name) for name in ("twice.py", "recipe.toml", "pictures", "others", "start", "run")]
    done = torchrun(processes, *paths)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(2 * processes * ["alignment", "False highest"])


@pytest.mark.parametrize(
    "given",
    [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}, {"WORLD_SIZE": "some"}, {"RANK": "1"}, {"LOCAL_RANK": "-1"}],
)
def test_an_environment_that_says_half_of_what_torchrun_says_is_refused(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    refused = pytest.raises(ConfigError, match=r"WORLD_SIZE in the environment is .*; start several processes by torchrun")
    with refused, one_of_several("cpu", "fp32"):
        pytest.fail("a run began")


def test_processes_of_which_one_does_not_come_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MEETING", timedelta(seconds=2))
    nobody = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in nobody.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="the processes of this run do not meet"), one_of_several("cpu", "fp32"):
        pytest.fail("a run began")


@few_examples
@given(count=st.integers(0, 40), parts=st.integers(1, 9))
def test_shares_are_all_rows_once_and_nearly_equal(count: int, parts: int) -> None:
    found = shares(count, parts)
    assert [row for share in found for row in range(count)[share]] == list(range(count))
    sizes = [share.stop - share.start for share in found]
    assert len(sizes) == parts
    assert max(sizes) - min(sizes) <= 1


@few_examples
@given(images=st.integers(2, 12), most=st.integers(1, 4), each=st.booleans(), seed=st.integers(0, 5))
def test_the_parts_of_a_step_hold_each_image_and_caption_once_beside_each_other(
    images: int, most: int, each: bool, seed: int
) -> None:
    owners = np.repeat(np.arange(images), 3)
    plan = Plan(owners, 5, 1 if each else 2, views=1, regions=1, kept_regions=1, seed=seed, each=each)
    for step in plan.steps(0, plan.steps_per_epoch):
        parts = step.whole.parts(most)
        assert [row for part in parts for row in range(len(step.images))[part.images]] == list(range(len(step.images)))
        assert [row for part in parts for row in range(len(step.captions))[part.captions]] == list(range(len(step.captions)))
        for part in parts:
            assert step.positives[part.images, part.captions].any(dim=0).all()
        assert all(len(alone.images) >= 2 for alone in step.apart(4))
