"""Photographs decoded by processes of their own, so that what a hostile file breaks is one process and not the run.

A file that crashes its decoder, or takes longer or more memory than it may, is one file with a reason. The processes start
when the first file is to be decoded.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from aladin.errors import DataError
from aladin.pictures.fitting import Fitting
from aladin.pictures.limits import DecodingLimits
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Decoded, Photograph, Unreadable, further_content
from aladin.processes import Child, Children, Ended, Limits, Message, NotStarted, TooSlow

BATCHES_AHEAD = 2  # decoded while one is encoded
FILES_PER_PROCESS = 2000  # then a fresh one takes over, so that no library's leak grows
WORKER = "from aladin.pictures.decoding_worker import main; main()"


class Decoders:
    """Decoding processes, each served by a thread of this one. Use `with`, or `close`."""

    def __init__(self, limits: DecodingLimits, follow_symlinks: bool = False, frames: int = 1) -> None:
        """`frames`: at most so many pictures of a file that holds several."""
        self._limits = limits
        self._follow = follow_symlinks
        self._frames = frames
        self.children = Children(self._new, limits.workers, "decode")

    def submit(self, root: Path, file: FileState, fitting: Fitting) -> "Future[Decoded | Unreadable]":
        """The file's image at `size` x `size` with its facts, or why there is none."""
        return self.children.threads.submit(self._read, root, file, fitting)

    def batches(
        self, root: Path, files: Iterable[FileState], fitting: Fitting, count: int
    ) -> Iterator[list[Decoded | Unreadable]]:
        """The pictures of the files, `count` at once; the next ones are decoded while their caller works on these.

        Of a file with several the first comes last, so that the file counts as read once that one is stored.
        """
        batch: list[Decoded | Unreadable] = []
        for item in self._in_order(root, files, fitting, count):
            for picture in (*item.further, item) if isinstance(item, Decoded) else (item,):
                batch.append(picture)
                if len(batch) == count:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def close(self) -> None:
        self.children.kill()

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _in_order(self, root: Path, files: Iterable[FileState], fitting: Fitting, count: int) -> Iterator[Decoded | Unreadable]:
        # Many pictures of each file wait in memory, so of fewer files.
        ahead = count * (1 + BATCHES_AHEAD if self._frames == 1 else 1)
        waiting: deque[Future[Decoded | Unreadable]] = deque()
        for file in files:
            waiting.append(self.submit(root, file, fitting))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _new(self) -> Child:
        limits = Limits(self._limits.seconds, self._limits.memory_mb, FILES_PER_PROCESS)
        return Child(WORKER, limits, [str(limits.memory_mb)])

    def _read(self, root: Path, file: FileState, fitting: Fitting) -> Decoded | Unreadable:
        request = {
            "path": os.fspath(root / file.path),
            "fitting": asdict(fitting),
            "follow": self._follow,
            "frames": self._frames,
        }
        return outcome(file, fitting.size, *self._decoded(self.children.own(), request))

    def _decoded(self, child: Child, request: dict[str, Any]) -> Message:
        """Facts and pixels, or a reason. A file at which a used process fails is tried once more by a fresh one, since what an
        earlier file left behind may have been the cause.
        """
        used = child.is_used
        facts, pixels = self._asked(child, request)
        if used and facts.get("failure") in ("crash", "memory"):
            child.end()
            facts, pixels = self._asked(child, request)
        if request["frames"] > 1 and facts.get("failure") in ("crash", "memory", "time"):
            return self._decoded(child, request | {"frames": 1})  # its further pictures were too much
        return facts, pixels

    def _asked(self, child: Child, request: dict[str, Any]) -> Message:
        try:
            return child.ask(request)
        except TooSlow:
            return {"failure": "time", "reason": f"takes longer than {self._limits.seconds:g} s to decode"}, b""
        except Ended as ended:
            return {"failure": "crash", "reason": f"crashes its decoder ({ended})"}, b""
        except NotStarted as error:  # else every file would pass for a broken one
            raise DataError(f"no process can be started to decode pictures ({error}); install aladin again") from None


def outcome(file: FileState, size: int, facts: dict[str, Any], pixels: bytes) -> Decoded | Unreadable:
    """What a decoding process said of a file, as a value."""
    if "reason" in facts:
        # A time that no file has makes the next run try again: mended permissions leave no trace in the file's own.
        kept = replace(file, mtime_ns=-1) if facts["failure"] == "refused" else file
        return Unreadable(kept, facts["reason"], facts["failure"] == "vanished")
    photograph = Photograph(
        file, bytes.fromhex(facts["sha256"]), facts["width"], facts["height"], facts["taken"], facts["metadata"]
    )
    first, *others = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, size, size, 3)
    further = [
        Decoded(
            replace(
                photograph,
                file=replace(file, frame=picture["frame"]),
                sha256=further_content(photograph.sha256, picture["frame"]),
                width=picture["width"],
                height=picture["height"],
            ),
            values,
        )
        for picture, values in zip(facts["further"], others, strict=True)
    ]
    return Decoded(photograph, first, tuple(further))
