"""Another model takes a collection over: whatever happens on the way, one of the two answers, and all of it."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aladin.cli import main
from aladin.collection.indexing import index_folder
from aladin.collection.migration import Migrated, forget_beside, go_back, migrate
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError, DataError, IndexMismatch
from aladin.search.query import Query, TextPart
from aladin.search.search import Searcher
from tests.collection.test_verify import bring_up_to_date, contents
from tests.conftest import paint
from tests.tiny_model import COLOURS, build_tiny_model

RED = Query((TextPart("red"),))


@pytest.fixture
def other(other_model_path: Path) -> Encoder:
    return Encoder.load(other_model_path, threads=1)


@pytest.fixture
def place(photos: Path, encoder: Encoder) -> Path:
    """A collection of twenty pictures, one of which is gone, one unreadable, one removed and one there twice."""
    for number in range(20):
        paint(photos / "more" / f"{number:02}.png", *list(COLOURS)[: 1 + number % 5], seed=100 + number)
    (photos / "twin.png").write_bytes((photos / "red.png").read_bytes())
    (photos / "empty.jpg").touch()
    bring_up_to_date(photos, encoder)
    (photos / "pink.png").unlink()
    bring_up_to_date(photos, encoder)
    with CollectionWriter.create(default_file(photos), photos) as writer, writer.transaction():
        writer.remove(writer.ids_below("more/07.png"))
    return default_file(photos)


def migrated(photos: Path, encoder: Encoder) -> Migrated:
    with CollectionWriter.create(default_file(photos), photos) as writer:
        return migrate(writer, encoder)


def rebuilt(photos: Path, encoder: Encoder) -> dict[str, tuple[object, ...]]:
    """What the collection holds when it is rebuilt by a model."""
    with CollectionWriter.create(default_file(photos), photos) as writer:
        writer.rebuild(encoder.model)
        index_folder(writer, encoder)
    return found_vectors(default_file(photos))


def found_vectors(place: Path) -> dict[str, tuple[object, ...]]:
    with Collection.open(place) as collection:
        ids = {row.id: row.path for row in collection.images("ok")}
        vectors = collection.vectors_of(sorted(ids))
        tokens = collection.tokens(sorted(ids))
        return {
            ids[image_id]: (image_id, vectors[number].tobytes(), tokens.values[number].tobytes())
            for number, image_id in enumerate(sorted(ids))
        }


def test_the_new_model_answers_as_if_the_folder_had_been_rebuilt_by_it(place: Path, photos: Path, other: Encoder) -> None:
    done = migrated(photos, other)
    assert (done.model, done.before, done.left_out) == ("other-colours", "colours", {})
    found = found_vectors(place)
    assert done.images == done.encoded == len(found) == 25
    with Collection.open(place) as collection:
        collection.check_model(other.model)
    assert verify(place).whole
    assert rebuilt(photos, other) == found


def test_the_way_back_leads_to_what_there_was(place: Path, photos: Path, encoder: Encoder, other: Encoder) -> None:
    before = contents(place)
    migrated(photos, other)
    with CollectionWriter.create(place, photos) as writer:
        back = go_back(writer)
        assert (back.model, back.before, back.left_out) == ("colours", "other-colours", {})
        writer.check_model(encoder.model)
    assert contents(place) == before
    assert verify(place).whole
    with CollectionWriter.create(place, photos) as writer:
        assert go_back(writer).model == "other-colours"
        writer.check_model(other.model)
    assert verify(place).whole


def test_what_has_changed_since_has_no_way_back(place: Path, photos: Path, other: Encoder, encoder: Encoder) -> None:
    migrated(photos, other)
    paint(photos / "red.png", "blue", seed=7)
    paint(photos / "new.png", "green", seed=8)
    bring_up_to_date(photos, other)
    with CollectionWriter.create(place, photos) as writer:
        assert go_back(writer).left_out == {"is new or has changed since": 2}
    assert not {"red.png", "new.png"} & found_vectors(place).keys()
    assert verify(place).whole
    bring_up_to_date(photos, encoder)
    assert {"red.png", "new.png"} <= found_vectors(place).keys()
    assert verify(place).whole


def test_what_changes_meanwhile_is_left_out_and_found_by_the_next_index(place: Path, photos: Path, other: Encoder) -> None:
    paint(photos / "red.png", "blue", seed=7)
    (photos / "green.png").unlink()
    done = migrated(photos, other)
    assert done.left_out == {"has changed since it was indexed": 1, "is not there": 1}
    assert not {"red.png", "green.png"} & found_vectors(place).keys()
    assert verify(place).whole
    bring_up_to_date(photos, other)
    assert "red.png" in found_vectors(place)


def test_an_image_that_was_away_is_read_when_it_is_back(place: Path, photos: Path, other: Encoder) -> None:
    migrated(photos, other)
    paint(photos / "pink.png", "pink", seed=list(COLOURS).index("pink"))
    bring_up_to_date(photos, other)
    assert "pink.png" in found_vectors(place)
    assert verify(place).whole


class Stopped(Exception):
    pass


def stopping_after(count: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= count:
            raise Stopped

    return progress


def test_a_stopped_run_leaves_the_model_before_answering_and_goes_on(
    place: Path, photos: Path, encoder: Encoder, other: Encoder
) -> None:
    before = found_vectors(place)
    with CollectionWriter.create(place, photos) as writer, pytest.raises(Stopped):
        migrate(writer, other, progress=stopping_after(8))
    assert found_vectors(place) == before
    assert verify(place).whole
    bring_up_to_date(photos, encoder)  # which the model before still does
    done = migrated(photos, other)
    assert done.encoded == 25 - 8
    assert done.images == 25


def test_a_run_with_another_model_than_the_stopped_one_begins_anew(
    place: Path, photos: Path, other: Encoder, tmp_path: Path
) -> None:
    third = Encoder.load(build_tiny_model(tmp_path / "third", seed=2), threads=1)
    with CollectionWriter.create(place, photos) as writer, pytest.raises(Stopped):
        migrate(writer, other, progress=stopping_after(8))
    done = migrated(photos, third)
    assert (done.model, done.encoded) == ("third", 25)
    assert verify(place).whole


KILLED = """
import os, signal, sys
from pathlib import Path
from aladin.collection.database import Database
from aladin.collection.migration import migrate
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder

