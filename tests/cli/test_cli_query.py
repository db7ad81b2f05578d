"""What can be asked at the command line: several texts and images, what is not wanted, conditions, why, and how likely."""

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from aladin.cli.query import QueryOptions
from aladin.pictures.boxes import Box
from aladin.search.query import ImagePart, TextPart
from tests.cli.test_cli_search import Outcome, Run, aladin, command_line
from tests.conftest import paint
from tests.search.test_search import CALIBRATION
from tests.tiny_model import COLOURS, build_tiny_model

__all__ = ["aladin"]  # a fixture


@pytest.fixture
def striped(photos: Path) -> Path:
    """One picture of each colour, and some of two, in a folder of their own, by another camera and older."""
    for two in (("red", "blue"), ("red", "green"), ("white", "green")):
        path = paint(photos / "two" / f"{' '.join(two)}.png", *two)
        with Image.open(path) as image:
            exif = image.getexif()
            exif[0x010F], exif[0x0110] = "Nikon", "D3500"
            exif[0x0132] = "2020:05:01 12:00:00"
            image.save(path, exif=exif)
    for colour in COLOURS:
        when = datetime(2024, 3, 1).timestamp()
        os.utime(photos / f"{colour}.png", (when, when))
    return photos


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    folder = build_tiny_model(tmp_path / "calibrated")
    with (folder / "model.toml").open("a") as file:
        file.write(CALIBRATION)
    return folder


def names(outcome: Outcome) -> list[str]:
    assert outcome.code == 0, outcome.err
    return [Path(path).stem for _, path in outcome.lines]


# Parts.


def test_texts_and_images_come_together(aladin: Run, striped: Path) -> None:
    assert names(aladin("search", striped, "red", "--and", "green"))[0] == "red green"
    assert names(aladin("search", striped, "green", "--image", striped / "red.png"))[0] == "red green"
    assert names(aladin("search", striped, "--image", striped / "red.png"))[0] == "pink"
    assert names(aladin("similar", striped, striped / "red.png", "--and", "green"))[0] == "red green"


def test_weights_follow_the_order_of_texts_and_then_images(aladin: Run, striped: Path) -> None:
    red = names(aladin("search", striped, "red", "--and", "blue", "--weight", 9, "-n", 2))
    blue = names(aladin("search", striped, "red", "--and", "blue", "--weight", 1, "--weight", 9, "-n", 2))
    assert (set(red), set(blue)) == ({"red", "red blue"}, {"blue", "red blue"})


def test_what_is_unwanted_sinks(aladin: Run, striped: Path) -> None:
    assert set(names(aladin("search", striped, "red", "--without", "blue", "-n", 2))) == {"red", "red green"}


