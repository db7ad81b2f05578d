"""A change in a folder is told when it has come to rest, and what is no image is not."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aladin.collection.watch
from aladin.collection.watch import ticks
from aladin.errors import DataError
from tests.conftest import paint

WAITED = 40  # ticks


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("watchfiles")
    monkeypatch.setattr(aladin.collection.watch, "REST_MS", 100)
    monkeypatch.setattr(aladin.collection.watch, "TICK_MS", 50)


def told(ticking: Iterator[bool], within: int = WAITED) -> bool:
    """Whether one of the next ticks tells of a change."""
    return any(changed for _, changed in zip(range(within), ticking, strict=False))


def test_the_first_tick_is_true_and_silence_follows(photos: Path) -> None:
    ticking = ticks(photos)
    assert next(ticking)
    assert not told(ticking, 4)


@pytest.mark.parametrize("name", ["new.png", "below/new.jpg", "red.png.json"])
def test_a_new_image_a_folder_and_a_sidecar_are_told(photos: Path, name: str) -> None:
    ticking = ticks(photos)
    next(ticking)
    (photos / name).parent.mkdir(exist_ok=True)
    (photos / name).write_text("x")
    assert told(ticking)


def test_a_deleted_and_a_renamed_image_are_told(photos: Path) -> None:
    ticking = ticks(photos)
    next(ticking)
    (photos / "red.png").unlink()
    assert told(ticking)
    (photos / "blue.png").rename(photos / "sky.png")
    assert told(ticking)


@pytest.mark.slow
@pytest.mark.parametrize("name", [".hidden.png", ".aladin/collection.sqlite", "notes.txt"])
def test_what_is_hidden_or_no_image_is_not_told(photos: Path, name: str) -> None:
    (photos / ".aladin").mkdir()
    ticking = ticks(photos)
    next(ticking)
    (photos / name).write_text("x")
    assert not told(ticking, 8)


def test_a_folder_that_is_away_is_waited_for_and_told_when_it_is_back(photos: Path) -> None:
    away = photos.with_name("away")
    ticking = ticks(photos)
    next(ticking)
    photos.rename(away)
    for _ in range(WAITED):
        if not next(ticking):
            break
    assert not told(ticking, 4)
    shutil.copytree(away, photos)  # another folder of that name
    assert told(ticking)
    for _ in range(4):
        next(ticking)
    paint(photos / "new.png", "red")
    assert told(ticking), "it is the new one that is watched"


def test_without_the_package_the_way_to_it_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(DataError, match="run pip install"):
        next(ticks(photos))
