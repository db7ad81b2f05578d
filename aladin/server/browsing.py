"""A collection as it is leafed through: the newest first, by folder and date."""

import os
from dataclasses import dataclass

from aladin.collection import Collection, ImageRow
from aladin.filters import COLUMNS, Condition

DATE = COLUMNS["date"]
FOLDERS_SHOWN = 500


@dataclass(frozen=True)
class Facets:
    """What filters can be set to."""

    folders: tuple[tuple[str, int], ...]  # of the images directly in it, by name; '' is the collection's own
    first_date: str | None  # as 2026-05-01
    last_date: str | None


@dataclass(frozen=True)
class Page:
    """Some images, and where the next ones begin; None at the end."""

    rows: tuple[ImageRow, ...]
    next: tuple[str, int] | None


class BrowsedCollection(Collection):
    """A collection opened for reading and leafing."""

    def facets(self) -> Facets:
        folder = COLUMNS["folder"]
        found = self.select(
            f"SELECT {folder} AS name, count(*) FROM images WHERE status = 'ok' "
            f"GROUP BY name ORDER BY name LIMIT {FOLDERS_SHOWN}"
        )
        dates = self.select(f"SELECT min(d), max(d) FROM (SELECT substr({DATE}, 1, 10) AS d FROM images WHERE status = 'ok')")
        return Facets(tuple((shown(str(name)), count) for name, count in found), *dates[0])

    def page(self, after: tuple[str, int] | None, count: int, condition: Condition | None) -> Page:
        """The next `count` images by date, the newest first, after the one with that date and id."""
        where, values = (f"({condition.sql})", condition.values) if condition else ("1", ())
        date, number = after or ("\U0010ffff", 0)
        numbers = self.select(
            f"SELECT id, coalesce({DATE}, '') AS d FROM images WHERE status = 'ok' AND {where} AND (d, -id) < (?, ?) "
            "ORDER BY d DESC, id LIMIT ?",
            (*values, date, -number, count + 1),
        )
        more = len(numbers) > count
        last = (str(numbers[count - 1][1]), int(numbers[count - 1][0])) if more else None
        return Page(tuple(self.images_of([found for found, _ in numbers[:count]])), last)


def shown(path: str) -> str:
    """A path as text that every program takes: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def version(row: ImageRow) -> str:
    """What changes when the image's content does."""
    return row.sha256.hex()[:16] if row.sha256 else "0"
