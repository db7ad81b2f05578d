"""One writer at a time, and on systems without such locks one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from aladin.collection.lock import WriterLock, holder_of
from aladin.errors import CollectionLocked
from tests.conftest import paint

LACKING = "import sys, select\nsys.modules['fcntl'] = sys.modules['resource'] = None\ndel select.poll\n"


def test_a_second_writer_learns_who_is_the_first_and_comes_in_after_it(tmp_path: Path) -> None:
    place = tmp_path / "collection.sqlite"
    assert holder_of(place) is None
    first = WriterLock(place)
    with pytest.raises(CollectionLocked, match="is being written by process"):
        WriterLock(place)
    assert "since" in (holder_of(place) or "")
    first.release()
    assert holder_of(place) is None
    WriterLock(place).release()


def test_a_system_without_such_locks_is_one_sentence(tmp_path: Path, model_path: Path) -> None:
    paint(tmp_path / "photos" / "a.png", "red")
    script = f"{LACKING}from aladin.cli import main\nmain(['index', sys.argv[1], '--model', sys.argv[2]])"
    command = [sys.executable, "-c", script, tmp_path / "photos", model_path]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("writing a collection does not work on Linux; use Linux, where aladin is tested")
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_system_without_such_processes_is_one_sentence() -> None:
    script = (
        f"{LACKING}from aladin.errors import ConfigError\nfrom aladin.processes import Child, Limits\n"
        "try:\n    Child('', Limits()).ask({})\nexcept ConfigError as error:\n    print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("a process of its own for pictures or searches does not work on ")
