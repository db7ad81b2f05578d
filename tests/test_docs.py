"""What the README and the pages of docs name is there: links, commands with their options, rooms."""

import pkgutil
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from aladin.cli import COMMANDS, root

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = [page for page in PAGES if page.name != "experiments.md"]  # a log, whose commands are those of their day


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of code in a language."""
    fenced = rf"^```{language}\n(.*?)^```$"
    return re.findall(fenced, page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The arguments of each call of `aladin` in the page's shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    calls = [shlex.split(part, comments=True) for part in parts]
    return [call[1:] for call in calls if call and Path(call[0]).name == "aladin"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", prose):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_command_and_option_that_is_shown_exists(page: Path) -> None:
    for arguments in commands(page):
        command: click.Command | None = root
        while isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.get_command(click.Context(command), name)
        assert command is not None, f"{page.name} shows `aladin {name}`"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
        shown = {argument.partition("=")[0] for argument in arguments if re.match(r"--?[a-zA-Z0]", argument)}
        assert shown <= known, f"{page.name} shows `aladin {name}` with {shown - known}"


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_python_name_that_is_shown_exists(page: Path) -> None:
    for name in re.findall(r"`(aladin(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        pkgutil.resolve_name(name)


def test_the_readme_shows_the_commands_that_are_used_most() -> None:
    shown = {arguments[0] for arguments in commands(ROOT / "README.md")}
    assert {"search", "index", "serve", "train", "export"} <= shown <= set(COMMANDS)


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_every_room_is_named(page: str) -> None:
    named = re.findall(r"^\| .*`\w+/`.*$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    rooms = {file.parent.name for file in (ROOT / "aladin").glob("*/__init__.py")}
    assert {room for row in named for room in re.findall(r"`(\w+)/`", row)} >= rooms


def test_the_floors_are_those_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(contract for contract in project["tool"]["importlinter"]["contracts"] if contract["type"] == "layers")[
        "layers"
    ]
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \|", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    floors: dict[str, set[str]] = {}
    for floor, rooms in rows:
        floors.setdefault(floor, set()).update(re.findall(r"`(\w+)/?`", rooms))
    assert list(floors.values()) == [set(layer.split(" | ")) for layer in layers]


def test_the_recipes_that_are_shown_can_be_read() -> None:
    from aladin.training.recipe import recipe_of  # loads torch

    shown = blocks(ROOT / "docs" / "training.md", "toml")
    assert shown
    for block in shown:
        assert recipe_of(tomllib.loads(block), "docs/training.md").teacher
