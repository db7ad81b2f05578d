"""Leafing: pages cover what a plain sort of all images gives, whatever the local clock does, with the indexes and without."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aladin.collection.filters import parsed
from aladin.collection.schema import DATE_INDEXES, create_tables, has_date_indexes
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.folder import ModelFolder
from aladin.server.browsing import BrowsedCollection
from aladin.server.leafing import Place, Span, leaf
from tests.conftest import fill, stored

# In words that the C library knows without a list of zones; clocks go back at 3:00, at midnight, by half an hour, and never.
ZONES = ("CET-1CEST,M3.5.0,M10.5.0/3", "<-03>3<-02>,M10.3.0/0,M2.3.0/0", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", "UTC0")
MOMENTS = (1_729_990_800, 1_708_221_600, 1_712_415_600, 1_711_846_800, 86_400, 4_102_444_800)  # at most a clock is set
ODD_DATES = ("2024", "20241027", "2024-10-27Z", "2024-10-27T02:00:00.5", "2024-10-27 02:30:00", "9999-12-31T23:59:59", "ä")


@dataclass(frozen=True)
class Image:
    taken: str | None
    second: int
    status: str = "ok"


@dataclass(frozen=True)
class Scene:
    """Images whose dates lie around one moment, and what is asked of them."""

    zone: str
    images: list[Image]
    after: Place
    span: Span


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    moment = draw(st.sampled_from(MOMENTS))
    away = st.builds(lambda steps, more: steps * 1800 + more, st.integers(-48, 48) | st.integers(-4, 4), st.integers(-1, 1))
    seconds = away.map(lambda second: moment + second)
    dates = seconds.map(lambda second: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
    days = st.none() | dates.map(lambda date: date[:10])
    image = st.builds(Image, st.none() | dates | st.sampled_from(ODD_DATES), seconds, st.sampled_from(["ok", "ok", "offline"]))
    after = st.tuples(dates | st.sampled_from(["", *ODD_DATES, "\U0010ffff"]), st.integers(0, 25))
    span = st.just(Span()) | st.builds(Span, days, days)
    return Scene(draw(st.sampled_from(ZONES)), draw(st.lists(image, max_size=25)), draw(after), draw(span))


@contextmanager
def local_clock(zone: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ")
        os.environ |= {} if before is None else {"TZ": before}
        time.tzset()


@contextmanager
def collection_of(images: list[Image], indexed: bool) -> Iterator[BrowsedCollection]:
    """Images with the numbers 1, 2 and so on."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection.execute)
        if not indexed:
            drop_indexes(connection)
        connection.executemany(
            "INSERT INTO images (path, size, mtime_ns, taken, status, generation) VALUES (CAST(? AS BLOB), 1, ?, ?, ?, 1)",
            [(str(n), image.second * 10**9 + n % 7, image.taken, image.status) for n, image in enumerate(images)],
        )
        yield BrowsedCollection(Path("memory"), connection)


def drop_indexes(connection: sqlite3.Connection) -> None:
    for name in DATE_INDEXES:
        connection.execute(f"DROP INDEX {name}")


def by_date(images: list[Image], span: Span) -> list[Place]:
    """The slow and obvious way: the numbers and dates of all images of these days, the newest first, equals by number."""
    dates = [image.taken or time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(image.second)) for image in images]
    found = [
        (date, number)
        for number, (date, image) in enumerate(zip(dates, images, strict=True), 1)
        if image.status == "ok" and (span.first or "") <= date and (span.last is None or date[:10] <= span.last)
    ]
    return sorted(found, key=lambda place: place[0], reverse=True)


@settings(max_examples=100)
@given(scene=scenes(), limit=st.integers(1, 9), indexed=st.booleans())
def test_pages_are_a_plain_sort_by_date_cut_in_pieces(scene: Scene, limit: int, indexed: bool) -> None:
    with local_clock(scene.zone), collection_of(scene.images, indexed) as collection:
        found: list[Place] = []
        while page := leaf(collection, found[-1] if found else None, scene.span, None, limit):
            found += page
        assert found == by_date(scene.images, scene.span)


@settings(max_examples=100)
@given(scene=scenes(), limit=st.integers(1, 9), indexed=st.booleans())
def test_a_page_begins_after_any_place(scene: Scene, limit: int, indexed: bool) -> None:
    date, number = scene.after
    with local_clock(scene.zone), collection_of(scene.images, indexed) as collection:
        after = [
            place for place in by_date(scene.images, scene.span) if place[0] < date or (place[0] == date and place[1] > number)
        ]
        assert leaf(collection, scene.after, scene.span, None, limit) == after[:limit]


