"""A collection as it is leafed through: the newest first, by folder and date."""

import os
from dataclasses import dataclass

from aladin.collection.filters import COLUMNS, Condition
from aladin.collection.store import Collection, ImageRow
from aladin.server.leafing import Position, Span, leaf

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
    next: Position | None


class BrowsedCollection(Collection):
    """A collection opened for reading and leafing."""

    def facets(self) -> Facets:
        folder = COLUMNS["folder"]
        found = self.select(
            f"SELECT {folder} AS name, count(*) FROM images WHERE status = 'ok' "
            f"GROUP BY name ORDER BY name LIMIT {FOLDERS_SHOWN}"
        )
        dated = "SELECT substr(date, 1, 10) FROM images WHERE status = 'ok' AND date > '' ORDER BY date"
        first, last = self.select(f"SELECT ({dated} LIMIT 1), ({dated} DESC LIMIT 1)")[0]
        return Facets(tuple((shown(str(name)), count) for name, count in found), first, last)

    def page(self, after: Position | None, count: int, span: Span, condition: Condition | None) -> Page:
        """The next `count` images by date, the newest first, after the one with that date and id."""
        found = leaf(self, after, span, condition, count + 1)
        shown_now = [image_id for _, image_id in found[:count]]
        return Page(tuple(self.images_of(shown_now)), found[count - 1] if len(found) > count else None)


def shown(path: str) -> str:
    """A path as text that every program takes: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def version(row: ImageRow) -> str:
    """What changes when the image's content does; each picture of a file has its own."""
    return row.sha256.hex()[:16] if row.sha256 else "0"
