"""On a system that lacks what Linux has everything can be imported, and what cannot work there is one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from aladin.processes import peak_memory
from tests.conftest import paint

LACKING = "import sys, select\nsys.modules['fcntl'] = sys.modules['resource'] = None\ndel select.poll\n"
EVERY_MODULE = """
import importlib, pkgutil, aladin
found = [module.name for module in pkgutil.walk_packages(aladin.__path__, "aladin.") if module.name != "aladin.__main__"]
for name in found:
    importlib.import_module(name)
print(len(found))
"""


@pytest.mark.slow
def test_every_module_can_be_imported() -> None:
    ended = subprocess.run([sys.executable, "-c", LACKING + EVERY_MODULE], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 150


@pytest.mark.parametrize(("command", "what"), [("index", "writing a collection"), ("serve", "serving")])
def test_a_command_that_cannot_work_is_one_sentence(tmp_path: Path, model_path: Path, command: str, what: str) -> None:
    paint(tmp_path / "photos" / "a.png", "red")
    script = f"{LACKING}from aladin.cli import main\nmain([{command!r}, sys.argv[1], '--model', sys.argv[2]])"
    arguments = [sys.executable, "-c", script, tmp_path / "photos", model_path]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith(f"{what} does not work on Linux; use Linux, where aladin is tested")
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_system_without_such_processes_is_one_sentence() -> None:
    script = (
        f"{LACKING}from aladin.errors import ConfigError\nfrom aladin.processes import Child, Limits\n"
        "try:\n    Child('', Limits()).ask({})\nexcept ConfigError as error:\n    print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("a process of its own for pictures or searches does not work on ")


def test_where_nobody_counts_memory_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (peak_memory() or (0, 0))[0] > 1 << 20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory() is None
