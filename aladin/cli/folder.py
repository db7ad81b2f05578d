"""What the commands on a folder and its collection share: their options, and bringing the collection up to date."""

import shlex
from pathlib import Path

import click

from aladin.cli.progress import progress_shown
from aladin.cli.terminal import printable
from aladin.cli.values import MODEL_PATH, PATH
from aladin.collection.indexing import IndexReport, index_folder
from aladin.collection.settings import IndexConfig
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import DataError
from aladin.pictures.listing import EXTENSIONS, FileState, list_images

FOLDER = click.argument("folder", type=PATH)
PLACE = click.option("--collection", type=PATH, help="The collection's file.  [default: FOLDER/.aladin/collection.sqlite]")
MODEL = click.option(
    "--model", type=MODEL_PATH, help="Model folder, or the name of an added model.  [default: the one that comes with aladin]"
)
QUIET = click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors.")


def brought_up_to_date(
    folder: Path, file: Path, encoder: Encoder, quiet: bool, config: IndexConfig | None = None, rebuild: bool = False
) -> IndexReport:
    """Read what is new in the folder into the collection at `file`, made when there is none and there are images."""
    config = config or IndexConfig()
    if not file.is_file():
        check_folder(folder)
        if not holds_images(folder, config):
            kinds = ", ".join(sorted(EXTENSIONS))
            raise DataError(f"there are no images in {folder}; expected files ending in {kinds}, outside hidden folders")
    with CollectionWriter.create(file, folder) as collection, progress_shown("indexing", quiet) as progress:
        if rebuild:
            collection.rebuild(encoder.model)
        return index_folder(collection, encoder, config, progress)


def holds_images(folder: Path, config: IndexConfig) -> bool:
    """Whether some file below the folder is named like an image."""
    return any(isinstance(found, FileState) for found in list_images(folder, config.follow_symlinks))


def check_folder(folder: Path) -> None:
    """DataError unless there is such a folder."""
    if folder.is_dir():
        return
    found = "is a file" if folder.exists() else "does not exist"
    raise DataError(f"{folder} {found}; expected a folder of images")


def existing(folder: Path, collection: Path | None) -> Path:
    """Where the folder's collection is; DataError when there is none."""
    file = collection or default_file(folder)
    if not file.is_file():
        named = "" if collection is None else f" --collection {shlex.quote(printable(str(collection)))}"
        command = f"aladin index {shlex.quote(printable(str(folder)))}{named}"
        raise DataError(f"there is no collection at {file}; make one with `{command}`")
    return file