place, photos, model, stop = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
execute, count = Database.execute, 0

def counted(self, statement, values=()):
    global count
    count += 1
    if count == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(self, statement, values)

with CollectionWriter.create(place, photos) as writer:
    Database.execute = counted
    migrate(writer, Encoder.load(model, threads=1))
    print(count)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_one_model_answering_whatever_its_last_statement(
    place: Path, photos: Path, other: Encoder, other_model_path: Path, encoder: Encoder
) -> None:
    whole = place.read_bytes()
    before = found_vectors(place)
    command = [sys.executable, "-c", KILLED, str(place), str(photos), str(other_model_path)]
    survey = subprocess.run([*command, "0"], capture_output=True, text=True, check=True)
    after, statements = found_vectors(place), int(survey.stdout)
    seen = set()
    for stop in sorted({*range(2, statements, max(1, statements // 12)), *range(statements - 24, statements + 1, 2)}):
        for left in place.parent.glob(f"{place.name}-*"):
            left.unlink()
        place.write_bytes(whole)
        done = subprocess.run([*command, str(stop)], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, stop
        assert verify(place).whole, stop
        found = found_vectors(place)
        assert found in (before, after), stop
        seen.add(found == after)
        if found == before:
            assert migrated(photos, other).images == 25
        assert found_vectors(place) == after, stop
    assert False in seen


def test_compact_drops_the_rows_beside_and_with_them_the_way_back(place: Path, photos: Path, other: Encoder) -> None:
    migrated(photos, other)
    found = found_vectors(place)
    with CollectionWriter.create(place, photos) as writer:
        forget_beside(writer)
        with pytest.raises(ConfigError, match="keeps no rows of another model"):
            go_back(writer)
        tables = {name for (name,) in writer.database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert not any(name.endswith(("_next", "_before", "_now")) for name in tables)
    assert found_vectors(place) == found
    assert verify(place).whole


def test_a_collection_of_that_model_or_without_images_is_not_migrated(
    place: Path, photos: Path, encoder: Encoder, tmp_path: Path
) -> None:
    with CollectionWriter.create(place, photos) as writer, pytest.raises(ConfigError, match="is of the model colours already"):
        migrate(writer, encoder)
    with (
        CollectionWriter.create(tmp_path / "empty.sqlite", photos) as writer,
        pytest.raises(DataError, match="holds no image yet"),
    ):
        migrate(writer, encoder)


def test_too_little_room_is_said_before_anything_is_encoded(
    place: Path, photos: Path, other: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(photos)
    monkeypatch.setattr("aladin.collection.migration.shutil.disk_usage", lambda path: usage._replace(free=1000))
    with CollectionWriter.create(place, photos) as writer, pytest.raises(DataError, match="make room"):
        migrate(writer, other)
    assert len(found_vectors(place)) == 25


def test_a_search_in_a_process_that_was_open_says_which_model_it_needs(
    place: Path, photos: Path, encoder: Encoder, other: Encoder
) -> None:
    with Collection.open(place) as collection:
        searcher = Searcher(collection, encoder)
        assert searcher.search(RED).hits
        migrated(photos, other)
        with pytest.raises(IndexMismatch, match="other-colours"):
            searcher.search(RED)
        again = Searcher(collection, other)
        assert np.isfinite([hit.score for hit in again.search(RED).hits]).all()


def test_the_command_migrates_and_goes_back(
    place: Path, photos: Path, model_path: Path, other_model_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert isinstance(ended.value.code, int)
        output = capsys.readouterr()
        return ended.value.code, output.out + output.err

    code, text = run("migrate", photos, "--model", other_model_path)
    assert code == 0
    assert "other-colours answers now: 25 images, 25 encoded" in text
    assert "colours are kept until `aladin compact`" in text
    assert run("search", photos, "red", "--model", model_path)[0] == 6
    assert run("search", photos, "red", "--model", other_model_path)[0] == 0
    code, text = run("migrate", photos, "--back", "--json")
    assert (code, json.loads(text)["model"]) == (0, "colours")
    assert run("migrate", photos)[0] == run("migrate", photos, "--back", "--model", model_path)[0] == 2
    assert run("migrate", photos, "--model", model_path)[0] == 1
    assert run("compact", photos, "-q") == (0, "")
    assert run("migrate", photos, "--back")[0] == 1
