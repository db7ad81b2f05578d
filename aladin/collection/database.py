"""SQLite under a collection: how its file is opened, and its failures as sentences."""

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from aladin.collection.schema import seal
from aladin.errors import AladinError, ConfigError, DataError

FULL_BYTES = 1 << 16  # a disk with less room is full
# SQLite's complaint may cite a damaged definition, and Python then fails to decode the complaint.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
Values = Sequence[Any] | Mapping[str, Any]


class Database:
    """One connection to a collection's file. Its failures are sentences about the file; nobody above this room speaks SQL."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection

    def rows(self, statement: str, values: Values = ()) -> list[Any]:
        """What a query finds."""
        with failures_named(self.path):
            return self.connection.execute(statement, values).fetchall()

    def execute(self, statement: str, values: Values = ()) -> int:
        """Run a statement; how many rows it changed."""
        with failures_named(self.path):
            return self.connection.execute(statement, values).rowcount

    def setting(self, key: str) -> Any:
        """The value of a setting; None when it was never set."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return found[0][0] if found else None

    def set(self, key: str, value: object) -> None:
        """Keep the value of a setting, within a transaction."""
        self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes made within it, or none; they are on the disk when it ends, and the generation is one higher."""
        self.execute("BEGIN IMMEDIATE")
        try:
            self.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
            yield
            self.set("seal", seal(self.rows))
            self.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # a full disk has already ended it
                self.connection.rollback()
            raise

    def close(self) -> None:
        self.connection.close()


def connect(path: Path, mode: Literal["ro", "rwc"], extra: str = "") -> sqlite3.Connection:
    """SQLite's connection to the file at `path`, with transactions only where they are begun by name."""
    uri = f"{path.resolve().as_uri()}?mode={mode}{extra}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)


def reading_connection(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, also to a file that cannot be written; DataError where it is something else."""
    connection = connect(path, "ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        return connection
    except sqlite3.OperationalError as error:
        connection.close()
        if os.access(path.parent, os.W_OK) or not os.access(path, os.R_OK):
            raise DataError(f"{path} cannot be opened: {error}; check that you may read it") from None
    except UNREADABLE as error:
        connection.close()
        remedy = "give another --collection, or if it was one, run `aladin repair` on its folder"
        raise DataError(f"{path} is not a collection of aladin ({error}); {remedy}") from None
    # SQLite shares its log through files beside the database, which it cannot make here. Without a log none are needed.
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise DataError(f"{path} was not closed by its writer and its folder cannot be written; open it once where it can")
    return connect(path, "ro", "&immutable=1")


def writing_connection(path: Path) -> sqlite3.Connection:
    """A connection whose committed rows survive a power cut; DataError where the file is none or cannot be written."""
    connection = None
    try:
        connection = connect(path, "rwc")
        connection.execute("PRAGMA synchronous = FULL")  # a committed row survives a power cut, not only a crash
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
        return connection
    except UNREADABLE as error:
        if connection is not None:
            connection.close()
        other = not isinstance(error, sqlite3.OperationalError)
        kind = "is not a collection of aladin" if other else "cannot be written"
        repair = ", or if it was one, run `aladin repair` on its folder" if other else ""
        raise DataError(f"{path} {kind} ({error}); name another place with --collection{repair}") from None


@contextmanager
def any_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Within it text that is no longer UTF-8 is read all the same, so that it can be held against its checksum."""
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        connection.text_factory = str


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Within it SQLite's errors become sentences about the collection at `path`."""
    try:
        yield
    except UNREADABLE as error:
        # Our function row_checksum raises nothing of its own, so it was interrupted, of which SQLite says no more than this.
        if "user-defined function raised exception" in str(error):
            raise KeyboardInterrupt from None
        raise _store_error(path, error) from None


def _store_error(path: Path, error: Exception) -> AladinError:
    if "parser stack overflow" in str(error) or "Expression tree is too large" in str(error):
        return ConfigError("the condition has more operations inside each other than SQLite can hold; write it with fewer")
    advice = {
        sqlite3.SQLITE_FULL: "make room on the disk and run the command again, it goes on where it stopped",
        sqlite3.SQLITE_IOERR: "check the disk",
        sqlite3.SQLITE_BUSY: "another program holds it, try again",
    }
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_IOERR and shutil.disk_usage(path.parent).free < FULL_BYTES:
        code = sqlite3.SQLITE_FULL  # the shared memory of a log cannot say so
    known = advice.get(code, "run `aladin repair FOLDER`, which saves what can be read")
    return DataError(f"{path} cannot be used: {error}; {known}")
