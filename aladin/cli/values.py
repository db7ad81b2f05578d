"""What arguments and options may be: a path that says something, a finite number, one form of output of several."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


class _NamedPath(click.Path):
    """No empty one: Path("") is the folder that the user happens to be in, and a shell's unset variable is empty."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail(
                "the path is empty, as from a variable that is not set; write . for the folder that you are in", param, ctx
            )
        return super().convert(value, param, ctx)


class _ModelPath(_NamedPath):
    """A model folder, or the name of one that `aladin model add` added."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from aladin.encoder.registry import model_at  # only where a model is given

        return model_at(super().convert(value, param, ctx))


class FiniteRange(click.FloatRange):
    """A range of numbers that holds neither NaN, which no comparison finds, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def memory_size(text: str) -> int:
    """Bytes from text such as 64M or 2G; a bare number is megabytes."""
    found = re.fullmatch(r"([1-9][0-9]{0,9})([KMG]?)B?", text.upper())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write it as 256M or 2G")
    return int(found[1]) * UNITS[found[2] or "M"]


def device_name(text: str) -> str:
    """The name of a device, which may be there or not."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise click.BadParameter(f"{text!r} is no device; write auto, cpu, cuda, cuda:0 (or another number) or mps")
    return text


UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
PATH = _NamedPath(path_type=Path)
MODEL_PATH = _ModelPath(path_type=Path)
PATH_AS_TYPED = _NamedPath()
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
# Of a command that computes with PyTorch.
DEVICE = click.option(
    "--device",
    type=device_name,
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda|cuda:N|mps",
    help="What computes; auto takes a GPU if there is one.",
)
PATH_OR_STDIN = _NamedPath(path_type=Path, allow_dash=True)


def form_option(*names: str, form: str, line: str) -> Callable[[Command], Command]:
    """An option that chooses a form of output: the command's argument `form` is that of the one given, or None.

    UsageError where two are given: the last one would win, and nobody would know.
    """

    def choose(ctx: click.Context, param: click.Parameter, given: bool) -> None:
        before = ctx.params.setdefault("form", None)
        if given and before is not None:
            raise click.UsageError(f"{names[0]} is a second form of output beside --{before}; give one", ctx)
        if given:
            ctx.params["form"] = form

    return click.option(*names, is_flag=True, expose_value=False, callback=choose, help=line)


def with_options(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """A decorator that gives a command all of `options`."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
