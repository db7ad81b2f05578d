"""A collection's file made ready for its writer: a new one gets its tables, an older format becomes the present one, and a
collection outside its folder follows when that has moved.
"""

import json
import os
from pathlib import Path

from aladin.collection.database import Database, failures_named
from aladin.collection.formats import check_format, migrate
from aladin.collection.schema import SCHEMA_VERSION, create_tables, keep_checksums, seal
from aladin.pictures.long_paths import is_there

ROOT_SAMPLE = 200  # images looked for in a folder said to be the moved root


def prepare(database: Database, root: Path) -> None:
    """The tables of a new file, or those that are there in the present format; row checksums from here on; and the folder."""
    if database.rows("PRAGMA page_count") == [(0,)] or not database.rows("SELECT 1 FROM sqlite_master LIMIT 1"):
        _fill_new_file(database, root)
    version = check_format(database)
    if version == SCHEMA_VERSION:
        with failures_named(database.path):
            keep_checksums(database.connection)
    else:
        _bring_up_to_date(database, version)
    known = root_of(database)
    if known != root.resolve() and not known.exists() and _holds_images_of(database, root):
        with database.transaction():
            database.set("root", root_to_store(database.path, root))


def root_of(database: Database) -> Path:
    """The folder whose images these are."""
    return (database.path.parent / os.fsdecode(database.setting("root"))).resolve()


def root_to_store(path: Path, root: Path) -> bytes:
    """The way from the collection at `path` to a folder that contains it, else the folder's absolute path."""
    above, folder = path.parent.resolve(), root.resolve()
    return os.fsencode(os.path.relpath(folder, above) if above.is_relative_to(folder) else folder)


def _fill_new_file(database: Database, root: Path) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("BEGIN IMMEDIATE")
    create_tables(database.execute)
    database.set("schema_version", SCHEMA_VERSION)
    database.set("generation", 0)
    database.set("root", root_to_store(database.path, root))
    database.set("seal", seal(database.rows))
    database.execute("COMMIT")


def _bring_up_to_date(database: Database, version: int) -> None:
    """In one transaction: interrupted, the file is what it was. A damaged row stays one, so that `verify` goes on seeing it."""
    database.execute("PRAGMA foreign_keys = OFF")  # the table that others refer to is replaced
    with database.transaction():
        damaged = migrate(database, version)
        with failures_named(database.path):
            keep_checksums(database.connection)
        sound = "id NOT IN (SELECT value FROM json_each(?))"
        database.execute(f"UPDATE images SET generation = generation WHERE {sound}", (json.dumps(damaged),))
    database.execute("PRAGMA foreign_keys = ON")


def _holds_images_of(database: Database, root: Path) -> bool:
    """Whether that folder may be the one that these images were in: some known file is there, or none is known."""
    paths = database.rows("SELECT path FROM images ORDER BY id LIMIT ?", (ROOT_SAMPLE,))
    return not paths or any(is_there(root / os.fsdecode(path)) for (path,) in paths)
