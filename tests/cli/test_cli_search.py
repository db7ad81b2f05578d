import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aladin.cli import main
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from tests.collection.test_collection import NOBODY
from tests.conftest import paint
from tests.tiny_model import COLOURS, build_tiny_model


@dataclass(frozen=True)
class Outcome:
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[list[str]]:
        return [line.split("\t") for line in os.fsdecode(self.out).splitlines()]


Run = Callable[..., Outcome]


@pytest.fixture
def aladin(model_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """The command with the tiny model; give another with `--model`."""

    def run(*arguments: object) -> Outcome:
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), *([] if "--model" in arguments else ["--model", str(model_path)])])
        captured = capfdbinary.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err.decode())

    return run


# From nothing to hits.


def test_the_first_search_indexes_and_finds(aladin: Run, photos: Path) -> None:
    outcome = aladin("search", photos, "a red picture")
    assert outcome.code == 0
    assert outcome.lines[0][1] == str(photos / "red.png")
    assert len(outcome.lines) == len(COLOURS)
    assert outcome.err == ""


def test_a_later_search_sees_new_changed_and_lost_files(aladin: Run, photos: Path) -> None:
    aladin("search", photos, "red")
    paint(photos / "sub" / "new red.png", "red", seed=99)
    (photos / "blue.png").unlink()
    paths = {path for _, path in aladin("search", photos, "red").lines}
    assert str(photos / "sub" / "new red.png") in paths
    assert str(photos / "blue.png") not in paths


def test_no_index_searches_what_is_there(aladin: Run, photos: Path) -> None:
    assert aladin("search", photos, "red", "--no-index").code == 1
    aladin("index", photos)
    paint(photos / "new red.png", "red", seed=99)
    assert len(aladin("search", photos, "red", "--no-index").lines) == len(COLOURS)


def test_top_and_rerank_do_as_they_say(aladin: Run, photos: Path) -> None:
    assert len(aladin("search", photos, "red", "-n", 2).lines) == 2
    hits = json.loads(aladin("search", photos, "red", "--rerank", 0, "--json").out)["hits"]
    assert {hit["alignment_score"] for hit in hits} == {None}


def test_similar_takes_the_folder_first_and_leaves_the_image_out(aladin: Run, photos: Path, tmp_path: Path) -> None:
    inside = aladin("similar", photos, photos / "red.png", "-n", 1)
    assert inside.lines[0][1] == str(photos / "pink.png")
    outside = aladin("similar", photos, shutil.copy(photos / "red.png", tmp_path / "copy.png"), "-n", 1)
    assert outside.lines[0][1] == str(photos / "red.png")


