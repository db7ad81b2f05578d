"""`aladin model`, and `--model NAME` of the other commands."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aladin.cli import main
from tests.tiny_encoders import build_encoder
from tests.tiny_model import build_tiny_encoder

Ran = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    monkeypatch.setenv("ALADIN_MODELS", str(tmp_path / "home"))

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build_tiny_encoder(tmp_path / "tiny", 0.2, encoder='[origin]\nname = "us/tiny"\nlicence = "mit"\n')


def test_an_added_model_answers_by_its_name(run: Ran, source: Path, photos: Path) -> None:
    code, out, _ = run("model", "add", source, "colours")
    assert (code, out.strip()) == (0, "added colours: clip, 0 MB, licence: mit")
    code, out, _ = run("search", photos, "red", "--model", "colours", "--json", "-n", 1, "--why")
    assert code == 0
    assert json.loads(out)["hits"][0]["path"] == str(photos / "red.png")
    assert run("explain", photos / "red.png", "red", "--model", "colours")[0] == 0
    assert run("index", photos, "--model", "colours", "-q")[0] == 0
    assert run("caption", photos / "red.png", "red", "--model", "nothing")[0] != 0


def test_the_folders_name_is_the_models_unless_another_is_given(run: Ran, source: Path) -> None:
    assert json.loads(run("model", "add", source, "--json")[1])["name"] == "tiny"
    code, _, err = run("model", "add", source)
    assert (code, "there is a model 'tiny' already" in err) == (1, True)


def test_models_are_listed_shown_and_removed(run: Ran, source: Path) -> None:
    run("model", "add", source)
    assert [line.split()[0] for line in run("model", "list")[1].splitlines()] == ["lite", "tiny"]
    assert [model["family"] for model in json.loads(run("model", "list", "--json")[1])["models"]] == ["aladin", "clip"]
    shown = json.loads(run("model", "show", "tiny", "--json")[1])
    assert (shown["picture"], shown["regions"], shown["region_share"], shown["licence"]) == ("16 px, squash", 4, 0.2, "mit")
    assert "probabilities" in run("model", "show", "lite")[1]
    assert run("model", "remove", "tiny")[0] == 0
    code, _, err = run("model", "show", "tiny")
    assert (code, "no model was added as 'tiny'; known are lite" in err) == (1, True)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "has neither model.toml nor config.json; known layouts are"),
        (("visual/model.onnx", "config.json"), "has immich's layout (visual/model.onnx), which is not read yet"),
        (("visual.onnx",), "has rclip's layout (visual.onnx), which is not read yet"),
        (("onnx/vision_model.onnx", "config.json"), "has onnx-community's layout"),
        (("open_clip_config.json",), "has open_clip's layout"),
    ],
)
def test_a_layout_that_is_not_read_is_refused_by_its_name(
    run: Ran, tmp_path: Path, files: tuple[str, ...], sentence: str
) -> None:
    for file in ("given/readme", *(f"given/{name}" for name in files)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    code, _, err = run("model", "add", tmp_path / "given")
    assert (code, sentence in err, err.count("\n")) == (1, True, 1)


@pytest.mark.parametrize(("source", "sentence"), [("hf:tiny", "expected hf:OWNER/NAME"), ("nowhere", "nowhere is no folder")])
def test_what_is_no_folder_is_one_sentence(run: Ran, source: str, sentence: str) -> None:
    code, _, err = run("model", "add", source)
    assert (code, sentence in err, err.count("\n")) == (1, True, 1)


@pytest.mark.slow
def test_a_public_encoder_is_exported_and_searches_and_explains(run: Ran, photos: Path, tmp_path: Path) -> None:
    source = build_encoder("clip", tmp_path / "source" / "b32")
    code, out, _ = run("model", "add", source, "--precision", "fp32")
    assert code == 0
    assert out.startswith("added b32: clip, ")
    code, out, _ = run("search", photos, "a red bird", "--model", "b32", "--why", "--json", "-q")
    hits = json.loads(out)["hits"]
    assert (code, len(hits)) == (0, 6)
    for hit in hits:
        shares = sum(share["contribution"] for share in hit["explanation"]["shares"])
        assert shares + hit["explanation"]["whole"] == pytest.approx(hit["score"], abs=1e-5)
    assert "cropped" in run("status", photos)[1]


def test_a_family_that_is_not_known_is_refused_with_those_that_are(run: Ran, tmp_path: Path) -> None:
    folder = tmp_path / "blip"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "blip"}')
    code, _, err = run("model", "add", folder)
    assert (code, "has model_type 'blip'; known ones are altclip, chinese_clip, clip" in err, err.count("\n")) == (1, True, 1)
