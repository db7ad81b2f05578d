"""`aladin caption`: Find the sentences of a file that describe an image."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aladin.cli.folder import MODEL, QUIET
from aladin.cli.progress import progress_shown
from aladin.cli.query import box as box_type
from aladin.cli.results import in_words, json_line, write_bytes
from aladin.cli.terminal import print_line
from aladin.cli.values import PATH, PATH_OR_STDIN
from aladin.pictures.boxes import Box

if TYPE_CHECKING:
    from aladin.search.captions import CaptionHit


@click.command
@click.argument("image", type=PATH)
@click.option("--from", "source", required=True, type=PATH_OR_STDIN, help="A file in UTF-8 with one text a line; -: stdin.")
@click.option("-n", "--top", default=10, show_default=True, type=click.IntRange(1), help="How many texts.")
@click.option("--rerank", default=100, show_default=True, type=click.IntRange(0), help="How many to align; 0: none.")
@click.option("--box", type=box_type, metavar="X,Y,W,H", help="Of the image only this part, in px.")
@click.option("--why", is_flag=True, help="For each text, which region each word chose and what it added to the score.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@MODEL
@QUIET
def caption(
    image: Path,
    source: Path,
    top: int,
    rerank: int,
    box: Box | None,
    why: bool,
    as_json: bool,
    model: Path | None,
    quiet: bool,
) -> None:
    """Find the texts that describe IMAGE best, among the lines of a file: captions, or the names of things.

    The first time all texts are encoded, at some 200 a second; the result is kept in the folder .aladin beside the file.

    \b
    aladin caption holiday.jpg --from captions.txt
    """
    from aladin.encoder.encoder import Encoder
    from aladin.encoder.folder import shipped_model
    from aladin.search.captions import captions_of, rank_captions, read_captions
    from aladin.search.query import ImagePart
    from aladin.search.search import SearchConfig
    from aladin.search.search import as_json as plain

    encoder = Encoder.load(model or shipped_model())
    with progress_shown("reading texts", quiet) as progress:
        if str(source) == "-":
            captions = captions_of(sys.stdin.buffer.read(), "stdin", encoder, progress)
        else:
            captions = read_captions(source, encoder, progress)
    hits = rank_captions(ImagePart(image, box=box), captions, encoder, SearchConfig(top, rerank, why=why))
    if as_json:
        write_bytes(json_line({"image": str(image), "texts": len(captions.texts), "hits": plain(hits)}, indent=2))
    else:
        _print(hits)


def _print(hits: "list[CaptionHit]") -> None:
    """Score, tab, text; with explanations a second line for each."""
    for hit in hits:
        print_line(f"{hit.score:.4f}", hit.text)
        if hit.explanation is not None:
            print_line("", in_words(hit.explanation))
