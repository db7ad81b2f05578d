"""Leafing: pages cover what a plain sort of all images gives, in both directions, and each is one walk along one index."""

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

import aladin.collection.leafing
from aladin.collection.database import Database
from aladin.collection.filters import parsed
from aladin.collection.leafing import leaf
from aladin.collection.schema import create_tables, date_from
from aladin.collection.sqlite import Collection
from aladin.collection.store import Order, Position, Span

# In words that the C library knows without a list of zones; clocks go back at 3:00, at midnight, by half an hour, and never.
ZONES = ("CET-1CEST,M3.5.0,M10.5.0/3", "<-03>3<-02>,M10.3.0/0,M2.3.0/0", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", "UTC0")
MOMENTS = (1_729_990_800, 1_708_221_600, 1_712_415_600, 1_711_846_800, 86_400, 4_102_444_800)  # at most a clock is set
ORDERS: tuple[Order, ...] = ("newest first", "oldest first")
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
    after: Position
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
def collection_of(images: list[Image]) -> Iterator[Collection]:
    """Images with the ids 1, 2 and so on."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection.execute)
        connection.executemany(
            "INSERT INTO images (path, size, mtime_ns, taken, status, generation, date) "
            f"VALUES (CAST(?1 AS BLOB), 1, ?2, ?3, ?4, 1, {date_from('?3', '?2')})",
            [(str(n), image.second * 10**9 + n % 7, image.taken, image.status) for n, image in enumerate(images)],
        )
        yield Collection(Database(Path("memory"), connection))


def by_date(images: list[Image], span: Span) -> list[Position]:
    """The slow and obvious way: the dates and ids of all images of these days, the newest first, equals by id."""
    dates = [image.taken or time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(image.second)) for image in images]
    found = [
        (date, image_id)
        for image_id, (date, image) in enumerate(zip(dates, images, strict=True), 1)
        if image.status == "ok" and (span.first or "") <= date and (span.last is None or date[:10] <= span.last)
    ]
    return sorted(found, key=lambda position: position[0], reverse=True)


@pytest.mark.slow
@settings(max_examples=100)
@given(scene=scenes(), limit=st.integers(1, 9), order=st.sampled_from(ORDERS))
def test_pages_are_a_plain_sort_by_date_cut_in_pieces(scene: Scene, limit: int, order: Order) -> None:
    with local_clock(scene.zone), collection_of(scene.images) as collection:
        found: list[Position] = []
        while page := leaf(collection.database, found[-1] if found else None, scene.span, None, limit, order):
            found += page
        expected = by_date(scene.images, scene.span)
        assert found == (expected if order == "newest first" else expected[::-1])


@settings(max_examples=100)
@given(scene=scenes(), limit=st.integers(1, 9))
def test_a_page_begins_after_any_position(scene: Scene, limit: int) -> None:
    date, image_id = scene.after
    with local_clock(scene.zone), collection_of(scene.images) as collection:
        images = by_date(scene.images, scene.span)
        after = [(d, n) for d, n in images if d < date or (d == date and n > image_id)]
        assert leaf(collection.database, scene.after, scene.span, None, limit) == after[:limit]
        before = [(d, n) for d, n in images[::-1] if d > date or (d == date and n < image_id)]
        assert leaf(collection.database, scene.after, scene.span, None, limit, "oldest first") == before[:limit]


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
    images: list[Image], after: Position | None, span: Span, expected: list[int], limit: int
) -> None:
    with local_clock(ZONES[0]), collection_of(images) as collection:
        assert [image_id for _, image_id in leaf(collection.database, after, span, None, limit)] == expected[:limit]


@settings(max_examples=60)
@given(scene=scenes(), limit=st.integers(1, 9), walked=st.integers(1, 30), order=st.sampled_from(ORDERS))
def test_a_condition_leaves_the_order_as_it_is(scene: Scene, limit: int, walked: int, order: Order) -> None:
    with pytest.MonkeyPatch.context() as patch, local_clock(scene.zone), collection_of(scene.images) as collection:
        patch.setattr(aladin.collection.leafing, "WALKED", walked)
        expected = [position for position in by_date(scene.images, scene.span) if position[1] % 2]
        expected = expected if order == "newest first" else expected[::-1]
        assert leaf(collection.database, None, scene.span, parsed("id % 2 = 1"), limit, order) == expected[:limit]


@pytest.mark.parametrize("span", [Span(), Span("2010-01-01", "2011-12-31")])
@pytest.mark.parametrize("after", [None, ("2011-05-01T12:00:00", 3)])
@pytest.mark.parametrize("order", ORDERS)
def test_a_page_is_one_query_that_walks_the_index_and_sorts_nothing(span: Span, after: Position | None, order: Order) -> None:
    images = [Image(None if n % 2 else f"2010-01-01T00:00:{n:02}", 1_290_000_000 + n * 10**6) for n in range(60)]
    statements: list[str] = []
    with local_clock("UTC0"), collection_of(images) as collection:
        connection = collection.database.connection
        connection.set_trace_callback(statements.append)
        assert len(leaf(collection.database, after, span, None, 9, order)) == 9
        connection.set_trace_callback(None)
        (statement,) = statements
        plan = [str(step[3]) for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    walk = "SEARCH images USING INDEX images_by_date"
    assert [step.split(" (")[0] for step in plan] == ["MERGE", "LEFT", walk, "RIGHT", walk]


@pytest.mark.parametrize(("where", "queries"), [("id % 2 = 1", 2), ("id = 1", 3)])
def test_only_a_condition_that_hardly_any_image_meets_reads_all_rows(where: str, queries: int) -> None:
    images = [Image(f"20{n // 100:02}-01-01T00:00:00", 1) for n in range(2000)]
    statements: list[str] = []
    with collection_of(images) as collection:
        connection = collection.database.connection
        connection.set_trace_callback(statements.append)
        found = leaf(collection.database, None, Span(), parsed(where), 9)
        connection.set_trace_callback(None)
        assert len(statements) == queries
        assert len(found) == (9 if queries == 2 else 1)
        for statement in statements[:2]:
            plan = [str(step[3]) for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not any(step.startswith("SCAN images") for step in plan)


def test_a_page_among_many_images_of_one_date_is_found_by_the_index_alone() -> None:
    images = [Image("2010-01-01T00:00:00", 1)] * 20_000
    with collection_of(images) as collection:
        steps = [0]

        def count() -> None:
            steps[0] += 1

        collection.database.connection.set_progress_handler(count, 1)
        assert leaf(collection.database, (str(images[0].taken), 15_000), Span(), None, 3)[0][1] == 15_001
        assert leaf(collection.database, (str(images[0].taken), 15_000), Span(), None, 3, "oldest first")[0][1] == 14_999
        assert steps[0] < 500


def test_a_date_stays_as_it_was_written_where_another_clock_reads_it() -> None:
    images = [Image(None, MOMENTS[0] + hours * 3600) for hours in range(5)]
    with local_clock(ZONES[0]), collection_of(images) as collection:
        written = leaf(collection.database, None, Span(), None, 9)
        os.environ["TZ"] = ZONES[2]
        time.tzset()
        assert leaf(collection.database, None, Span(), None, 9) == written
