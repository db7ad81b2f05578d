"""`aladin explain`: Tell why an image answers a sentence: each word's region and share."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aladin.cli.folder import MODEL
from aladin.cli.query import PARTS, QueryOptions
from aladin.cli.results import json_line, write_bytes
from aladin.cli.terminal import print_line, printable
from aladin.cli.values import PATH, with_options
from aladin.errors import DataError

if TYPE_CHECKING:
    from aladin.search.explain import Explanation


def _png(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() != ".png":
        raise click.BadParameter(f"{path} does not end in .png, and a PNG is what is written; name it so", ctx, param)
    return path


@click.command
@click.argument("image", type=PATH)
@click.argument("text", required=False)
@with_options(PARTS)
@click.option("--frame", default=0, type=click.IntRange(0), help="Which picture of a file with several, from 0.")
@click.option("--png", type=PATH, callback=_png, help="Draw it into this file; the table is then for terminals only.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON object.")
@MODEL
def explain(
    image: Path, text: str | None, frame: int, png: Path | None, as_json: bool, model: Path | None, **options: Any
) -> None:
    """Tell why IMAGE has the score that a search for TEXT gives it.

    Each word has chosen the region of the image that agrees with it most; what the words add, and what the picture adds as a
    whole, makes up the score. Boxes are x,y,width,height in pixels of the upright picture. The image need not be in any
    collection.

    \b
    aladin explain ~/Pictures/holiday.jpg "two dogs run through snow" --png why.png
    """
    from aladin.encoder.encoder import Encoder
    from aladin.encoder.folder import shipped_model
    from aladin.search.encoding import encode_query
    from aladin.search.explain import explain_file
    from aladin.search.image_files import picture_at

    if not frame:
        image, frame = picture_at(image)
    query = QueryOptions(**options).query(text=text)
    encoder = Encoder.load(model or shipped_model())
    encoded = encode_query(query, encoder)
    explanation = explain_file(encoded, image, encoder, frame)
    if encoded.truncated:
        print_line("aladin: the query is longer than the model reads; its end was left out", err=True)
    if png is not None:
        _draw(image, frame, explanation, str(query), png)
    if as_json:
        _print_json(image, frame, str(query), explanation)
    elif sys.stdout.isatty() or png is None:
        _print_table(explanation)


def _draw(image: Path, frame: int, explanation: "Explanation", title: str, png: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    from aladin.files import check_replaceable
    from aladin.pictures.pixels import open_image
    from aladin.search.drawing import drawn
    from aladin.search.image_files import content_of_file

    check_replaceable(png, b"Software\0aladin explain")
    by = PngInfo()
    by.add_text("Software", "aladin explain")
    try:
        drawn(open_image(content_of_file(image), str(image), frame=frame), explanation, title).save(png, "PNG", pnginfo=by)
    except OSError as error:
        raise DataError(f"{png} cannot be written ({error.strerror or error}); give another --png") from None


def _print_json(image: Path, frame: int, query: str, explanation: "Explanation") -> None:
    from aladin.search.search import as_json

    write_bytes(json_line({"query": query, "path": str(image), "frame": frame} | as_json(explanation), indent=2))


def _print_table(explanation: "Explanation") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("part of the query", "word"):
        table.add_column(column, overflow="fold")
    for column in ("similarity", "adds", "box"):
        table.add_column(column, justify="right", no_wrap=True)
    for share in explanation.shares:
        word = share.word if share.word is not None else f"[{share.query_box}]"
        numbers = (f"{share.similarity:.3f}", f"{share.contribution:+.4f}", str(share.box))
        table.add_row(Text(printable(share.part)), Text(printable(word)), *numbers)
    if explanation.whole:
        table.add_row("", "the picture as a whole", "", f"{explanation.whole:+.4f}", "")
    table.add_row("", "", "score", f"{explanation.score:.4f}", "")
    Console(width=None if sys.stdout.isatty() else 200).print(table)
