"""The images of a collection by date, some at a time: one walk along the index of dates, from wherever the last one ended."""

import os

from aladin.collection.conditions import Condition
from aladin.collection.database import Database
from aladin.collection.sql_conditions import COLUMN_SQL, compiled
from aladin.collection.store import Facets, Order, Position, Span

LATE = "\U0010ffff"  # later than any date, and after a day later than all of that day
MOST = (1 << 63) - 1  # higher than any id
FOLDERS_SHOWN = 500


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
        (date, image_id), end = min(after or (LATE, 0), (last, 0), key=lambda position: position[0]), first
        equal, beyond, by = "id > ? AND date >= ?", "date < ? AND date >= ?", "date DESC, id"
    else:
        (date, image_id), end = max(after or ("", MOST), (first, MOST), key=lambda position: position[0]), last
        equal, beyond, by = "id < ? AND date <= ?", "date > ? AND date <= ?", "date, id DESC"
    sql, values = compiled(condition)
    meets = "" if condition is None else f" AND ({sql})"
    # Those of the same date, and those beyond: each half is a range of the index in its order, however many dates are equal.
    found = "SELECT date, id FROM images WHERE status = 'ok' AND"
    rows = database.rows(
        f"{found} date = ? AND {equal}{meets} UNION ALL {found} {beyond}{meets} ORDER BY {by} LIMIT ?",
        (date, image_id, end, *values, date, end, *values, count),
    )
    return [(str(date), int(image_id)) for date, image_id in rows]


def facets(database: Database) -> Facets:
    """The folders that hold images that can be found, and the first and last day of these."""
    found = database.rows(
        f"SELECT CAST({COLUMN_SQL['folder']} AS BLOB) AS name, count(*) FROM images WHERE status = 'ok' "
        f"GROUP BY name ORDER BY name LIMIT {FOLDERS_SHOWN}"
    )
    dated = "SELECT substr(date, 1, 10) FROM images WHERE status = 'ok' AND date > '' ORDER BY date"
    first, last = database.rows(f"SELECT ({dated} LIMIT 1), ({dated} DESC LIMIT 1)")[0]
    return Facets(tuple((os.fsdecode(name), count) for name, count in found), first, last)
