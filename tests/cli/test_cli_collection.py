"""The commands that keep a collection in order, as a person uses them."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from aladin.cli import main
from aladin.collection.sqlite import Collection
from aladin.collection.store import ImageRow, default_file
from aladin.collection.writer import CollectionWriter
from tests.cli.test_cli_search import Outcome, Run, aladin, command_line
from tests.conftest import paint
from tests.tiny_model import COLOURS

__all__ = ["aladin"]  # the fixture


def test_status_tells_what_is_there(aladin: Run, bare: Run, photos: Path, model_path: Path) -> None:
    (photos / "empty.jpg").touch()
    aladin("index", photos)
    (photos / "red.png").unlink()
    aladin("index", photos)
    status = json.loads(bare("status", photos, "--json").out)
    assert status["images"] == {"ok": len(COLOURS) - 1, "failed": 1, "offline": 1}
    assert status["reasons"] == {"is empty": 1}
    assert (status["root"], status["root_is_there"], status["written_by"]) == (str(photos), True, None)
    assert status["model"] == model_path.name
    text = bare("status", photos).out.decode()
    assert text.startswith(f"images      {len(COLOURS) - 1} ok, 1 failed, 1 offline\n")
    assert "failed      1 is empty" in text
    with CollectionWriter.create(default_file(photos), photos):
        assert f"written by  process {os.getpid()} on" in bare("status", photos).out.decode()


@pytest.fixture
def bare(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """A command that takes no model."""

    def run(*arguments: object) -> Outcome:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([os.fsdecode(argument) if isinstance(argument, bytes) else str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err.decode())

    return run


def test_confirmed_deletes_are_forgotten(aladin: Run, bare: Run, photos: Path) -> None:
    aladin("index", photos)
    for name in list(COLOURS)[:5]:
        (photos / f"{name}.png").unlink()
    outcome = aladin("index", photos)
    assert (
        f"aladin: 5 of {len(COLOURS)} known images are gone. They are kept as offline, and forgotten with --confirm-deletes"
        in outcome.err
    )
    report = json.loads(aladin("index", photos, "--confirm-deletes", "--json").out)
    assert (report["offline"], report["forgotten"]) == (0, 5)


def test_an_absent_folder_is_said_and_ends_with_1(aladin: Run, bare: Run, photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "c.sqlite"
    aladin("index", photos, "--collection", place)
    photos.rename(tmp_path / "away")
    outcome = aladin("index", photos, "--collection", place)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "is not there; its 6 images are kept as offline until it is back" in outcome.err


def test_verify_names_what_is_damaged_and_repair_mends_it(aladin: Run, bare: Run, photos: Path) -> None:
    aladin("index", photos)
    assert b"is whole: 6 images" in bare("verify", photos).out
    connection = sqlite3.connect(default_file(photos))
    connection.execute("UPDATE vectors SET vector = zeroblob(12) WHERE id = 2")
    connection.commit()
    connection.close()
    said = bare("verify", photos).out.decode()
    assert "is damaged; `aladin repair` keeps what is whole" in said
    assert "image 2 (green.png): its vectors are not as they were written" in said
    assert json.loads(bare("verify", photos, "--json").out)["whole"] is False
    assert "run `aladin repair FOLDER`" in aladin("search", photos, "red", "--no-index").err
    outcome = aladin("repair", photos)
    assert "5 images kept, 1 to be read again, 0 lost" in outcome.err
    assert "1 updated" in aladin("index", photos).err
    assert bare("verify", photos).code == 0


def test_repair_keeps_the_damaged_file_beside_the_new_one(aladin: Run, bare: Run, photos: Path) -> None:
    aladin("index", photos)
    place = default_file(photos)
    content = place.read_bytes()
    place.write_bytes(content[: len(content) // 2 // 4096 * 4096])
    done = json.loads(aladin("repair", photos, "--json").out)
    assert Path(done["damaged_copy"]).is_file()
    assert aladin("index", photos).code == 0
    assert aladin("search", photos, "red").lines[0][1] == str(photos / "red.png")


@pytest.mark.parametrize("form", ["printed", "relative", "absolute"])
def test_remove_takes_paths_as_people_have_them(
    aladin: Run, bare: Run, photos: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    aladin("index", photos)
    path = {"printed": "photos/red.png", "relative": "red.png", "absolute": str(photos / "red.png")}[form]
    ended = bare("remove", "photos", path)
    assert ended.err == "1 removed\n"
    assert str(photos / "red.png") not in {line[1] for line in aladin("search", photos, "red").lines}
    assert bare("remove", "photos", "--undo", path).code == 0
    assert str(photos / "red.png") in {line[1] for line in aladin("search", photos, "red").lines}


def test_remove_takes_a_folder_and_says_when_there_is_nothing(aladin: Run, bare: Run, photos: Path) -> None:
    for number in range(3):
        paint(photos / "sub" / f"{number}.png", "red", seed=50 + number)
    aladin("index", photos)
    ended = bare("remove", photos, photos / "sub")
    assert ended.err == "3 removed\n"
    ended = bare("remove", photos, "nothing.png")
    assert (ended.code, "has no image at nothing.png" in ended.err) == (1, True)
    ended = bare("remove", photos)
    assert ended.code == 2


def test_remove_counts_what_has_changed(aladin: Run, bare: Run, photos: Path) -> None:
    aladin("index", photos)
    assert bare("remove", photos, "red.png", "./red.png").err == "1 removed\n"
    with Collection.open(default_file(photos)) as collection:
        before = collection.row_at("red.png")
    assert bare("remove", photos, "--undo", "blue.png").err == "0 taken back\n"
    assert json.loads(bare("remove", photos, ".", "--json").out) == {
        "removed": len(COLOURS) - 1,
        "taken_back": 0,
        "forgotten": 0,
    }
    with Collection.open(default_file(photos)) as collection:
        assert collection.row_at("red.png") == before
    bare("remove", photos, "--undo", "blue.png", "pink.png")
    assert bare("remove", photos, "--undo", ".").err == f"{len(COLOURS) - 2} taken back\n"
    refused = bare("remove", photos, "--undo", "--offline")
    assert (refused.code, "cannot be taken back; leave out --undo" in refused.err) == (2, True)


def test_remove_forgets_all_whose_files_are_gone(aladin: Run, bare: Run, photos: Path) -> None:
    aladin("index", photos)
    (photos / "red.png").unlink()
    aladin("index", photos)
    ended = bare("remove", photos, "--offline")
    assert ended.err == "1 forgotten\n"


@pytest.mark.parametrize("name", [b"-dash.png", b"new\nline.png", b"\xff\xfe.png", "\u202egnp.png".encode()], ids=repr)
def test_odd_names_are_removed_by_the_bytes_that_were_printed(aladin: Run, bare: Run, tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copy(paint(tmp_path / "red.png", "red"), folder / os.fsdecode(name))
    printed = aladin("search", folder, "red", "-0").out.rstrip(b"\0")
    assert bare("remove", folder, "--", printed).code == 0
    assert [row.status for row in rows(folder)] == ["removed"]


def test_compact_gives_space_back(aladin: Run, bare: Run, photos: Path) -> None:
    for number in range(300):
        paint(photos / "sub" / f"{number}.png", "red", seed=50 + number, size=(4, 4))
    aladin("index", photos)
    assert bare("remove", photos, "sub").code == 0
    before = default_file(photos).stat().st_size
    told = json.loads(bare("compact", photos, "--json").out)
    assert told == {"bytes_before": before, "bytes_after": default_file(photos).stat().st_size}
    assert told["bytes_after"] < before
    assert "MB before" in bare("compact", photos).err
    assert bare("verify", photos).code == 0


@pytest.mark.parametrize("command", ["status", "verify", "repair", "compact", "remove x", "export-collection out"])
def test_without_a_collection_every_command_says_how_to_make_one(bare: Run, photos: Path, command: str) -> None:
    name, *rest = command.split()
    folder = photos.rename(photos.parent / "my photos")
    ended = bare(name, folder, *rest)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"make one with `aladin index '{folder}'`" in ended.err
    ended = bare(name, folder, *rest, "--collection", photos / "c.sqlite")
    assert f"make one with `aladin index '{folder}' --collection {photos / 'c.sqlite'}`" in ended.err


# plan


def test_plan_counts_and_writes_nothing(aladin: Run, bare: Run, photos: Path) -> None:
    (photos / "empty.jpg").touch()
    (photos / "notes.txt").touch()
    (photos / "link.png").symlink_to("red.png")
    (photos / ".hidden.png").touch()
    found = json.loads(aladin("plan", photos, "--json", "--workers", 1).out)
    assert (found["images"], found["to_read"], found["probed"]) == (len(COLOURS) + 1,) * 3
    assert found["kinds"] == {".png": len(COLOURS), ".jpg": 1}
    assert found["passed_over"] == {"not named like an image": 1, "link": 1, "hidden": 1}
    assert found["unreadable"] == {"is empty": 1}
    assert found["disk_bytes"] > 0
    assert found["memory_mb"] > 20
    assert not default_file(photos).exists()
    text = aladin("plan", photos).out.decode()
    assert "unreadable   about 1: of 7 probed, 1 is empty" in text
    aladin("index", photos)
    assert json.loads(aladin("plan", photos, "--json").out)["to_read"] == 0


def test_a_plan_tells_kinds_by_what_counts_and_nothing_of_its_own_folder(aladin: Run, photos: Path) -> None:
    shutil.copy(photos / "red.png", photos / "a.PNG. .")
    aladin("index", photos)
    lines = aladin("plan", photos).out.decode().splitlines()
    assert lines[0].endswith(f": {len(COLOURS) + 1} .png")
    assert lines[2] == "time         none, there is nothing to read"
    assert not any("hidden" in line for line in lines)


# memory


@pytest.mark.parametrize("command", ["index", "watch", "plan"])
def test_a_ceiling_that_is_too_low_is_wrong_usage(aladin: Run, photos: Path, command: str) -> None:
    outcome = aladin(command, photos, "--max-memory", "100M")
    assert (outcome.code, outcome.out) == (2, b"")
    assert "Invalid value for '--max-memory': the memory ceiling is 100 MB; expected at least 640 MB" in outcome.err


def test_a_ceiling_with_room_for_images_is_taken(aladin: Run, photos: Path) -> None:
    assert aladin("index", photos, "--max-memory", "1G").code == 0
    assert aladin("index", photos, "--max-memory", "much").code == 2


# watch


@pytest.mark.slow
def test_watch_brings_changes_in_and_ends_with_130(photos: Path, model_path: Path) -> None:
    command = command_line("watch", photos, "--model", model_path)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith(f"{len(COLOURS)} added")
        paint(photos / "sub" / "new.png", "red", seed=77)
        assert watching.stderr.readline().startswith("1 added")
        (photos / "sub" / "new.png").rename(photos / "moved.png")
        assert watching.stderr.readline().startswith("1 moved")
        watching.send_signal(signal.SIGINT)
        assert watching.stderr.read().strip() == "aladin: interrupted; what was done so far is kept"
        assert watching.wait() == 130


@pytest.mark.slow
def test_watch_waits_for_a_folder_that_is_away_and_names_each_skipped_file_once(photos: Path, model_path: Path) -> None:
    command, there = command_line("watch", photos, "--model", model_path), len(COLOURS) + 1
    (photos / "empty.jpg").touch()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        try:
            assert watching.stderr.readline() == f"skipped: {photos / 'empty.jpg'} is empty\n"
            assert watching.stderr.readline().startswith(f"{len(COLOURS)} added, 1 skipped; ")
            away = photos.rename(photos.with_name("away"))
            assert watching.stderr.readline() == f"aladin: the folder {photos} is not there; waiting\n"
            paint(away / "new.png", "red", seed=77)
            shutil.copytree(away, photos.with_name("copy")).rename(photos)
            assert watching.stderr.readline().startswith(f"1 added, {there} unchanged, 1 skipped; ")
            watching.send_signal(signal.SIGINT)
            assert watching.stderr.read().strip() == "aladin: interrupted; what was done so far is kept"
        finally:
            watching.kill()


@pytest.mark.slow
def test_watch_waits_for_another_writer(photos: Path, model_path: Path) -> None:
    command = command_line("watch", photos, "--model", model_path)
    with CollectionWriter.create(default_file(photos), photos):
        watching = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert watching.stderr is not None
        assert "is being written by process" in watching.stderr.readline()
    assert watching.stderr.readline().startswith(f"{len(COLOURS)} added")
    watching.send_signal(signal.SIGINT)
    watching.communicate()


# Reading them back.


def test_captions_that_belong_to_no_image_are_counted_and_the_others_come_in(bare: Run, photos: Path, tmp_path: Path) -> None:
    annotations = [{"image_id": 1, "caption": "a red picture"}, {"image_id": 9, "caption": "nothing"}]
    (tmp_path / "c.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "red.png"}], "annotations": annotations}))
    ended = bare("import-collection", photos, tmp_path / "c.json")
    assert ended.code == 3
    assert ended.err.splitlines() == [
        "0 images with vectors, 1 without, 0 outside the folder",
        f"aladin: 1 caption left out, of images that {tmp_path / 'c.json'} does not list",
    ]
    assert [(row.path, row.metadata) for row in rows(photos)] == [("red.png", {"captions": ["a red picture"]})]


def test_an_export_is_a_backup(aladin: Run, bare: Run, photos: Path, tmp_path: Path) -> None:
    aladin("index", photos)
    assert bare("export-collection", photos, tmp_path / "out").code == 0
    before = {row.path: row.sha256 for row in rows(photos)}
    shutil.rmtree(default_file(photos).parent)
    aladin("import-collection", photos, tmp_path / "out")
    assert {row.path: row.sha256 for row in rows(photos)} == before
    report = json.loads(aladin("index", photos, "--json").out)
    assert (report["unchanged"], report["added"], report["updated"]) == (len(COLOURS), 0, 0)
    assert aladin("search", photos, "red").lines[0][1] == str(photos / "red.png")


def rows(photos: Path) -> list[ImageRow]:
    with Collection.open(default_file(photos)) as collection:
        return list(collection.images())