def test_a_collection_may_stand_elsewhere(aladin: Run, photos: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "c.sqlite"
    assert aladin("search", photos, "red", "--collection", place).code == 0
    assert place.is_file()
    assert not default_file(photos).exists()
    other = tmp_path / "other"
    paint(other / "a.png", "red")
    for options in ((), ("--no-index",)):
        outcome = aladin("search", other, "red", "--collection", place, *options)
        assert (outcome.code, "holds the images of" in outcome.err) == (1, True)


# Forms of output.


def test_json_tells_what_was_asked_of_what_and_every_hit(aladin: Run, photos: Path) -> None:
    answer = json.loads(aladin("search", photos, "red and blue", "--json", "-n", 3).out)
    told = {"query", "truncated", "answered", "index", "model", "searched", "took_ms", "hits", "nearest"}
    assert answer.keys() == told
    assert (answer["query"], answer["truncated"], answer["searched"]) == ("red and blue", False, len(COLOURS))
    assert answer["index"] == str(default_file(photos))
    with Collection.open(default_file(photos)) as collection:
        assert answer["model"] == collection.fingerprint
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    for hit in answer["hits"]:
        scores = {"score", "matching_score", "alignment_score", "probability"}
        assert hit.keys() == {"rank", "id", "path", "frame", "width", "height", "explanation"} | scores
        assert hit["score"] == hit["alignment_score"]


def test_jsonl_is_one_hit_a_line(aladin: Run, photos: Path) -> None:
    whole = json.loads(aladin("search", photos, "red", "--json").out)["hits"]
    assert [json.loads(line) for line in aladin("search", photos, "red", "--jsonl").out.splitlines()] == whole


def test_coco_has_the_hits_in_their_order_with_the_query_as_caption(aladin: Run, photos: Path) -> None:
    hits = json.loads(aladin("search", photos, "red", "--json", "--why").out)["hits"]
    coco = json.loads(aladin("search", photos, "red", "--coco", "--why").out)
    assert coco["info"] == {"description": "found by: red"}
    assert [image["id"] for image in coco["images"]] == [hit["id"] for hit in hits]
    assert [image["file_name"] for image in coco["images"]] == [os.path.relpath(hit["path"], photos) for hit in hits]
    for annotation, hit in zip(coco["annotations"], hits, strict=True):
        assert (annotation["id"], annotation["image_id"], annotation["caption"]) == (hit["rank"], hit["id"], "red")
        assert (annotation["score"], len(annotation["regions"])) == (hit["score"], 1)
        assert annotation["regions"][0]["bbox"] == list(hit["explanation"]["shares"][0]["box"].values())
    nothing = aladin("search", photos, "red", "--where", "width > 9999", "--coco")
    assert {key: json.loads(nothing.out)[key] for key in ("images", "annotations")} == {"images": [], "annotations": []}


def test_in_tsv_why_is_a_third_column(aladin: Run, photos: Path) -> None:
    bare, told = aladin("search", photos, "red and blue").lines, aladin("search", photos, "red and blue", "--why").lines
    assert [line[:2] for line in told] == bare
    assert all(re.fullmatch(r"red \S+ at \S+, and \S+ at \S+, blue \S+ at \S+", line[2]) for line in told)


def test_tsv_is_the_form_of_a_pipe(aladin: Run, photos: Path) -> None:
    assert aladin("search", photos, "red", "--tsv").out == aladin("search", photos, "red").out


@pytest.mark.parametrize(
    "name", [b"a\nb.png", b"\xff\xfe.png", "\u202egnp \N{DOG FACE}.png".encode(), b"-n.png", b"a\tb.png"], ids=repr
)
def test_every_name_comes_out_whole(aladin: Run, tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / "names"
    paint(tmp_path / "red.png", "red")
    folder.mkdir()
    (tmp_path / "red.png").rename(folder / os.fsdecode(name))
    assert aladin("search", folder, "red", "-0").out == os.fsencode(folder) + b"/" + name + b"\0"
    path = json.loads(aladin("search", folder, "red", "--json").out)["hits"][0]["path"]
    assert os.fsencode(path) == os.fsencode(folder) + b"/" + name
    tsv = aladin("search", folder, "red").out
    assert (tsv.count(b"\n"), tsv.count(b"\t")) == (1, 1)


def test_on_a_terminal_there_is_a_table_and_no_control_character(photos: Path, model_path: Path) -> None:
    (photos / "red.png").rename(photos / os.fsdecode(b"red \x1b[31m \xff.png"))
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "aladin", "search", photos, "red", "--model", model_path, "-n", "3"]
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "200"}
    process = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, env=environment, check=True)
    os.close(terminal)
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert process.stderr == b""
    assert shown.split()[:3] == ["rank", "score", "path"]
    assert "\\x1b[31m \\udcff.png" in shown
    assert "\x1b" not in shown


def test_on_a_terminal_nothing_found_is_no_header(photos: Path, model_path: Path) -> None:
    controller, terminal = pty.openpty()
    command = command_line("search", photos, "red", "--where", "width > 9999", "--model", model_path)
    process = subprocess.run(command, stdout=terminal, stderr=subprocess.PIPE, check=True)
    os.write(terminal, b".")
    assert os.read(controller, 100_000) == b"."
    assert process.stderr == b"aladin: no image meets the condition\n"
    os.close(terminal)
    os.close(controller)


def test_fail_empty_is_an_exit_code(aladin: Run, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "empty.jpg").touch()
    assert aladin("search", folder, "red").code == 0
    outcome = aladin("search", folder, "red", "--fail-empty")
    assert (outcome.code, outcome.out) == (4, b"")
    assert json.loads(aladin("search", folder, "red", "--json").out)["hits"] == []


# The index command.


