"""The command `aladin`. A subcommand's module is imported only when it runs, so that `aladin --help` is instant."""

import errno
import importlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from aladin import __version__
from aladin.cli.terminal import print_line, print_usage_error
from aladin.errors import AladinError
from aladin.old_names import renamed_arguments

# What the extra `train` installs and the core does not.
TRAINING_PACKAGES = frozenset(
    ("torch", "safetensors", "tomli_w", "onnx", "onnxscript", "pyarrow", "tensorboard", "efficientnet_lite_pytorch")
)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)

FIRST = ("search", "similar", "explain", "serve")  # in `aladin --help`; the others follow by name


def _listed() -> dict[str, str]:
    """The line of each command in `aladin --help`, from the first line of the file that defines it.

    A command `do-it` is the function `do_it` of the file do_it.py here, which begins with "`aladin do-it`: What it does."
    """
    lines = dict.fromkeys(FIRST, "")
    for file in sorted(Path(__file__).parent.glob("*.py")):
        with file.open(encoding="utf-8") as text:
            found = re.fullmatch(r'"""`aladin ([a-z-]+)`: (.+?)(?:""")?\n', text.readline())
        if found and found[1].replace("-", "_") == file.stem:
            lines[found[1]] = found[2]
    return lines


COMMANDS = _listed()


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"aladin.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aladin")
def root() -> None:
    """Search images by a sentence: fast by one vector, precise by aligning words with regions.

    Results go to stdout, everything else to stderr. Exit codes: 0 done, also where --skip-bad left something out; 1 failed, or
    damage found; 2 wrong usage; 3 done but some files of the folder were skipped; 4 nothing found (search --fail-empty); 5 the
    collection is locked; 6 collection and model do not belong together; 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command and exit; a failure the user can mend is one sentence on stderr."""
    stops: list[int] = []
    try:
        with _stoppable(stops, ends_after=arguments is None):
            given = renamed_arguments(sys.argv[1:] if arguments is None else arguments)
            code = root.main(given, prog_name="aladin", standalone_mode=False)
            sys.stdout.flush()
    except AladinError as error:
        print_line(f"aladin: {error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            raise
        print_line(f"aladin: the package {error.name} is not installed; run pip install 'aladin[train]'", err=True)
        sys.exit(1)
    except click.ClickException as error:
        print_usage_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail again at the very end
        print_line(f"aladin: the output cannot be written ({error.strerror}); make room, or send it elsewhere", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        _print_stopped(stops)
    except Exception:
        if not stops:
            raise
        _print_stopped(stops)  # a library that was being loaded has made an error of its own of it
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _stoppable(stops: list[int], ends_after: bool) -> Iterator[None]:
    """Within it Ctrl-C and SIGTERM raise KeyboardInterrupt and are noted; a command may have ways of its own.

    Where the process `ends_after` it, they end that at once: its results are out, and an exception would be nobody's.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)
        raise KeyboardInterrupt

    ours = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, stop) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, _leave if ends_after else handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def _print_stopped(stops: list[int]) -> NoReturn:
    print_line("aladin: interrupted; what was done so far is kept", err=True)
    sys.exit(128 + (stops[0] if stops else signal.SIGINT))
