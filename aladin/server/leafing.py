"""The images of a collection by date, the newest first, some at a time.

An image's date is the camera's, else what the local clock showed when its file was changed. No index can hold the latter: it
depends on where it is read. So the two kinds are walked apart by indexes of `stored_format`, by the camera's date and by the
second of the change, and meet here. The local clock goes with the seconds but where it was set back.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aladin.collection.filters import COLUMNS, Condition
from aladin.collection.schema import SECOND_CHANGED, has_date_indexes
from aladin.collection.store import Collection

Place = tuple[str, int]  # the date and the number of an image
DATE = COLUMNS["date"]
LATE = "\U0010ffff"  # later than any date, and after a day later than all of that day
FAR = 1 << 62  # seconds, later than any
DAY = 86_400  # seconds: no clock was ever off by so much, or set twice within two


@dataclass(frozen=True)
class Span:
    """Images of the days from the first to the last, written as 2026-05-01, without an end where that is None."""

    first: str | None = None
    last: str | None = None


def leaf(collection: Collection, after: Place | None, span: Span, condition: Condition | None, count: int) -> list[Place]:
    """The first `count` images after that one which can be found and meet the condition: the newest first, equals by number."""
    place = min((after or (LATE, 0), (f"{span.last or ''}{LATE}", 0)), key=lambda place: place[0])
    if condition is None and has_date_indexes(collection.select):
        return _walked(collection, place, span.first or "", count)
    return _sorted(collection, place, span.first or "", condition or Condition("1", ()), count)


def _sorted(collection: Collection, place: Place, first: str, condition: Condition, count: int) -> list[Place]:
    """By looking at every image. A walk would look up those that a condition lets through rarely one by one."""
    date, number = place
    found = collection.select(
        f"SELECT coalesce({DATE}, '') AS d, id FROM images WHERE status = 'ok' AND ({condition.sql}) "
        "AND d >= ? AND (d, -id) < (?, ?) ORDER BY d DESC, id LIMIT ?",
        (*condition.values, first, date, -number, count),
    )
    return [(str(date), int(number)) for date, number in found]


def _walked(collection: Collection, place: Place, first: str, count: int) -> list[Place]:
    walk = _Walk(collection, place, first, count)
    found = sorted(walk.by_camera() | walk.by_file(), key=lambda found: found[1])
    return sorted(found, key=lambda found: found[0], reverse=True)[:count]


@dataclass(frozen=True)
class _Walk:
    """Each kind's first `count` images after a place, and perhaps more, in any order."""

    collection: Collection
    place: Place
    first: str  # no date before this
    count: int

    def by_camera(self) -> set[Place]:
        return {(date, number) for date, number, _ in self._steps("taken", "taken IS NOT NULL", self.place[0], self.first)}

    def by_file(self) -> set[Place]:
        kind = "taken IS NULL"
        start = _moment(f"{self.first}T00:00:00")
        oldest = self._seconds(start)[0] if start else -FAR
        rows = self._steps(SECOND_CHANGED, kind, self._latest(self.place[0]), oldest)
        found = {(date, number) for date, number, _ in rows}
        if len(rows) < self.count:
            return found
        # When the clock was set back, earlier seconds have later dates: all that may have one as late as the last of these.
        last = _moment(min(date for date, _, _ in rows))
        assert last is not None, "that is how SQLite writes it"
        earliest, reached = self._seconds(last)[0], rows[-1][2]
        if earliest < reached:
            bounds = f"{SECOND_CHANGED} BETWEEN ? AND ?"
            found |= {(row[0], row[1]) for row in self._select(SECOND_CHANGED, kind, bounds, (earliest, reached), "d DESC, id")}
        return found

    def _steps(self, key: str, kind: str, newest: str | int, oldest: str | int) -> list[Any]:
        """Date, number and key of the first by key, the highest first: the others of the place's key, then lower ones."""
        equal = self._select(key, kind, f"{key} = ? AND id > ?", (newest, self.place[1]), "id")
        lower = self._select(key, kind, f"{key} < ? AND {key} >= ?", (newest, oldest), f"{key} DESC, id")
        return (equal + lower)[: self.count]

    def _select(self, key: str, kind: str, bounds: str, ends: tuple[str | int, str | int], order: str) -> list[Any]:
        date, number = self.place
        return self.collection.select(
            f"SELECT {DATE} AS d, id, {key} FROM images WHERE status = 'ok' AND {kind} AND {bounds} "
            f"AND d >= ? AND (d, -id) < (?, ?) ORDER BY {order} LIMIT ?",
            (*ends, self.first, date, -number, self.count),
        )

    def _latest(self, date: str) -> int:
        """A second such that those after it have later dates, and it as well unless its date is this one."""
        moment = _moment(date)
        if moment is not None:
            return self._seconds(moment)[1]
        end = _moment(f"{date[:10]}T23:59:59")
        return self._seconds(end)[1] + 1 if end else FAR

    def _seconds(self, moment: datetime) -> tuple[int, int]:
        """Between which seconds all lie at which the local clock shows this; one and the same unless it was set that day."""
        shown = int(moment.replace(tzinfo=UTC).timestamp())
        ahead = "CAST(strftime('%s', value, 'unixepoch', 'localtime') AS INTEGER) - value"
        around = json.dumps([shown - DAY, shown + DAY])
        offsets = [row[0] for row in self.collection.select(f"SELECT coalesce({ahead}, 0) FROM json_each(?)", (around,))]
        return shown - max(offsets), shown - min(offsets)


def _moment(date: str) -> datetime | None:
    """The moment that a text names in the way in which a file's date is written; None for any other text."""
    try:
        moment = datetime.fromisoformat(date)
    except ValueError:
        return None
    return moment if moment.isoformat() == date else None