def test_a_box_of_an_image_is_searched(aladin: Run, striped: Path) -> None:
    picture = striped / "two" / "white green.png"
    expected = names(aladin("similar", striped, picture, "--box", "17,0,15,24", "-n", 2))
    assert set(expected) == {"green", "red green"}
    assert names(aladin("search", striped, "--image", picture, "--box", "17,0,15,24", "-n", 2)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "PHOTOS"), "nothing is looked for; give a TEXT, or an image with --image"),
        (("search", "PHOTOS", "red", "--box", "1,2,3,4"), "there are more boxes than images"),
        (("search", "PHOTOS", "red", "--weight", 1, "--weight", 2), "there are more weights than texts and images"),
        (("search", "PHOTOS", "red", "--weight", 0), "0"),
        (("search", "PHOTOS", "red", "--image", "PHOTOS/red.png", "--box", "1,2"), "is no box; expected x,y,width,height"),
        (("search", "PHOTOS", "red", "--after", "yesterday"), "is no date; write 2024"),
        (("search", "PHOTOS", "red", "--after", "2024-13-01"), "'2024-13-01' is not in the calendar (month must be in 1..12)"),
        (("search", "PHOTOS", "red", "--before", "2023-02-29"), "is not in the calendar (day"),
        (("search", "PHOTOS", "red", "--before", "2024-00"), "is not in the calendar"),
        (("search", "PHOTOS", "red", "--after", "2024-01-01T24"), "is not in the calendar"),
        (("search", "PHOTOS", "red", "--where", "widht > 3"), "there is no column widht; did you mean width?"),
        (("search", "PHOTOS", "red", "--where", ""), "Invalid value for '--where': the condition is empty"),
        (("similar", "PHOTOS", "PHOTOS/red.png", "--where", "width >"), "is not understood at its end"),
        (("search", "PHOTOS", "red", "--after", "2024", "--where", "1) OR (1"), "is not understood at character 2, ')'"),
        (("search", "PHOTOS", "red", "--min-probability", 2), "2"),
        (("search", "PHOTOS", "red", "--min-probability", "nan"), "nan is no finite number"),
        (("search", "PHOTOS", "red", "--weight", "inf"), "inf is no finite number"),
        (("search", "PHOTOS", "red", "--json", "--tsv"), "--tsv is a second form of output beside --json; give one"),
        (("similar", "PHOTOS", "PHOTOS/red.png", "--json", "-0"), "is a second form of output beside --"),
        (("search", "PHOTOS", "red", "--why", "-0"), "-0 has no room for what --why tells; leave out one of them"),
        (("search", "", "red"), "Invalid value for 'FOLDER': the path is empty"),
        (("search", "PHOTOS", "red", "--in", ""), "Invalid value for '--in': the path is empty"),
        (("search", "PHOTOS", "red", "--collection", ""), "Invalid value for '--collection': the path is empty"),
        (("similar", "PHOTOS", ""), "Invalid value for 'IMAGE': the path is empty"),
        (("index", ""), "write . for the folder that you are in"),
        (("index", "PHOTOS", "--model", ""), "Invalid value for '--model': the path is empty"),
        (("caption", "PHOTOS/red.png", "--from", ""), "Invalid value for '--from': the path is empty"),
        (("explain", "PHOTOS/red.png", "red", "--png", "why.jpg"), "why.jpg does not end in .png"),
        (("explain", "PHOTOS/red.png"), "nothing is looked for"),
    ],
)
def test_wrong_usage_ends_with_2(aladin: Run, photos: Path, arguments: tuple[object, ...], message: str) -> None:
    outcome = aladin(*(str(argument).replace("PHOTOS", str(photos)) for argument in arguments))
    assert (outcome.code, outcome.out) == (2, b"")
    assert message in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--and", " "), "the query is empty"),
        (("--without", ""), "the query is empty"),
        (("--min-probability", 0.5), "the model has no calibration"),
        (("--why", "--rerank", 0), "let rerank be above 0"),
        (("--image", "PHOTOS/red.png", "--box", "99,99,5,5"), "is outside the picture, which has 32 x 24 px"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(aladin: Run, photos: Path, options: tuple[object, ...], message: str) -> None:
    outcome = aladin("search", photos, "red", *(str(option).replace("PHOTOS", str(photos)) for option in options))
    assert (outcome.code, outcome.out) == (1, b"")
    assert message in outcome.err
    assert outcome.err.startswith("aladin: ")
    assert outcome.err.count("\n") == 1


# Conditions.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--where", "name LIKE 'red%'"), {"red", "red blue", "red green"}),
        (("--in", "two"), {"red blue", "red green", "white green"}),
        (("--in", "PHOTOS/two"), {"red blue", "red green", "white green"}),
        (("--in", ".", "--where", "name = 'red.png'"), {"red"}),
        (("--before", "2021"), {"red blue", "red green", "white green"}),
        (("--after", "2024-02", "--before", "2024-03-02"), set(COLOURS)),
        (("--after", "2020-05-01T12", "--before", "2020-05-01T12:00:01"), {"red blue", "red green", "white green"}),
        (("--camera", "nikon"), {"red blue", "red green", "white green"}),
        (("--camera", "nikon", "--where", "name = 'red.png' OR name = 'red blue.png'"), {"red blue"}),
    ],
)
def test_conditions_choose_what_is_searched(aladin: Run, striped: Path, options: tuple[str, ...], expected: set[str]) -> None:
    assert (
        set(names(aladin("search", striped, "red", *(option.replace("PHOTOS", str(striped)) for option in options))))
        == expected
    )


