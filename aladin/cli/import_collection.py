"""`aladin import-collection`: Read what export-collection or clip-retrieval wrote."""

from pathlib import Path

import click

from aladin.cli.exit_codes import SKIPPED_SOME
from aladin.cli.folder import FOLDER, MODEL, PLACE, QUIET, check_folder
from aladin.cli.terminal import print_line
from aladin.cli.values import PATH, with_options
from aladin.collection import interchange
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.folder import ModelFolder, shipped_model


@click.command
@FOLDER
@click.argument("source", type=PATH)
@with_options((MODEL, PLACE, QUIET))
def import_collection(folder: Path, source: Path, model: Path | None, collection: Path | None, quiet: bool) -> int:
    """Read SOURCE, a folder in clip-retrieval's layout or a COCO captions JSON, into the collection of FOLDER.

    Vectors come in when this program wrote them with the same model; else paths and captions do, and `aladin index` encodes.
    Ends with 3 when captions were left out, since SOURCE does not list their images.
    """
    check_folder(folder)
    with CollectionWriter.create(collection or default_file(folder), folder) as opened:
        if source.is_dir():
            found = interchange.import_clip_retrieval(opened, source, ModelFolder.of_photographs(model or shipped_model()))
        else:
            found = interchange.import_coco(opened, source)
    if not quiet:
        counts = f"{found.encoded:,} images with vectors, {found.described:,} without, {found.outside:,} outside the folder"
        print_line(counts, err=True)
    if found.unknown:
        captions = "1 caption" if found.unknown == 1 else f"{found.unknown:,} captions"
        print_line(f"aladin: {captions} left out, of images that {source} does not list", err=True)
    return SKIPPED_SOME if found.unknown else 0