def test_index_reports_and_ends_with_3_when_files_were_skipped(aladin: Run, photos: Path) -> None:
    assert aladin("index", photos).code == 0
    (photos / "empty.jpg").touch()
    outcome = aladin("index", photos)
    assert outcome.code == 3
    assert f"skipped: {photos / 'empty.jpg'} is empty\n" in outcome.err
    assert f"{len(COLOURS)} unchanged, 1 skipped; " in outcome.err
    assert aladin("search", photos, "red").err == "aladin: 1 file could not be read; `aladin index` on the folder names them\n"
    assert aladin("search", photos, "red", "-q").err == ""


def test_a_run_that_read_nothing_tells_no_rate(aladin: Run, photos: Path) -> None:
    assert "images/s" in aladin("index", photos).err
    assert re.fullmatch(rf"{len(COLOURS)} unchanged; \d+\.\d s\n", aladin("index", photos).err)


def test_index_reports_as_json(aladin: Run, photos: Path) -> None:
    report = json.loads(aladin("index", photos, "--json", "-q").out)
    assert (report["added"], report["skipped"]) == (len(COLOURS), {})


def test_another_model_is_refused_until_the_rebuild(aladin: Run, photos: Path, other_model_path: Path) -> None:
    aladin("index", photos)
    for command in (("search", photos, "red"), ("search", photos, "red", "--no-index"), ("index", photos)):
        outcome = aladin(*command, "--model", other_model_path)
        assert outcome.code == 6
        assert "was built with model colours" in outcome.err
        assert "run `aladin index FOLDER --rebuild`" in outcome.err
    assert aladin("index", photos, "--rebuild", "--model", other_model_path).code == 0
    assert aladin("search", photos, "red", "--model", other_model_path).lines[0][1] == str(photos / "red.png")


def test_a_second_writer_ends_with_5_and_a_search_goes_on(aladin: Run, photos: Path) -> None:
    aladin("index", photos)
    with CollectionWriter.create(default_file(photos), photos):
        outcome = aladin("index", photos)
        assert (outcome.code, f"process {os.getpid()}" in outcome.err) == (5, True)
        search = aladin("search", photos, "red")
    assert search.code == 0
    assert search.lines[0][1] == str(photos / "red.png")
    assert "searching what is there so far" in search.err


# What cannot be done is said in one sentence.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "PHOTOS", ""), "the query is empty"),
        (("search", "PHOTOS", "  "), "the query is empty"),
        (("search", "PHOTOS/none", "red"), "does not exist; expected a folder of images"),
        (("search", "PHOTOS/red.png", "red"), "is a file; expected a folder of images"),
        (("index", "PHOTOS/none"), "does not exist; expected a folder of images"),
        (("search", "PHOTOS/nothing", "red"), "there are no images in"),
        (("index", "PHOTOS/nothing"), "there are no images in"),
        (("similar", "PHOTOS", "PHOTOS/none.png"), "there is no image file"),
        (("search", "PHOTOS", "red", "--model", "PHOTOS"), "is not a model folder: it has no model.toml"),
        (("search", "PHOTOS", "red", "--collection", "PHOTOS/red.png/c"), "with --collection"),
        (("search", "PHOTOS", "red", "--collection", "PHOTOS/red.png"), "is not a collection of aladin"),
    ],
)
def test_bad_input_is_one_sentence(aladin: Run, photos: Path, arguments: tuple[str, ...], message: str) -> None:
    (photos / "nothing").mkdir()
    outcome = aladin(*(argument.replace("PHOTOS", str(photos)) for argument in arguments))
    assert (outcome.code, outcome.out) == (1, b"")
    assert message in outcome.err
    assert outcome.err.startswith("aladin: ")
    assert outcome.err.count("\n") == 1
    assert not (photos / "nothing" / ".aladin").exists()


def test_a_long_query_is_searched_and_its_cut_reported(aladin: Run, photos: Path) -> None:
    outcome = aladin("search", photos, "red " * 50, "--json")
    assert json.loads(outcome.out)["truncated"] is True
    assert outcome.err == "aladin: the query is longer than the model reads; its end was left out\n"
    assert outcome.code == 0


# In processes of their own.


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "aladin", *map(str, arguments)]


def test_a_reader_that_leaves_early_causes_no_complaint(photos: Path, model_path: Path) -> None:
    command = " ".join(command_line("search", photos, "red", "--model", model_path))
    ended = subprocess.run(f"{command} | true", shell=True, capture_output=True, check=True)
    assert ended.stderr == b""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("search", "red"), ("search", "red", "--json"), ("status",)], ids=" ".join)
