"""`aladin export-collection`: Write a collection as npy and Parquet, or as COCO JSON."""

from functools import partial
from pathlib import Path

import click

from aladin.cli.folder import FOLDER, PLACE, QUIET, existing
from aladin.cli.terminal import print_line
from aladin.cli.values import PATH, with_options
from aladin.collection import interchange
from aladin.collection.sqlite import Collection


@click.command
@FOLDER
@click.argument("out", type=PATH)
@click.option("--coco", is_flag=True, help="A COCO captions JSON of paths, sizes and captions, instead of vectors.")
@click.option("--no-tokens", is_flag=True, help="Leave out the region tokens: 25 times smaller, but no backup.")
@with_options((PLACE, QUIET))
def export_collection(folder: Path, out: Path, coco: bool, no_tokens: bool, collection: Path | None, quiet: bool) -> None:
    """Write the collection of FOLDER to OUT, in clip-retrieval's layout: img_emb/*.npy and metadata/*.parquet.

    With the tokens, which it has beside these, it is a backup: `aladin import-collection` encodes nothing again.
    """
    with Collection.open(existing(folder, collection)) as opened:
        export = interchange.export_coco if coco else partial(interchange.export_clip_retrieval, with_tokens=not no_tokens)
        count = export(opened, out)
    if not quiet:
        print_line(f"{count:,} images written to {out}", err=True)
