"""A file system that loses power: SQLite writes through a VFS of ours, which notes every write, sync, truncation and deletion.

From the notes up to any moment follows what may be on the disk if the power fails then: all that was synced; and of each file's
later writes any part, in any order, each whole, absent, or with some of its 512-byte sectors.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np

SECTOR = 512


@dataclass(frozen=True)
class Note:
    """One thing done to a file; `data` of a write, `offset` also as the size of a truncation."""

    kind: str  # write, truncate, sync, delete
    file: str
    offset: int = 0
    data: bytes = b""


class NotingStorage(apsw.VFS):
    """The operating system's own files, with notes."""

    def __init__(self, name: str) -> None:
        self.notes: list[Note] = []
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        return _File(self.notes, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.notes.append(Note("delete", Path(filename).name))
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, notes: list[Note], name: Any, flags: list[int]) -> None:
        self._notes = notes
        self._name = Path(name.filename()).name if isinstance(name, apsw.URIFilename) else Path(name or "temporary").name
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._notes.append(Note("write", self._name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._notes.append(Note("truncate", self._name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._notes.append(Note("sync", self._name))
        super().xSync(flags)


class NotingConnection(sqlite3.Connection):
    """What a collection uses of SQLite's connection, through the noting storage. No shared memory, so one connection only."""

    def __init__(self, path: Path, storage: NotingStorage) -> None:
        super().__init__(":memory:")
        self._apsw = apsw.Connection(os.fspath(path), vfs=storage.name)
        for setting in ("locking_mode = EXCLUSIVE", "synchronous = FULL", "foreign_keys = ON"):
            self._apsw.execute(f"PRAGMA {setting}")

    def execute(self, statement: str, values: Iterable[Any] = ()) -> Any:  # type: ignore[override]
        with _translated():
            return _Cursor(self._apsw, statement, values if isinstance(values, dict) else tuple(values))

    def executemany(self, statement: str, rows: Iterable[Any]) -> Any:
        with _translated():
            self._apsw.executemany(statement, rows)

    def create_function(self, name: str, narg: int, func: Any, *, deterministic: bool = False) -> None:
        self._apsw.create_scalar_function(name, func, narg, deterministic=deterministic)

    @property
    def in_transaction(self) -> bool:
        return self._apsw.in_transaction

    def commit(self) -> None:
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        super().close()
        self._apsw.close()


class _Cursor:
    def __init__(self, connection: apsw.Connection, statement: str, values: dict[str, Any] | tuple[Any, ...]) -> None:
        before = connection.total_changes()
        self._rows = connection.execute(statement, values).fetchall()
        self.rowcount = connection.total_changes() - before

    def fetchall(self) -> list[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)


class _translated:  # noqa: N801
    """Within it apsw's errors are sqlite3's, with the same code."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, apsw.Error):
            translated = sqlite3.OperationalError(str(error))
            ours = sqlite3.SQLITE_IOERR if isinstance(error, apsw.IOError) else 0
            translated.sqlite_errorcode = getattr(error, "extendedresult", 0) or ours
            raise translated from None


def after_power_loss(notes: list[Note], random: np.random.Generator) -> dict[str, bytes]:
    """The files as they may be found after the last of these notes: by chance which unsynced writes, and how much of each."""
    synced: dict[str, bytearray] = {}
    unsynced: dict[str, list[Note]] = {}
    for note in notes:
        if note.kind == "sync":
            content = synced.setdefault(note.file, bytearray())
            for pending in unsynced.pop(note.file, []):
                _apply(content, pending)
        elif note.kind == "delete":
            synced.pop(note.file, None)
            unsynced.pop(note.file, None)
        else:
            unsynced.setdefault(note.file, []).append(note)
    survival = random.choice([0.0, 0.3, 0.7, 1.0])
    for name, pending_notes in unsynced.items():
        for place in random.permutation(len(pending_notes)):
            content = synced.setdefault(name, bytearray())
            _apply_some(content, pending_notes[place], random, survival)
    return {name: bytes(content) for name, content in synced.items()}


def _apply(content: bytearray, note: Note) -> None:
    if note.kind == "truncate":
        del content[note.offset :]
        return
    if len(content) < note.offset:
        content.extend(bytes(note.offset - len(content)))
    content[note.offset : note.offset + len(note.data)] = note.data


def _apply_some(content: bytearray, note: Note, random: np.random.Generator, survival: float) -> None:
    if random.random() >= survival:
        return
    if note.kind == "truncate" or random.random() < 0.7:
        _apply(content, note)
        return
    for start in range(0, len(note.data), SECTOR):
        if random.random() < 0.5:
            _apply(content, Note("write", note.file, note.offset + start, note.data[start : start + SECTOR]))
