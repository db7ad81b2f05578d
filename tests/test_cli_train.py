import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from aladin import pair_teacher
from aladin.checkpoints import load_model, save_model
from aladin.cli import main
from aladin.model import Aladin
from tests.tiny_learning import TINY, losses, tiny_model, write_pictures, write_tokenizer

RECIPE = """
train = ["backbone", "matching_head"]
epochs = 2
batch_images = 4
views = 1
[loss]
distillation = 1.0
[optimizer]
warmup_steps = 1
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, a model to start from, and pictures with captions; their features are kept in `cache`."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "recipe.toml").write_text(RECIPE)
    tokenizer = write_tokenizer(folder / "tokenizer")
    save_model(tiny_model(tokenizer), tokenizer, folder / "model")
    write_pictures(folder / "pictures", 8)
    return folder


def arguments(files: Path, out: Path, **changes: Path | str) -> list[str]:
    data = files / "pictures"
    options = {"--train": data, "--val": data, "--start": files / "model", "--cache": files / "cache"}
    options |= {f"--{name}": Path(value) for name, value in changes.items() if name != "recipe"}
    recipe = changes.get("recipe", files / "recipe.toml")
    return ["train", str(recipe), "--out", str(out), *(str(part) for option in options.items() for part in option)]


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a failing command prints, with nothing on stdout."""
    assert exit_code(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("aladin: ")
    return line


def test_a_recipe_data_and_a_folder_make_a_model(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert exit_code(arguments(files, out)) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("best validation rsum of the matching head: ")
    assert printed.out.endswith(f"the model is in {out / 'best'}\n")
    assert "epoch 1: matching rsum " in printed.err
    assert len(losses(out)) == 4
    assert load_model(out / "best").config == load_model(files / "model").config
    assert (files / "cache").is_dir()
    assert not (out / "features").exists()
    # Asked again, there is nothing left to do.
    assert exit_code(arguments(files, out)) == 0
    assert capsys.readouterr().out == printed.out


def test_a_teacher_is_loaded_once(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = files / "model" / "tokenizer.json"
    headed = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, pair_head=True))
    save_model(tiny_model(tokenizer, headed, seed=5), tokenizer, tmp_path / "teacher")
    recipe = tmp_path / "taught.toml"
    recipe.write_text(
        'train = ["matching_head"]\nepochs = 1\nbatch_images = 4\nviews = 1\n[loss]\nalignment = 0.0\npair_teacher = 1.0\n'
    )
    loaded: list[Path] = []

    def load(folder: Path) -> Aladin:
        loaded.append(folder)
        return load_model(folder)

    monkeypatch.setattr(pair_teacher, "load_model", load)
    command = arguments(files, tmp_path / "run", recipe=recipe, teacher=tmp_path / "teacher")
    assert exit_code(command) == 0
    assert loaded == [tmp_path / "teacher"]
    assert all("loss pair_teacher" in step for step in losses(tmp_path / "run").values())


def test_a_seed_given_on_the_command_line_replaces_the_recipes(files: Path, tmp_path: Path) -> None:
    assert exit_code([*arguments(files, tmp_path / "run"), "--seed", "7"]) == 0
    assert "\nseed = 7\n" in (tmp_path / "run" / "settings.toml").read_text()


def test_another_recipe_in_a_runs_folder_is_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments(files, tmp_path / "run")) == 0
    settings = (tmp_path / "run" / "settings.toml").read_text()
    capsys.readouterr()
    assert exit_code([*arguments(files, tmp_path / "run"), "--seed", "7"]) == 1
    assert "belongs to another recipe; give another --out" in capsys.readouterr().err
    assert (tmp_path / "run" / "settings.toml").read_text() == settings


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"recipe": "no.toml"}, "there is no file no.toml"),
        ({"train": "nowhere"}, "there is no file or folder nowhere"),
        ({"val": "nowhere"}, "there is no file or folder nowhere"),
        ({"start": "nowhere"}, "nowhere is not a model folder: it has no model.toml"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(
    wrong: dict[str, str], expected: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in failure(arguments(files, tmp_path / "run", **wrong), capsys)
    assert not (tmp_path / "run").exists()


def test_a_setting_that_is_wrong_is_named_with_its_file(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[optimizer]\nlerning_rate = 1e-4\n")
    line = failure(arguments(files, tmp_path / "run", recipe=recipe), capsys)
    assert f"unknown setting 'lerning_rate' in [optimizer] of {recipe}; did you mean 'learning_rate'?" in line


def test_a_bad_row_stops_the_command_unless_it_may_be_skipped(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = Path(shutil.copy(files / "pictures" / "captions.jsonl", tmp_path))
    with captions.open("a") as file:
        file.write(json.dumps({"image": "gone.png", "captions": ["a picture"]}) + "\n")
    command = [*arguments(files, tmp_path / "run", train=captions), "--train-images", str(files / "pictures")]
    assert "gone.png" in failure(command, capsys)
    assert exit_code([*command, "--skip-bad"]) == 0
    assert f"{captions}: 1 rows skipped: " in capsys.readouterr().err


def test_an_image_that_cannot_be_decoded_stops_the_command_unless_it_may_be_skipped(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_pictures(tmp_path / "pictures", 6)
    (pictures / "2.png").write_bytes(b"no picture")
    whole = (pictures / "3.png").read_bytes()
    (pictures / "3.png").write_bytes(whole[: len(whole) // 2])
    command = arguments(files, tmp_path / "run", train=pictures, cache=tmp_path / "cache")
    assert "2.png is not an image" in failure(command, capsys)
    assert exit_code([*command, "--skip-bad"]) == 0
    told = capsys.readouterr().err
    assert f"{pictures}: 1 rows skipped: the image is not an image" in told
    assert f"{pictures}: 1 rows skipped: the image cannot be decoded" in told


def test_a_single_image_is_too_few(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_pictures(tmp_path / "one", 1)
    assert "has fewer than 2 images" in failure(arguments(files, tmp_path / "run", train=one), capsys)


def test_an_option_left_out_or_unknown_is_wrong_usage(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", str(files / "recipe.toml"), "--out", str(tmp_path)]) == 2
    assert "Missing option '--train'" in capsys.readouterr().err
    assert exit_code([*arguments(files, tmp_path), "--epochs", "3"]) == 2


def test_help_names_every_file_that_a_run_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in ("log.jsonl", "settings.toml", "checkpoint", "OUT/best", "TensorBoard"))
