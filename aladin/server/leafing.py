"""The images of a collection by date, some at a time: one walk along the index of dates, from wherever the last one ended."""

from dataclasses import dataclass
from typing import Literal

from aladin.collection.filters import Condition
from aladin.collection.store import Collection

Position = tuple[str, int]  # the date and the id of an image
Order = Literal["newest first", "oldest first"]
LATE = "\U0010ffff"  # later than any date, and after a day later than all of that day
MOST = (1 << 63) - 1  # higher than any id


@dataclass(frozen=True)
class Span:
    """Images of the days from the first to the last, written as 2026-05-01, without an end where that is None."""

    first: str | None = None
    last: str | None = None


def leaf(
    collection: Collection,
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
    meets, values = (f" AND ({condition.sql})", condition.values) if condition else ("", ())
    # Those of the same date, and those beyond: each half is a range of the index in its order, however many dates are equal.
    found = "SELECT date, id FROM images WHERE status = 'ok' AND"
    rows = collection.select(
        f"{found} date = ? AND {equal}{meets} UNION ALL {found} {beyond}{meets} ORDER BY {by} LIMIT ?",
        (date, image_id, end, *values, date, end, *values, count),
    )
    return [(str(date), int(image_id)) for date, image_id in rows]
