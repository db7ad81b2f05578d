"""Nothing that a name, a file or an argument contains reaches a terminal as a control character."""

import ast
import os
import pty
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import aladin.cli
from aladin.cli import main
from aladin.cli.terminal import JOINER, print_line, print_lines, printable
from aladin.collection.indexing import index_folder
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from tests.conftest import paint

any_text = st.text(st.characters())  # lone surrogates too
EVIL = "bad\x1b[31m\x9b2J\r\u202e\u2028\n\udcff\x07"


def is_harmless(text: str) -> bool:
    return all(c == JOINER or (unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in "Zl Zp") for c in text)


@given(any_text)
@example(EVIL)
def test_what_is_printable_stands_on_one_line_and_can_be_written(text: str) -> None:
    shown = printable(text)
    assert is_harmless(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()


@given(any_text)
def test_what_is_printable_already_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"])))
@example("zwei Hunde im Schnee, \u4e24\u53ea\u72d7, \U0001f468\u200d\U0001f469\u200d\U0001f467, \u05db\u05dc\u05d1")
def test_letters_numbers_signs_and_emoji_of_all_scripts_stay(text: str) -> None:
    assert printable(text) == text


@given(st.lists(any_text, min_size=1, max_size=3))
def test_a_line_is_one_line_with_its_columns(columns: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr(click, "echo", lambda text, err: written.append(text))
        print_line(*columns)
    assert written[0].split("\t") == [printable(column) for column in columns]


@given(any_text)
def test_of_several_lines_only_their_ends_stay(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr(click, "echo", lambda text, err: written.append(text))
        print_lines(text)
    assert len(written) == text.count("\n") + 1
    assert all(map(is_harmless, written))


def test_commands_print_by_no_other_door() -> None:
    for path in Path(aladin.cli.__file__).parent.glob("*.py"):
        names = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        assert (
            not names & {"print", "click.echo", "click.secho", "sys.stdout.write", "sys.stderr.write"}
            or path.stem == "terminal"
        )


# Real commands.


def on_a_terminal(*arguments: str) -> str:
    """All that a command writes where both its outputs are a terminal."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "aladin", *arguments]
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        written = b""
        while True:
            try:
                found = os.read(ours, 4096)
            except OSError:  # how Linux says that the other side is closed
                break
            if not found:
                break
            written += found
        process.wait(60)
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


ARGUMENTS: list[Callable[[str, str], list[str]]] = [
    lambda folder, evil: ["explain", f"{folder}/{evil}", "dog"],
    lambda folder, evil: ["explain", f"{folder}/{evil}.png", "red"],
    lambda folder, evil: ["explain", f"{folder}/{evil}.png", evil],
    lambda folder, evil: ["explain", f"{folder}/{evil}.png", "red", "--png", evil],
    lambda folder, evil: ["explain", f"{folder}/{evil}.png", "red", "--box", evil],
    lambda folder, evil: ["search", evil, "red"],
    lambda folder, evil: ["search", folder, "red", "--no-index"],
    lambda folder, evil: ["search", folder, "red", "--no-index", "--why", "--tsv"],
    lambda folder, evil: ["search", folder, "red", "--no-index", "--in", evil],
    lambda folder, evil: ["search", folder, "red", "--no-index", "--model", evil],
    lambda folder, evil: ["search", folder, "red", "--where", evil],
    lambda folder, evil: ["search", folder, "red", "--after", evil],
    lambda folder, evil: ["search", folder, "red", evil],
    lambda folder, evil: ["search", folder, f"--{evil}"],
    lambda folder, evil: ["similar", folder, evil],
    lambda folder, evil: ["caption", f"{folder}/{evil}.png", "--from", f"{folder}/{evil}.txt"],
    lambda folder, evil: ["dupes", folder, "--level", "alike"],
    lambda folder, evil: ["dupes", folder, "--level", evil],
    lambda folder, evil: ["index", folder],
    lambda folder, evil: ["index", evil],
    lambda folder, evil: ["plan", folder],
    lambda folder, evil: ["status", folder],
    lambda folder, evil: ["status", folder, "--collection", evil],
    lambda folder, evil: ["remove", folder, evil],
    lambda folder, evil: ["verify", folder],
    lambda folder, evil: ["verify", folder, "--collection", f"{folder}/{evil}"],
    lambda folder, evil: ["export-collection", folder, f"{folder}/{evil}"],
    lambda folder, evil: ["import-collection", folder, evil],
    lambda folder, evil: ["serve", folder, "--tokens", evil],
    lambda folder, evil: ["serve", folder, "--host", evil],
    lambda folder, evil: ["evaluate", evil, evil],
    lambda folder, evil: ["train", evil, "--train", evil, "--val", evil, "--out", evil],
    lambda folder, evil: ["average", f"{folder}/out", evil, evil],
    lambda folder, evil: ["export", evil, evil, "--val", evil],
    lambda folder, evil: ["convert", evil, evil, f"{folder}/out"],
    lambda folder, evil: ["features", "check", evil],
    lambda folder, evil: [evil],
]


@pytest.fixture(scope="module")
def evil_folder(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Path:
    """Photographs, two of them copies, texts and a broken file, all with names that nobody should print."""
    folder = tmp_path_factory.mktemp("evil") / EVIL
    folder.mkdir()
    for name in (f"{EVIL}.png", f"again {EVIL}.png"):
        paint(folder / name, "red")
    (folder / EVIL).write_bytes(b"no image")
    (folder / f"broken {EVIL}.png").write_bytes(b"no image")
    (folder / f"{EVIL}.txt").write_text("red \x1b[31m picture\nblue\u202e\n", encoding="utf-8")
    with CollectionWriter.create(default_file(folder), folder) as collection:
        index_folder(collection, Encoder.load(model_path, threads=1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda make: " ".join(make("FOLDER", "EVIL")))
def test_no_command_writes_a_control_character_on_a_terminal(
    arguments: Callable[[str, str], list[str]], evil_folder: Path, model_path: Path
) -> None:
    given_arguments = arguments(str(evil_folder), EVIL)
    takes_model = (
        given_arguments[0] in ("search", "explain", "caption", "index", "similar") and "--model" not in given_arguments
    )
    shown = on_a_terminal(*given_arguments, *(["--model", str(model_path)] if takes_model else []))
    assert shown.strip()
    assert "Traceback" not in shown
    for line in shown.split("\n"):
        assert is_harmless(line.replace("\t", "")), line


def test_json_and_names_for_programs_are_the_files_own(
    evil_folder: Path, model_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for form in ("--json", "-0"):
        with pytest.raises(SystemExit):
            main(["search", str(evil_folder), "red", "--no-index", "--model", str(model_path), form])
        out = capfdbinary.readouterr().out
        raw = os.fsencode(evil_folder / f"{EVIL}.png")
        assert (raw if form == "-0" else b"bad\\u001b[31m\\u009b2J\\r\\u202e\\u2028\\n\\udcff\\u0007.png") in out
