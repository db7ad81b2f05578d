import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aladin.collection.conditions import COLUMNS, FUNCTIONS, Column, Constant, Operation
from aladin.collection.filters import parsed, quoted, within_folder
from aladin.collection.schema import create_tables, date_from
from aladin.collection.sql_conditions import COLUMN_SQL, FUNCTION_SQL, compiled
from aladin.collection.writer import CollectionWriter
from aladin.errors import ConfigError

PHOTOS = [  # path, size, mtime_ns, width, height, taken, metadata
    (b"a.jpg", 10, 1_700_000_000_000_000_000, 640, 480, "2024-05-01T12:00:00", '{"camera": "Canon EOS", "iso": 100}'),
    (b"trips/Rome/b.jpg", 2_000_000, 1_600_000_000_000_000_000, 4000, 3000, None, '{"place": {"city": "Rome"}, "best": true}'),
    (b"trips/Rome 2/c%.jpg", 0, 0, 480, 640, "2023-12-31T23:59:59", '{"odd key": 3, "f_number": 1.8}'),
    (b"trips/\xff\xfe.png", 5, 1, 1, 1, "1999-01-01T00:00:00", "{}"),
    ("t\N{LATIN SMALL LETTER U WITH DIAERESIS}r/it's.png".encode(), 7, 10**18, 100, 100, "2024-01-01T00:00:00", "{}"),
]


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    create_tables(connection.execute)
    names = "path, size, mtime_ns, width, height, taken, metadata, date, status, generation"
    date = date_from("?6", "?3")
    insert = f"INSERT INTO images ({names}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, {date}, 'ok', 1)"
    connection.executemany(insert, PHOTOS)
    # The same with the names that users write, to hold our SQL against SQLite's reading of the user's own words.
    connection.execute(
        f"CREATE VIEW plain AS SELECT {', '.join(f'{sql} AS {name}' for name, sql in COLUMN_SQL.items())} FROM images"
    )
    yield connection
    connection.close()


def found(database: sqlite3.Connection, where: str) -> list[int]:
    sql, values = compiled(parsed(where))
    rows = database.execute(f"SELECT id FROM images WHERE {sql} ORDER BY id", values)
    return [number for (number,) in rows]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("width > height", [1, 2]),
        ("taken >= '2024'", [1, 5]),
        ("taken BETWEEN '2023-12-01' AND '2024-02-01'", [3, 5]),
        ("year(taken) = 2024 and month(taken) = 5", [1]),
        ("taken is null", [2]),
        ("TAKEN IS NOT NULL AND NOT width < 200", [1, 3]),
        ("date < '2000'", [4]),
        ("year(date) = 2020", [2]),
        ("folder = 'trips/Rome'", [2]),
        ("folder = ''", [1]),
        ("name = 'b.jpg' OR name = 'it''s.png'", [2, 5]),
        ("path LIKE '%.PNG'", [4, 5]),
        ("path GLOB '*.PNG'", []),
        ("camera LIKE 'canon%'", [1]),
        ("iso in (50, 100, 200)", [1]),
        ("metadata.place.city = 'Rome'", [2]),
        ('metadata."odd key" = 3', [3]),
        ("metadata.best", [2]),
        ("metadata.best = true", [2]),
        ("metadata.nothing = 1", []),
        ('metadata."a\\\\" = 1', []),
        ('metadata."" = 1', []),
        ("size * 9223372036854775807 * 9223372036854775807 > 1", [1, 2, 4, 5]),
        ("width / 0 = 1 or round(f_number, 99999999999) > 1", [3]),
        ("metadata.iso.deeper = 1", []),
        ("size / 1000000 >= 1", [2]),
        ("width * height > 1e6 or width % 2 = 1", [2, 4]),
        ("- size + 5 = -5", [1]),
        ("id not in (1, 2) and not (id = 4)", [3, 5]),
        ("f_number <= 2.8", [3]),
        ("lower(camera) = 'canon eos'", [1]),
        ("coalesce(camera, 'none') = 'none' and id < 3", [2]),
        ("metadata.iso = 100 or metadata.camera = 'x'", [1]),
        ("metadata.iso = '100'", []),
        ("coalesce(metadata.place.city, 3) = 3 and id = 1", [1]),
        ("width like '4%' and taken like 2023", []),
    ],
)
def test_a_condition_finds_what_it_says(database: sqlite3.Connection, where: str, expected: list[int]) -> None:
    assert found(database, where) == expected


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("trips", [2, 3, 4]),
        ("trips/Rome", [2]),
        ("./trips//Rome/", [2]),
        ("Rome", []),
        (".", [1, 2, 3, 4, 5]),
        ("", [1, 2, 3, 4, 5]),
        ("t\xfcr", [5]),
    ],
)
def test_a_folder_means_what_is_below_it(database: sqlite3.Connection, folder: str, expected: list[int]) -> None:
    assert found(database, within_folder(folder)) == expected


