import dataclasses
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from aladin.cli import main
from aladin.config import read_toml, to_table
from aladin.network.checkpoints import load_model, provenance, save_model
from aladin.network.model import Aladin
from aladin.training.recipe import read_recipe
from aladin.training.teachers import cross_encoder
from tests.tiny_learning import TINY, losses, picture, tiny_model, write_pictures, write_tokenizer

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
    """A folder with a recipe, a model to start from, and pictures with captions to learn from and others to judge by; their
    features are kept in `cache`.
    """
    folder = tmp_path_factory.mktemp("files")
    (folder / "recipe.toml").write_text(RECIPE)
    tokenizer = write_tokenizer(folder / "tokenizer")
    save_model(tiny_model(tokenizer), tokenizer, folder / "model")
    write_pictures(folder / "pictures", 8)
    write_pictures(folder / "others", 6, first=8)
    return folder


def arguments(files: Path, out: Path, **changes: Path | str) -> list[str]:
    options = {"--train": files / "pictures", "--val": files / "others"}
    options |= {"--start": files / "model", "--cache": files / "cache"}
    options |= {f"--{name}": Path(value) for name, value in changes.items() if name != "recipe"}
    recipe = changes.get("recipe", files / "recipe.toml")
    return ["train", str(recipe), "--out", str(out), *(str(part) for option in options.items() for part in option)]


def exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a failing command prints, with nothing on stdout; what it needs on the disk may be said before."""
    assert exit_code(arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    *before, line = printed.err.splitlines()
    assert all(text.startswith("image features take ") for text in before)
    assert line.startswith("aladin: ")
    return line


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_validation_within_an_epoch_is_shown_as_such(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("validate_steps = 1\n" + RECIPE)
    assert exit_code(arguments(files, tmp_path / "run", recipe=recipe)) == 0
    shown = [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines() if "matching rsum" in line]
    assert shown == ["within epoch 0", "epoch 0", "within epoch 1", "epoch 1"]


@pytest.mark.slow
def test_a_run_records_what_it_is_made_of_and_what_is_made_of_its_model_keeps_that(files: Path, tmp_path: Path) -> None:
    """The tables of settings.toml and of model.toml, which averaging and correcting hubs hand on."""
    model, out = files / "model", tmp_path / "run"
    captions = Path(shutil.copy(files / "pictures" / "captions.jsonl", tmp_path))
    captions.write_text(captions.read_text() + '{"image": "gone.png", "captions": ["a picture"]}\n')
    command = arguments(files, out, train=captions)
    assert exit_code([*command, "--train-images", str(files / "pictures"), "--skip-bad"]) == 0
    start = {"name": "model", "fingerprint": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()}
    made_of = read_toml(out / "settings.toml")["training"]
    assert made_of["start"] == start
    data = made_of["data"]
    assert data["train"] | {"digest": ""} == {
        "name": "captions.jsonl",
        "images": 8,
        "captions": 16,
        "digest": "",
        "skipped": {"image is missing": 1},
    }
    assert data["val"] | {"digest": ""} == {"name": "others", "images": 6, "captions": 12, "digest": ""}
    training = provenance(out / "best")["training"]
    assert {name: training[name] for name in made_of} == made_of
    assert training["recipe"] == to_table(read_recipe(files / "recipe.toml"))
    assert str(tmp_path) not in (out / "best" / "model.toml").read_text()

    assert exit_code(["average", str(tmp_path / "mean"), str(out / "best"), str(model)]) == 0
    best, plain = provenance(tmp_path / "mean")["average"]["models"]
    assert best["name"] == "run/best"
    assert best["training"] == training
    assert plain == start

    hubs = ["correct-hubs", str(tmp_path / "mean"), str(tmp_path / "corrected"), "--data", str(files / "others")]
    assert exit_code([*hubs, "--centres", "3", "--cache", str(files / "cache")]) == 0
    corrected = provenance(tmp_path / "corrected")
    assert corrected["average"] == provenance(tmp_path / "mean")["average"]
    assert corrected["hub_correction"]["model"]["name"] == "mean"
    assert corrected["hub_correction"]["data"]["digest"] == data["val"]["digest"]


@pytest.mark.slow
def test_a_teacher_is_loaded_once(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = files / "model" / "tokenizer.json"
    headed = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True))
    save_model(tiny_model(tokenizer, headed, seed=5), tokenizer, tmp_path / "teacher")
    recipe = tmp_path / "taught.toml"
    recipe.write_text(
        'train = ["matching_head"]\nepochs = 1\nbatch_images = 4\nviews = 1\n[loss]\nalignment = 0.0\n'
        '[[teacher]]\nkind = "cross_encoder"\nmatching = 1.0\n'
    )
    loaded: list[Path] = []

    def load(folder: Path) -> Aladin:
        loaded.append(folder)
        return load_model(folder)

    monkeypatch.setattr(cross_encoder, "load_model", load)
    command = arguments(files, tmp_path / "run", recipe=recipe, teacher=tmp_path / "teacher")
    assert exit_code(command) == 0
    assert loaded == [tmp_path / "teacher"]
    assert all("loss cross_encoder_matching" in step for step in losses(tmp_path / "run").values())


@pytest.mark.slow
def test_several_models_teach_and_are_recorded_without_their_paths(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = files / "model" / "tokenizer.json"
    for name, seed in (("one", 5), ("other", 6)):
        save_model(tiny_model(tokenizer, seed=seed), tokenizer, tmp_path / name)
    recipe = tmp_path / "lite.toml"
    recipe.write_text(RECIPE.replace("distillation", "ensemble_matching"))
    command = arguments(files, tmp_path / "run", recipe=recipe)
    assert exit_code([*command, "--ensemble", str(tmp_path / "one"), "--ensemble", str(tmp_path / "other")]) == 0
    assert all("loss ensemble_matching" in step for step in losses(tmp_path / "run").values())
    best = tmp_path / "run" / "best"
    training = provenance(best)["training"]
    assert [model["name"] for model in training["teachers"]["ensemble"]["models"]] == ["one", "other"]
    assert training["recipe"]["teacher"][0]["models"] == ["one", "other"]
    assert str(tmp_path) not in (best / "model.toml").read_text()

    save_model(tiny_model(tokenizer, seed=7), tokenizer, tmp_path / "other")
    assert exit_code([*command, "--ensemble", str(tmp_path / "one"), "--ensemble", str(tmp_path / "other")]) == 1
    assert "belongs to a run with another teacher of kind ensemble, one (weights " in capsys.readouterr().err


@pytest.mark.slow
def test_a_seed_given_on_the_command_line_replaces_the_recipes(files: Path, tmp_path: Path) -> None:
    assert exit_code([*arguments(files, tmp_path / "run"), "--seed", "7"]) == 0
    assert "\nseed = 7\n" in (tmp_path / "run" / "settings.toml").read_text()


@pytest.mark.slow
def test_another_recipe_in_a_runs_folder_is_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments(files, tmp_path / "run")) == 0
    settings = (tmp_path / "run" / "settings.toml").read_text()
    capsys.readouterr()
    assert exit_code([*arguments(files, tmp_path / "run"), "--seed", "7"]) == 1
    assert "belongs to another recipe; give another --out" in capsys.readouterr().err
    assert (tmp_path / "run" / "settings.toml").read_text() == settings


@pytest.mark.slow
def test_another_start_or_other_images_in_a_runs_folder_are_refused_and_change_nothing(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert exit_code(arguments(files, out)) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    tokenizer = files / "model" / "tokenizer.json"
    save_model(tiny_model(tokenizer, seed=9), tokenizer, tmp_path / "start")
    capsys.readouterr()
    said = failure(arguments(files, out, start=tmp_path / "start"), capsys)
    assert "belongs to a run with another start, model (weights " in said
    assert "not start (weights " in said
    assert f"give another --out, or delete {out} to start anew" in said
    for option, name, what, count in (("train", "pictures", "training", 8), ("val", "others", "validation", 6)):
        changed = Path(shutil.copytree(files / name, tmp_path / name))
        Image.fromarray(picture(19)).save(next(changed.glob("*.png")))  # the captions stay
        said = failure(arguments(files, out, cache=tmp_path / "cache", **{option: changed}), capsys)
        assert f"belongs to a run on other {what} images, {count} of {name}, not these {count} of {name}" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "cache").exists()  # it is said before features are computed


def test_images_to_learn_from_and_to_judge_by_are_kept_apart(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(arguments(files, tmp_path / "run", val=files / "pictures"), capsys)
    assert "8 of the 8 validation images are training images too, such as '0.png'" in said
    assert "--train-split and --val-split" in said
    assert not (tmp_path / "run").exists()


def test_a_disk_without_room_for_the_features_is_said_before_any_is_computed(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "views.toml"
    recipe.write_text((files / "recipe.toml").read_text().replace("views = 1", "views = 1_000_000_000"))
    said = failure(arguments(files, tmp_path / "run", recipe=recipe, cache=tmp_path / "cache"), capsys)
    assert "aladin: the image features need 28,688.0 GB more in" in said
    assert "train with fewer views than 1000000000" in said
    assert not (tmp_path / "cache").exists()


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded_stops_the_command_unless_it_may_be_skipped(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = write_pictures(tmp_path / "pictures", 6)
    (pictures / "2.png").write_bytes(b"no picture")
    whole = (pictures / "3.png").read_bytes()
    (pictures / "3.png").write_bytes(whole[: len(whole) // 2])
    command = arguments(files, tmp_path / "run", train=pictures, cache=tmp_path / "cache")
    said = failure(command, capsys)
    assert f"{pictures / 'captions.jsonl'}, line 3: image '2.png' is not an image" in said
    assert said.endswith("; replace it or pass --skip-bad")
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


@pytest.mark.parametrize(
    ("command", "option"), [("add-global-head", "--data"), ("correct-hubs", "--data"), ("export", "--val")]
)
def test_what_is_wrong_with_the_models_folder_or_out_is_said_before_the_data_are_looked_for(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    nowhere, out = str(tmp_path / "nowhere"), tmp_path / "out"
    said = failure([command, nowhere, str(out), option, nowhere], capsys)
    assert f"{nowhere} is not a model folder: it has no model.toml" in said
    model = str(files / "model")
    said = failure([command, model, model, option, nowhere], capsys)
    assert said == f"aladin: out is {model}, the folder of the model itself, which stays as it is; give another folder"
    assert f"there is no file or folder {nowhere}" in failure([command, model, str(out), option, nowhere], capsys)
    assert not out.exists()


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_said_before_the_run(
    files: Path, tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    said = failure([*arguments(files, tmp_path / "run"), f"--{tracker}"], capsys)
    assert f"the package {tracker} is not installed; run pip install {tracker}" in said
    assert not (tmp_path / "run").exists()


def test_a_seed_below_zero_is_wrong_usage(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([*arguments(files, tmp_path / "run"), "--seed", "-1"]) == 2
    assert "-1 is not in the range x>=0" in capsys.readouterr().err


def test_help_names_every_file_that_a_run_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in ("log.jsonl", "settings.toml", "checkpoint", "OUT/best", "TensorBoard"))


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "encode", "score", "export", "calibrate", "add-global-head", "correct-hubs"]
)
def test_every_command_that_computes_with_pytorch_names_its_devices(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "--device auto|cpu|cuda|cuda:N|mps" in capsys.readouterr().out
