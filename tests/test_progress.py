"""Progress is a plain call; steps have names; silence is both."""

import pytest

from aladin.cli.progress import TerminalSteps
from aladin.progress import SILENT, Progress, Steps


def test_silence_shows_nothing_of_a_step_or_of_many(capsys: pytest.CaptureFixture[str]) -> None:
    SILENT(1, 2)
    with SILENT.step("images") as progress:
        progress(2, 2)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_each_step_under_its_name(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aladin.cli.progress.LINE_EVERY", 0.0)
    steps: Steps = TerminalSteps()
    for name in ("images", "captions"):
        with steps.step(name) as progress:
            progress(500, 1000)
    assert capsys.readouterr().err == "images: 500 of 1,000\ncaptions: 500 of 1,000\n"


def test_a_plain_function_is_progress() -> None:
    assert isinstance(lambda done, total: None, Progress)