@pytest.mark.slow
@given(text=st.text())
def test_any_text_can_be_quoted(database: sqlite3.Connection, text: str) -> None:
    if len(text) > 1000:
        return
    assert parsed(f"name = {quoted(text)}") == Operation("=", (Column("name"), Constant(text)))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "the condition is empty"),
        ("  ", "the condition is empty"),
        ("widht > 3", "at character 1, 'widht': there is no column widht; did you mean width?"),
        ("width > 3 AND colour = 'red'", "at character 15, 'colour': there is no column colour; known are path, folder"),
        ("width >", "at its end: expected a column, a number or text"),
        ("width 3", "at character 7, '3': expected AND, OR or the end"),
        ("width = 3)", "at character 10, '\\)': expected AND, OR or the end"),
        ("(width = 3", "at its end: expected \\)"),
        ('camera = "Canon"', "at character 10, '\"Canon\"': expected text in single quotes, 'Canon'"),
        ("camera = 'Canon", 'at character 10, "\'": this text has no closing quote'),
        ("width = 3; DROP TABLE images", "at character 10, ';': this means nothing here"),
        ("id IN (SELECT id FROM images)", "at character 8, 'SELECT': there is no column SELECT"),
        ("load_extension('x')", "there is no function load_extension; known are coalesce"),
        ("randomblob(1000000000)", "there is no function randomblob"),
        ("lower(camera, name) = 'x'", "lower has 2 arguments, expected 1"),
        ("coalesce(camera) = 'x'", "coalesce has 1 arguments, expected 2 to 9"),
        ("camera IS 'Canon'", "expected NULL"),
        ("camera NOT 'Canon'", "expected LIKE, GLOB, BETWEEN or IN after NOT"),
        ("width BETWEEN 3", "expected AND"),
        ("metadata = 3", "expected .KEY after metadata"),
        ("metadata.'a' = 3", "expected a key after the dot"),
        ("width = 12px", "this means nothing here"),
        ("width = 3 -- comment", "at character 12, '-': expected|at character"),
        ("width = /* */ 3", "expected a column"),
        ("status = 'offline'", "there is no column status"),
        ("(" * 100 + "1" + ")" * 100, "more than 40 brackets inside each other"),
        ("not " * 100 + "1", "more than 40 brackets inside each other"),
        ("1 = 1 or " * 1000 + "1", "expected 4,000 or fewer"),
        ("name = '\udcff'", "has bytes that are not UTF-8"),
        ("width > 'abc'", "at character 9, \"'abc'\": this is text, and it is compared with a number; a number has no quotes"),
        ("camera = 5", "at character 10, '5': this is a number, and it is compared with text; text has quotes, such as '2024'"),
        ("taken >= 2024", "this is a number, and it is compared with text"),
        ("2024 <= date", "this is text, and it is compared with a number"),
        ("(lower(camera)) != (width + 1)", "at character 20, '\\('"),
        ("width between 3 and '5'", "at character 21, \"'5'\""),
        ("id in (1, 2, 'three')", "at character 14, \"'three'\""),
        ("year(taken) = '2024'", "this is text"),
    ],
)
def test_a_mistake_is_named_with_its_place(where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(where)


@given(where=st.text(st.sampled_from("width '()=<>-*/.,;\"andorlike123"), max_size=60) | st.text(max_size=60))
def test_whatever_is_typed_is_a_condition_that_the_database_takes_or_a_config_error(
    database: sqlite3.Connection, where: str
) -> None:
    try:
        sql, values = compiled(parsed(where))
    except ConfigError:
        return
    assert set(sql) <= set("?") | set(alphabet())
    database.execute(f"SELECT id FROM images WHERE {sql}", values).fetchall()


def alphabet() -> str:
    """The characters of our own SQL; nothing of a user's text is among them."""
    return "".join([*COLUMN_SQL.values(), *FUNCTIONS, *FUNCTION_SQL.values(), " ()=<>!+-*/%,?ANDORNOTLIKEGLOBBETWEENINISNULL"])


ARITHMETIC = ("{} + {}", "{} - {}", "{} * {}", "{} / {}", "{} % {}", "({0})")
COMPARED: tuple[str, ...] = (
    "{} = {}",
    "{} == {}",
    "{} != {}",
    "{} <> {}",
    "{} < {}",
    "{} <= {}",
    "{} > {}",
    "{} >= {}",
    "{} LIKE {}",
)
COMPARED += ("{} not like {}", "{} GLOB {}", "{0} IS NULL", "{0} is not null", "{0}", "{} NOT IN ({})")
OF_NUMBERS = ("{} IN ({}, 640)", "{} BETWEEN 1 AND {}", "{} not between {} and 2000")
OF_TEXTS = ("{} IN ({}, 'Canon')", "{} BETWEEN '1' AND {}", "{} not between {} and '2000'")
COMBINED = ("{} AND {}", "{} or {}", "NOT {0}", "({0})")


def formatted(forms: tuple[str, ...], inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.sampled_from(forms), inner, inner).map(lambda parts: parts[0].format(*parts[1:]))


def conditions() -> st.SearchStrategy[str]:
    """Conditions that compare numbers with numbers and texts with texts."""
    texts = st.sampled_from(["path", "name", "folder", "taken", "camera", "'2024'", "'a%'", "'it''s.png'"])
    texts = st.recursive(texts, lambda inner: formatted(("({0})", "lower({0})"), inner), max_leaves=2)
    numbers = st.sampled_from(["size", "width", "iso", "0.5"]) | st.integers(0, 3000).map(str)
    numbers |= formatted(("{} + {}", "{} * {}", "length({})"), texts)
    numbers = st.recursive(numbers, lambda inner: formatted(ARITHMETIC, inner), max_leaves=4)
    compared = formatted(COMPARED + OF_NUMBERS, numbers) | formatted(COMPARED + OF_TEXTS, texts)
    return st.recursive(compared, lambda inner: formatted(COMBINED, inner), max_leaves=6)


@pytest.mark.slow
@given(where=conditions())
def test_a_condition_means_what_sqlite_reads_in_it(database: sqlite3.Connection, where: str) -> None:
    expected = [number for (number,) in database.execute(f"SELECT id FROM plain WHERE {where} ORDER BY id")]
    assert found(database, where) == expected


def test_every_column_can_be_compiled() -> None:
    assert COLUMN_SQL.keys() == COLUMNS.keys()


@pytest.mark.parametrize(("link", "most"), [("{} + 1", 23), ("1 - ({})", 23), ("coalesce(1, {})", 11), ("round({}, 1)", 11)])
def test_what_lies_too_deep_is_refused_in_a_sentence(database: sqlite3.Connection, link: str, most: int) -> None:
    term = "size"
    for _ in range(most):
        term = link.format(term)
        found(database, f"{term} IS NULL")
    with pytest.raises(ConfigError, match=r"2[56] operations inside each other; expected 24 or fewer"):
        parsed(f"NOT ({link.format(term)} IS NULL)")


def test_a_condition_that_is_too_much_for_sqlite_alone_is_the_conditions_fault(tmp_path: Path) -> None:
    between = "(metadata.x between metadata.y and "
    nested = between * 20 + "1" + ")" * 20
    with CollectionWriter.create(tmp_path / "c.sqlite", tmp_path) as writer:
        with pytest.raises(ConfigError, match="more operations inside each other than SQLite can hold; write it with fewer"):
            writer.ids_meeting(parsed(nested))
        assert writer.ids_meeting(parsed("id > 0")).tolist() == []
