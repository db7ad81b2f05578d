import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import aladin.cli
import aladin.errors
from aladin import __version__
from aladin.cli import COMMANDS, main, root
from aladin.cli.exit_codes import NOTHING_FOUND, SKIPPED_SOME

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from aladin.cli import main; main(sys.argv[1:])"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_the_help_names_every_command_and_imports_none_of_them() -> None:
    script = "import sys; from aladin.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    result = python("-c", script)
    assert result.returncode == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)
    loaded = set(result.stderr.split())
    assert not loaded & {"numpy", "torch", "onnxruntime", "rich", "PIL", "aladin.cli.search"}


def test_the_help_lists_every_exit_code_that_a_command_ends_with() -> None:
    errors = {error.exit_code for error in vars(aladin.errors).values() if isinstance(error, type)}
    codes = {0, 2, 130, SKIPPED_SOME, NOTHING_FOUND, *errors}
    text = " ".join(root.help.split()).split("Exit codes: ")[1]
    assert {int(part.split()[0]) for part in text.split("; ")} == codes


def test_the_version_is_the_packages() -> None:
    assert python("-m", "aladin", "--version").stdout == f"aladin, version {__version__}\n"


def test_the_help_begins_with_what_people_come_for_and_has_a_line_for_each_command() -> None:
    assert list(COMMANDS)[:4] == ["search", "similar", "explain", "serve"]
    assert list(COMMANDS)[4:] == sorted(list(COMMANDS)[4:])
    assert all(line[0].isupper() and line.endswith(".") for line in COMMANDS.values())


def test_every_file_that_makes_a_command_is_listed() -> None:
    def defines(module: str, name: str) -> bool:
        return isinstance(getattr(importlib.import_module(module), name, None), click.Command)

    stems = {file.stem for file in Path(aladin.cli.__file__).parent.glob("*.py")} - {"__init__"}
    found = {stem.replace("_", "-") for stem in stems if defines(f"aladin.cli.{stem}", stem)}
    assert found == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_begins_as_the_list_says(command: str) -> None:
    result = python("-m", "aladin", command, "--help")
    assert result.returncode == 0
    assert f"Usage: aladin {command} " in result.stdout


@pytest.mark.parametrize("arguments", [["fly"], ["search"], ["search", "--fly"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    result = python("-m", "aladin", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Error: " in result.stderr


def commands(name: str, command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The command, or all of a group, with the words that call it."""
    inner = command.commands.items() if isinstance(command, click.Group) else ()
    yield from (((name, *words), below) for key, value in inner for words, below in commands(key, value))
    if not inner:
        yield (name,), command


def empty_paths(command: click.Command) -> Iterator[list[str]]:
    """Arguments of which the last is an empty path, for each path that the command takes."""
    before = 0
    for param in command.params:
        if isinstance(param.type, click.Path):
            yield [param.opts[0], ""] if isinstance(param, click.Option) else ["x"] * before + [""]
        before += isinstance(param, click.Argument)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_path_is_wrong_usage_wherever_a_path_is_taken(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    cases = [[*words, *arguments] for words, found in commands(name, command) for arguments in empty_paths(found)]
    assert cases
    for arguments in cases:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        printed = capsys.readouterr()
        assert (ended.value.code, printed.out) == (2, "")
        assert ": the path is empty, as from a variable that is not set; write . for the folder" in printed.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "recipe.toml", "--train", "a", "--val", "b", "--out", "c"],
        ["average", "out", "one", "other"],
        ["evaluate", "model", "data"],
        ["export", "model", "out", "--val", "data"],
        ["convert", "checkpoint", "vinvl", "out"],
        ["features", "convert", "test_captions.pt", "captions.jsonl"],
    ],
)
def test_learning_without_its_packages_says_what_to_install(arguments: list[str]) -> None:
    result = python("-c", WITHOUT_TORCH, *arguments)
    assert result.returncode == 1
    assert result.stderr == "aladin: the package torch is not installed; run pip install 'aladin[train]'\n"