def test_a_full_disk_under_stdout_is_one_sentence(photos: Path, model_path: Path, arguments: tuple[str, ...]) -> None:
    command, *rest = arguments
    model = ["--model", str(model_path)] if command == "search" else []
    subprocess.run(command_line("index", photos, "--model", model_path), check=True, capture_output=True)
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            command_line(command, photos, *rest, *model), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "aladin: the output cannot be written (No space left on device); make room, or send it elsewhere"
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, said)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("library", [b"/numpy/", b"/onnxruntime/"])
def test_ctrl_c_while_things_are_loaded_is_no_traceback(photos: Path, model_path: Path, library: bytes) -> None:
    command = command_line("search", photos, "red", "--model", model_path)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and library not in maps.read_bytes():
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()
    assert process.returncode == 130
    assert complaint.splitlines()[-1:] == ["aladin: interrupted; what was done so far is kept"]
    assert "Traceback" not in complaint


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_with_its_code_and_keeps_what_was_committed(
    photos: Path, model_path: Path, aladin: Run, number: signal.Signals, code: int
) -> None:
    content = (photos / "red.png").read_bytes()
    for copy in range(1500):
        (photos / f"{copy}.png").write_bytes(content + str(copy).encode())  # what follows the image makes them differ
    process = subprocess.Popen(command_line("index", photos, "--model", model_path), stderr=subprocess.PIPE, text=True)
    with process:
        while not default_file(photos).is_file() or not rows_of(photos):
            time.sleep(0.005)
        process.send_signal(number)
        _, complaint = process.communicate()
    assert (process.returncode, complaint.strip()) == (code, "aladin: interrupted; what was done so far is kept")
    kept = rows_of(photos)
    assert 0 < kept < 1500
    report = json.loads(aladin("index", photos, "--json").out)
    assert (report["added"], report["unchanged"]) == (1500 + len(COLOURS) - kept, kept)


def rows_of(folder: Path) -> int:
    connection = sqlite3.connect(default_file(folder))
    try:
        return int(connection.execute("SELECT count(*) FROM images").fetchone()[0])
    except sqlite3.OperationalError:  # the tables are not there yet
        return 0
    finally:
        connection.close()


def test_nothing_is_written_outside_the_collection(photos: Path, model_path: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "PYTHONDONTWRITEBYTECODE": "1"}
    command = command_line("search", photos, "red", "--model", model_path)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert list(home.rglob("*")) == []
    assert {file.name for file in photos.iterdir()} == {".aladin", *(f"{colour}.png" for colour in COLOURS)}


@pytest.fixture
def open_folder(photos: Path) -> Iterator[Path]:
    """The photographs and a model where everybody can read them, unlike in pytest's own folder."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    shutil.copytree(photos, folder / "photos")
    build_tiny_model(folder / "model")
    yield folder
    shutil.rmtree(folder)


def search_without_write_permission(folder: Path) -> subprocess.CompletedProcess[str]:
    script = (
        "import os, sys; import aladin.cli.search, aladin.encoder.registry, onnxruntime, rich; from aladin.cli import main\n"
        f"os.geteuid() or os.setuid({NOBODY})  # root may write everything\n"
        "main(sys.argv[1:])"
    )
    arguments = ["search", folder / "photos", "red", "--model", folder / "model", "-n", "1"]
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def test_a_collection_that_cannot_be_written_is_searched_as_it_is(aladin: Run, open_folder: Path) -> None:
    photos = open_folder / "photos"
    aladin("index", photos, "--model", open_folder / "model")
    default_file(photos).parent.chmod(0o555)
    ended = search_without_write_permission(open_folder)
    default_file(photos).parent.chmod(0o755)
    assert ended.returncode == 0
    assert ended.stdout.endswith("photos/red.png\n")
    assert "cannot be written; searching it as it is" in ended.stderr


def test_a_folder_that_cannot_be_written_points_to_collection(open_folder: Path) -> None:
    (open_folder / "photos").chmod(0o555)
    ended = search_without_write_permission(open_folder)
    (open_folder / "photos").chmod(0o755)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "name another place with --collection" in ended.stderr
    assert ended.stderr.count("\n") == 1