def test_a_folder_may_be_named_from_where_one_is(aladin: Run, striped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(striped / "two")
    assert set(names(aladin("search", "..", "red", "--in", "."))) >= {"red", "red blue"}
    assert set(names(aladin("search", "..", "red", "--in", "../two"))) == {"red blue", "red green", "white green"}


def test_a_date_may_have_a_blank_before_the_time(aladin: Run, striped: Path) -> None:
    blank = ("--after", "2020-05-01 12", "--before", "2020-05-01 12:00:01")
    assert set(names(aladin("search", striped, "red", *blank))) == {"red blue", "red green", "white green"}


def test_a_folder_that_the_collection_does_not_have_is_named(aladin: Run, striped: Path) -> None:
    outcome = aladin("search", striped, "red", "--in", "nosuch")
    said = f"aladin: the collection has no folder nosuch; name one from {striped}, or from here\n"
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", said)
    outcome = aladin("search", striped, "red", "--in", "two/", "--in", "tw")
    assert (len(outcome.lines), outcome.err) == (3, said.replace("nosuch", "tw"))
    assert (
        aladin("search", striped, "red", "--in", ".", "--where", "width > 999").err == "aladin: no image meets the condition\n"
    )


def test_a_condition_that_nothing_meets_is_said(aladin: Run, photos: Path) -> None:
    outcome = aladin("search", photos, "red", "--where", "width > 9999")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "aladin: no image meets the condition\n")
    assert aladin("search", photos, "red", "--where", "width > 9999", "--fail-empty").code == 4


def test_conditions_join_into_one() -> None:
    options = QueryOptions(after="2024", folders=("a", "b"), camera="Can'on", where="width > 3 OR height > 3")
    assert options.query("red").where == (
        "date >= '2024' AND (substr(path, 1, 2) = 'a/' OR substr(path, 1, 2) = 'b/') "
        "AND instr(lower(camera), 'can''on') > 0 AND (width > 3 OR height > 3)"
    )
    assert QueryOptions().query("red").where is None


def test_the_commands_own_argument_comes_first() -> None:
    options = QueryOptions(texts=("b",), images=(Path("x"),), boxes=(Box(1, 2, 3, 4),), weights=(1.0, 2.0, 3.0))
    assert options.query(text="a").wanted == (
        TextPart("a", 1.0),
        TextPart("b", 2.0),
        ImagePart(Path("x"), 3.0, Box(1, 2, 3, 4)),
    )
    assert options.query(image=Path("y")).wanted == (
        TextPart("b", 1.0),
        ImagePart(Path("y"), 2.0, Box(1, 2, 3, 4)),
        ImagePart(Path("x"), 3.0),
    )


# How likely.


def test_when_nothing_matches_it_is_said(aladin: Run, photos: Path, calibrated: Path) -> None:
    outcome = aladin("search", photos, "zebra", "--model", calibrated)
    assert outcome.err == "aladin: nothing here seems to match; these are the nearest\n"
    assert (outcome.code, len(outcome.lines)) == (0, len(COLOURS))
    assert aladin("search", photos, "zebra", "--model", calibrated, "--fail-empty").code == 4
    assert aladin("search", photos, "red", "--model", calibrated, "--fail-empty").code == 0
    assert aladin("search", photos, "zebra", "--model", calibrated, "-q").err == ""


def test_only_likely_hits_are_told_when_asked(aladin: Run, photos: Path, calibrated: Path) -> None:
    likely = aladin("search", photos, "red", "--model", calibrated, "--min-probability", 0.5)
    assert (set(names(likely)), likely.err) == ({"red", "pink", "yellow", "white"}, "")
    none = aladin("search", photos, "zebra", "--model", calibrated, "--min-probability", 0.5)
    assert (none.code, none.out) == (0, b"")
    assert none.err.startswith("aladin: nothing here matches; the nearest are ")
    assert none.err.count(str(photos)) == 3
    assert "%)" in none.err
    answer = json.loads(aladin("search", photos, "zebra", "--model", calibrated, "--min-probability", 0.5, "--json").out)
    assert (answer["answered"], answer["hits"], len(answer["nearest"])) == (False, [], 3)


# Why.


def test_why_is_told_in_json(aladin: Run, striped: Path) -> None:
    hit = json.loads(aladin("search", striped, "Red and blue", "--why", "--json").out)["hits"][0]
    shares = hit["explanation"]["shares"]
    assert [share["word"] for share in shares] == ["Red", "and", "blue"]
    whole = hit["explanation"]["whole"]
    assert whole + sum(share["contribution"] for share in shares) == pytest.approx(hit["score"], abs=1e-5)
    assert shares[0]["box"] == {"x": 0, "y": shares[0]["box"]["y"], "width": 16, "height": 12}


