"""One writer a collection: a lock that the operating system releases when its holder ends, however it ends."""

import json
import os
import socket
import sys
import time
from datetime import datetime
from pathlib import Path

from aladin.errors import CollectionLocked, DataError, only_on_linux

try:
    import fcntl
except ImportError:  # Windows, on which this is said when it is needed, not when it is imported
    fcntl = None  # type: ignore[assignment]

PATIENCE = 0.2  # seconds, so that somebody who only asks who holds the lock holds nobody up


class WriterLock:
    """The lock of the collection at a path, held from construction to `release`.

    Its file stays where it is: deleting it would let two writers hold two files. It says who holds the lock, for the message
    only; a file left by a process that is gone holds nobody up.
    """

    def __init__(self, collection: Path) -> None:
        if fcntl is None:
            raise only_on_linux("writing a collection")
        path = _path_of(collection)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise DataError(f"{path} cannot be written ({error.strerror}); name another place with --collection") from None
        try:
            _take_patiently(descriptor)
            ours = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now().isoformat(timespec="seconds"),
                "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]),  # no more: the rest may be private
            }
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps(ours).encode())
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise CollectionLocked(f"{path.parent} is being written by {holder}; wait until that has ended") from None
        except OSError as error:
            os.close(descriptor)
            raise DataError(f"{path} cannot be locked ({error.strerror}); name a place on a local disk with room") from None
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let the next writer in. Nothing happens when that has been done already."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder_of(collection: Path) -> str | None:
    """Who is writing the collection at a path just now, in words; None when nobody is."""
    if fcntl is None:
        return None  # nobody can
    try:
        descriptor = os.open(_path_of(collection), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        _take(descriptor, shared=True)
        return None
    except BlockingIOError:
        return _holder(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _path_of(collection: Path) -> Path:
    return collection.with_name(collection.name + ".lock")


def _take_patiently(descriptor: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            _take(descriptor)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(PATIENCE / 10)


def _take(descriptor: int, shared: bool = False) -> None:
    """Lock the file until its descriptor is closed; BlockingIOError when somebody else has it. Who shares, only looks."""
    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _holder(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = json.loads(os.read(descriptor, 1000))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (ValueError, KeyError, TypeError):
        return "a process that has just started"
