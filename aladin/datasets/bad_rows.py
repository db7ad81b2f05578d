"""A row of a file that cannot be used: what is wrong with it, and whether that ends the reading or is counted."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from aladin.errors import DataError

# Scripts and reports count by these names, so they stay as they are.
Reason = Literal[
    "bad base64",
    "blank caption",
    "damaged shard",
    "damaged tar",
    "duplicate image",
    "geometry",
    "image in two splits",
    "image is missing",
    "image is repeated",
    "missing file",
    "missing image",
    "missing key",
    "no boxes",
    "no captions",
    "not CSV",
    "not JSON",
    "not UTF-8",
    "not a number",
    "one row for two images",
    "path leaves the folder",
    "unknown caption",
    "unknown image",
    "unknown image id",
    "unknown split",
    "wrong columns",
    "wrong number of columns",
    "wrong offset",
    "wrong rating",
    "wrong row",
    "wrong size",
    "wrong type",
]


class BadRow(Exception):
    """What is wrong with a row: what was found, what to do and perhaps what was expected; its reader says where it stands."""

    def __init__(self, reason: Reason, found: str, remedy: str, expected: str = "") -> None:
        super().__init__("; ".join([found, *([f"expected {expected}"] if expected else []), remedy]))
        self.reason: Reason = reason
        self.found, self.remedy, self.expected = found, remedy, expected


class BadRows:
    """What becomes of the bad rows of a file: the first ends the reading, or all are skipped and counted by reason."""

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self.counts: Counter[str] = Counter()

    @contextmanager
    def at(self, position: str) -> Iterator[None]:
        """Within it a BadRow becomes a DataError that begins with `position`, or a count."""
        try:
            yield
        except BadRow as bad:
            if not self._skip:
                raise DataError(f"{position}: {bad} or pass --skip-bad") from None
            self.counts[bad.reason] += 1