def test_explain_tells_what_a_search_tells(aladin: Run, striped: Path) -> None:
    options = ("--and", "green", "--without", "pink", "--weight", 2)
    picture = striped / "two" / "red blue.png"
    hits = json.loads(aladin("search", striped, "red", *options, "--why", "--json").out)["hits"]
    (searched,) = (hit for hit in hits if hit["path"] == str(picture))
    explained = json.loads(aladin("explain", picture, "red", *options, "--json").out)
    assert explained["shares"] == searched["explanation"]["shares"]
    assert explained["score"] == pytest.approx(searched["score"], abs=1e-5)
    assert (explained["path"], explained["query"]) == (str(picture), "2 x red + green without pink")


def test_explain_prints_a_table_for_people(aladin: Run, striped: Path) -> None:
    outcome = aladin("explain", striped / "two" / "red blue.png", "Red blue\u202e")
    assert outcome.code == 0
    lines = outcome.out.decode().splitlines()
    assert lines[0].split() == ["part", "of", "the", "query", "word", "similarity", "adds", "box"]
    assert "Red" in lines[1]
    assert "0,0,16,12" in lines[1]
    assert "blue\\u202e" in lines[2]
    assert "\u202e" not in outcome.out.decode()
    assert lines[3].split()[0] == "score"


def test_explain_draws_a_picture(aladin: Run, striped: Path, tmp_path: Path) -> None:
    outcome = aladin("explain", striped / "two" / "red blue.png", "red blue", "--png", tmp_path / "why.png")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")
    with Image.open(tmp_path / "why.png") as drawing:
        assert (drawing.format, drawing.width > 900) == ("PNG", True)
    assert aladin("explain", striped / "red.png", "red", "--png", tmp_path / "why.png").code == 0  # one of its own
    for photograph in (striped / "red.png", striped / "two" / "red blue.png"):
        before = photograph.read_bytes()
        refused = aladin("explain", striped / "red.png", "red", "--png", photograph)
        assert (refused.code, photograph.read_bytes()) == (1, before)
        assert "exists and was not written by this command; give another name, or remove it first" in refused.err
    failed = aladin("explain", striped / "red.png", "red", "--png", tmp_path / "none" / "why.png")
    assert failed.code == 1
    assert "cannot be written (No such file or directory); give another --png" in failed.err


def test_explain_names_what_is_no_image(aladin: Run, photos: Path) -> None:
    outcome = aladin("explain", photos / "none.png", "red")
    assert (outcome.code, "there is no image file" in outcome.err) == (1, True)


def test_a_long_query_is_explained_and_its_cut_reported(aladin: Run, photos: Path) -> None:
    outcome = aladin("explain", photos / "red.png", "red " * 50, "--json")
    assert outcome.err == "aladin: the query is longer than the model reads; its end was left out\n"
    assert len(json.loads(outcome.out)["shares"]) == 10


# Captions.


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(COLOURS))
    return tmp_path / "texts.txt"


def test_caption_finds_the_texts_of_an_image(aladin: Run, photos: Path, texts: Path) -> None:
    outcome = aladin("caption", photos / "green.png", "--from", texts, "-n", 2)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.lines[0][1] == "green"
    assert len(outcome.lines) == 2


def test_caption_tells_why_and_speaks_json(aladin: Run, photos: Path, texts: Path) -> None:
    told = aladin("caption", photos / "green.png", "--from", texts, "-n", 1, "--why").out.decode().splitlines()
    assert len(told) == 2
    assert told[1].startswith("\tgreen +")
    answer = json.loads(aladin("caption", photos / "green.png", "--from", texts, "--why", "--json").out)
    assert answer["texts"] == len(COLOURS)
    for hit in answer["hits"]:
        shares, whole = hit["explanation"]["shares"], hit["explanation"]["whole"]
        assert whole + sum(share["contribution"] for share in shares) == pytest.approx(hit["score"], abs=0.02)


def test_caption_reads_texts_from_stdin(photos: Path, model_path: Path) -> None:
    command = command_line("caption", photos / "green.png", "--from", "-", "--model", model_path, "-n", 1)
    ended = subprocess.run(command, input="red\ngreen\n", capture_output=True, text=True, check=True)
    assert (ended.stdout.split("\t")[1], ended.stderr) == ("green\n", "")


@pytest.mark.parametrize(
    ("image", "source", "message"),
    [("none.png", "texts.txt", "there is no image file"), ("red.png", "none.txt", "none.txt cannot be read")],
)
def test_caption_names_what_is_missing(aladin: Run, photos: Path, texts: Path, image: str, source: str, message: str) -> None:
    outcome = aladin("caption", photos / image, "--from", texts.parent / source)
    assert (outcome.code, message in outcome.err) == (1, True)
