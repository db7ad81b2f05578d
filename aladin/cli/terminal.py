"""The one door to the terminal: nothing that a name, a file or an argument contains moves the cursor or hides a line.

All that commands write for people passes here; JSON, NUL-ended paths and the values of the library stay as they are.
"""

import io
import unicodedata

import click

JOINER = "\u200d"  # holds many emoji together; a format character, but a harmless one


def printable(text: str) -> str:
    """The text on one line: control, direction and line-breaking characters and lone surrogates as escapes such as \\x1b.

    What is printable already stays as it is, so that it may pass here twice.
    """
    if text.isprintable():
        return text
    return "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _is_harmless(character: str) -> bool:
    category = unicodedata.category(character)
    return character == JOINER or not (category.startswith("C") or category in ("Zl", "Zp"))


def print_line(*columns: str, err: bool = False) -> None:
    """One line, its columns parted by tabs."""
    click.echo("\t".join(map(printable, columns)), err=err)


def print_lines(text: str, err: bool = False) -> None:
    """Text that may have several lines, each made printable by itself."""
    for line in text.split("\n"):
        print_line(line, err=err)


def print_usage_error(error: click.ClickException) -> None:
    """What click says of wrong usage, which may repeat an argument as it was given."""
    shown, message = io.StringIO(), error.format_message()
    error.show(shown)
    text = shown.getvalue().removesuffix("\n")
    if not _has_lines_of_its_own(error, message):
        text = text.removesuffix(message) + printable(message)
    print_lines(text, err=True)


def _has_lines_of_its_own(error: click.ClickException, message: str) -> bool:
    """Whether it is a list of choices or the help, in which no argument stands."""
    is_help = isinstance(error, click.UsageError) and error.ctx is not None and message == error.ctx.get_help()
    return is_help or isinstance(error, click.MissingParameter)