# The night in which clocks went back from 3:00 to 2:00: the later 2:30, the earlier one, the later 2:00, the earlier one.
NIGHT = [Image(None, MOMENTS[0] + seconds) for seconds in (1800, -1800, 0, -3600)]
MIDNIGHT = [Image(None, MOMENTS[0] - 3 * 3600 + seconds) for seconds in (-1, 0, 1)]
SUMMER = [Image(None, 1_720_043_999 + seconds) for seconds in (0, 1)]  # the same, when no clock is set


@pytest.mark.parametrize(
    ("images", "after", "span", "expected"),
    [
        (NIGHT, None, Span(), [1, 2, 3, 4]),
        (NIGHT[::-1], ("2024-10-27T02:30:00", 3), Span(), [4, 1, 2]),
        (NIGHT, ("2024-10-27T02:00:00.5", 99), Span(), [3, 4]),
        (MIDNIGHT, None, Span(first="2024-10-27"), [3, 2]),
        (MIDNIGHT, None, Span(last="2024-10-26"), [1]),
        (SUMMER, None, Span(last="2024-07-03"), [1]),
        (SUMMER, ("2024-07-03Z", 9), Span(), [1]),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_the_hour_that_comes_twice_is_in_order(
    images: list[Image], after: Place | None, span: Span, expected: list[int], limit: int
) -> None:
    with local_clock(ZONES[0]), collection_of(images, indexed=True) as collection:
        assert [number for _, number in leaf(collection, after, span, None, limit)] == expected[:limit]


@settings(max_examples=30)
@given(scene=scenes(), limit=st.integers(1, 9))
def test_a_condition_leaves_the_order_as_it_is(scene: Scene, limit: int) -> None:
    with local_clock(scene.zone), collection_of(scene.images, indexed=True) as collection:
        expected = [place for place in by_date(scene.images, scene.span) if place[1] % 2]
        assert leaf(collection, None, scene.span, parsed("id % 2 = 1"), limit) == expected[:limit]


@pytest.mark.parametrize("span", [Span(), Span("2010-01-01", "2011-12-31")])
@pytest.mark.parametrize("after", [None, ("2011-05-01T12:00:00", 3)])
def test_the_database_walks_the_indexes_and_sorts_nothing(span: Span, after: Place | None) -> None:
    images = [Image(None if n % 2 else f"2010-01-01T00:00:{n:02}", 1_290_000_000 + n * 10**6) for n in range(60)]
    statements: list[str] = []
    with local_clock("UTC0"), collection_of(images, indexed=True) as collection:
        connection = collection._connection
        connection.set_trace_callback(statements.append)
        assert len(leaf(collection, after, span, None, 9)) == 9
        connection.set_trace_callback(None)
        walks = [statement for statement in statements if "FROM images" in statement]
        assert len(walks) == 4, "equal and lower ones, by camera and by file"
        for plan in (connection.execute(f"EXPLAIN QUERY PLAN {walk}").fetchall() for walk in walks):
            assert len(plan) == 1
            assert str(plan[0][3]).startswith("SEARCH images USING INDEX images_by_")


def test_a_collection_without_the_indexes_is_leafed_through_as_it_is_and_gets_them_by_its_next_writer(
    tmp_path: Path, model_path: Path
) -> None:
    place, model = tmp_path / "c.sqlite", ModelFolder.open(model_path)
    with CollectionWriter.create(place, tmp_path) as writer:
        fill(writer, model, 20)
        with writer.transaction():
            drop_indexes(writer._connection)
            writer._update("taken = '2024-05-01T12:00:00'", "id % 3 = 0")
    before = place.read_bytes()
    with BrowsedCollection.open(place) as collection:
        assert not has_date_indexes(collection.select)
        rows, pages = stored(collection), leaf(collection, None, Span(), None, 30)
        assert verify(place).whole
    assert place.read_bytes() == before
    with CollectionWriter.create(place, tmp_path) as writer:
        writer.compact()
    with BrowsedCollection.open(place) as collection:
        assert has_date_indexes(collection.select)
        assert stored(collection) == rows
        assert leaf(collection, None, Span(), None, 30) == pages
        assert len(pages) == 20
    assert verify(place).whole
