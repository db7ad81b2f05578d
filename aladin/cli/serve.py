"""`aladin serve`: Search a folder in the browser, or by an HTTP API."""

import logging
import sys
from pathlib import Path

import click

from aladin.cli.folder import FOLDER, MODEL, PLACE, QUIET, check_folder
from aladin.cli.terminal import print_line, printable
from aladin.cli.values import PATH
from aladin.collection.opening import open_store
from aladin.collection.store import default_file
from aladin.encoder.folder import shipped_model


@click.command
@FOLDER
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on; others than this need a token.")
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--allow-host", "allowed_hosts", multiple=True, metavar="NAME", help="A further name that clients may use.")
@click.option("--tokens", type=PATH, help="File with lines such as `search TOKEN`; see also ALADIN_TOKENS.")
@click.option("--workers", default=0, type=click.IntRange(0, 256), help="Searches at once.  [default: one a core, at most 4]")
@click.option("--waiting", type=click.IntRange(0), help="Searches that wait for a worker.  [default: half as many]")
@click.option("--no-index", is_flag=True, help="Do not look for new and changed files.")
@click.option("--access-log", is_flag=True, help="A line on stderr for every request, never with what it asked for.")
@MODEL
@PLACE
@QUIET
def serve(
    folder: Path, host: str, port: int, allowed_hosts: tuple[str, ...], tokens: Path | None, workers: int, waiting: int | None,
    no_index: bool, access_log: bool, model: Path | None, collection: Path | None, quiet: bool,
) -> int:  # fmt: skip
    """Serve a page that searches FOLDER, and the API behind it.

    New and changed files are read in the background. Other machines need a token: a file of lines `search TOKEN`,
    `write TOKEN` or `admin TOKEN`, which only you may read.

    \b
    aladin serve ~/Pictures
    """
    from aladin.server.running import serve as run
    from aladin.server.settings import Limits, ServeConfig, Tokens

    check_folder(folder)
    file = collection or default_file(folder)
    if file.is_file():
        with open_store(file) as opened:
            opened.check_root(folder)
    limits = Limits(workers=workers, waiting=waiting)
    config = ServeConfig(
        folder=folder,
        file=file,
        model=model or shipped_model(),
        host=host,
        port=port,
        allowed_hosts=allowed_hosts,
        tokens=Tokens.read(tokens),
        index=not no_index,
        limits=limits,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)

    def started(address: str) -> None:
        if not quiet:
            print_line(f"aladin: serving {folder} at {address} (stop with Ctrl-C)", err=True)

    return run(config, started, access_log)


class LineFormatter(logging.Formatter):
    """Log records as logging has them, each line made printable: tracebacks name files."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))
