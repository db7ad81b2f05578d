"""The images of a collection by date, some at a time: one walk along the index of dates, from wherever the last one ended."""

import json
import os
from dataclasses import dataclass

from aladin.collection.conditions import Condition
from aladin.collection.database import Database
from aladin.collection.sql_conditions import COLUMN_SQL, compiled
from aladin.collection.store import Facets, Order, Position, Span

LATE = "\U0010ffff"  # later than any date, and after a day later than all of that day
MOST = (1 << 63) - 1  # higher than any id
WALKED = 1000  # images looked at along the index for a condition
FOLDERS_SHOWN = 500


@dataclass(frozen=True)
class _Way:
    """One direction along the index, in SQL."""

    equal: str  # images of a position's date that come after it
    beyond: str  # images of dates that come after it
    end: str
    by: str


WAYS: dict[Order, _Way] = {
    "newest first": _Way("date = ? AND id > ?", "date < ?", "date >= ?", "date DESC, id"),
    "oldest first": _Way("date = ? AND id < ?", "date > ?", "date <= ?", "date, id DESC"),
}


def leaf(
    database: Database,
    after: Position | None,
    span: Span,
    condition: Condition | None,
    count: int,
    order: Order = "newest first",
) -> list[Position]:
    """The first `count` images after that one which can be found and meet the condition.

    The newest come first, and of equal dates the lower id; the oldest first is the same backwards.
    """
    first, last = span.first or "", f"{span.last or ''}{LATE}"
    if order == "newest first":
        start, end = min(after or (LATE, 0), (last, 0), key=lambda position: position[0]), first
    else:
        start, end = max(after or ("", MOST), (first, MOST), key=lambda position: position[0]), last
    if condition is None:
        return _walk(database, WAYS[order], start, end, count)
    # Most conditions are met by one of a few images. What is met by hardly any is sooner found by reading all rows in turn than
    # by looking them up one by one.
    near = _walk(database, WAYS[order], start, end, WALKED)
    found = _met(database, WAYS[order], near, condition, count)
    if len(found) < count and len(near) == WALKED:
        found += _scan(database, WAYS[order], near[-1], end, condition, count - len(found))
    return found


def _walk(database: Database, way: _Way, start: Position, end: str, count: int) -> list[Position]:
    # Those of the same date, and those beyond: each half is a range of the index in its order, however many dates are equal.
    found = "SELECT date, id FROM images WHERE status = 'ok' AND"
    return database.rows(
        f"{found} {way.equal} AND {way.end} UNION ALL {found} {way.beyond} AND {way.end} ORDER BY {way.by} LIMIT ?",
        (*start, end, start[0], end, count),
    )


def _met(database: Database, way: _Way, near: list[Position], condition: Condition, count: int) -> list[Position]:
    sql, values = compiled(condition)
    return database.rows(
        f"SELECT date, id FROM images WHERE id IN (SELECT value FROM json_each(?)) AND ({sql}) ORDER BY {way.by} LIMIT ?",
        (json.dumps([image_id for _, image_id in near]), *values, count),
    )


def _scan(database: Database, way: _Way, start: Position, end: str, condition: Condition, count: int) -> list[Position]:
    sql, values = compiled(condition)
    return database.rows(
        f"SELECT date, id FROM images WHERE +status = 'ok' AND ({way.equal} OR {way.beyond}) AND {way.end} AND ({sql}) "
        f"ORDER BY {way.by} LIMIT ?",
        (*start, start[0], end, *values, count),
    )


def facets(database: Database) -> Facets:
    """The folders that hold images that can be found, and the first and last day of these."""
    found = database.rows(
        f"SELECT CAST({COLUMN_SQL['folder']} AS BLOB) AS name, count(*) FROM images WHERE status = 'ok' "
        f"GROUP BY name ORDER BY name LIMIT {FOLDERS_SHOWN}"
    )
    dated = "SELECT substr(date, 1, 10) FROM images WHERE status = 'ok' AND date > '' ORDER BY date"
    first, last = database.rows(f"SELECT ({dated} LIMIT 1), ({dated} DESC LIMIT 1)")[0]
    return Facets(tuple((os.fsdecode(name), count) for name, count in found), first, last)
