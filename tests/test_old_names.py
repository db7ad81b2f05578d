import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aladin.cli import COMMANDS as PRESENT
from aladin.cli import main
from aladin.config import from_table, read_toml
from aladin.encoder.config import HeadsConfig
from aladin.errors import ConfigError
from aladin.network import load_model, save_model
from aladin.network.checkpoints import provenance
from aladin.network.variants import with_cross_encoder
from aladin.old_names import (
    COMMANDS,
    CROSS_FITTED,
    OPTIONS,
    SETTINGS,
    VALUES,
    WEIGHED_LOSSES,
    WEIGHTS,
    present_origins,
    renamed_arguments,
)
from aladin.training.recipe import LossConfig, Recipe, recipe_of
from aladin.training.teachers.caption_similarity import CaptionSimilaritySettings
from tests.tiny_learning import INTERRUPTED, Recorder, tiny_model, trainer, write_tokenizer


def test_settings_written_under_old_names_are_read() -> None:
    assert from_table(HeadsConfig, {"whole_dim": 7, "pair_head": True}) == HeadsConfig(global_dim=7, cross_encoder=True)
    assert from_table(LossConfig, {"pairs": 2.0, "pairs_scale": 3.0}) == LossConfig(cross_encoder=2.0, cross_encoder_scale=3.0)


def test_a_setting_written_twice_by_its_old_and_its_new_name_is_refused() -> None:
    for table in ({"whole_dim": 7, "global_dim": 7}, {"global_dim": 7, "whole_dim": 7}):
        with pytest.raises(
            ConfigError, match="'whole_dim' and 'global_dim', the old and the new name of one setting; leave one out"
        ):
            from_table(HeadsConfig, table, "[heads]")


@pytest.mark.slow
def test_a_model_folder_written_under_old_names_is_the_same_model(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    model, folder = with_cross_encoder(tiny_model(tokenizer)), tmp_path / "old"
    save_model(model, tokenizer, folder, {"global_head": {"epochs": 1}})
    text = (folder / "model.toml").read_text().replace("cross_encoder =", "pair_head =").replace("global_", "whole_")
    (folder / "model.toml").write_text(text)
    weights = load_file(folder / "model.safetensors")
    renamed = {_old_weight(name): weight for name, weight in weights.items()}
    assert renamed.keys() != weights.keys()
    save_file(renamed, folder / "model.safetensors")
    assert "whole_dim" in read_toml(folder / "model.toml")["heads"]

    found = load_model(folder)

    assert found.config == model.config
    assert all((found.state_dict()[name] == weight).all() for name, weight in model.state_dict().items())
    assert provenance(folder) == {"global_head": {"epochs": 1}}


def _old_weight(name: str) -> str:
    return next((old + name.removeprefix(new) for old, new in WEIGHTS.items() if name.startswith(new)), name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_known_by_its_old_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert COMMANDS[name] in capsys.readouterr().out.splitlines()[0]


def test_options_are_renamed_up_to_a_double_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "search", {"--old": "--new"})
    given = ["search", "--old", "3", "--old=3", "-x", "--", "--old"]
    assert renamed_arguments(given) == ["search", "--new", "3", "--new=3", "-x", "--", "--old"]
    assert renamed_arguments(["index", "--old"]) == ["index", "--old"]
    assert renamed_arguments([]) == []


def test_no_old_name_means_something_else_today() -> None:
    assert not COMMANDS.keys() & PRESENT.keys()
    assert set(COMMANDS.values()) <= PRESENT.keys()
    assert OPTIONS.keys() <= PRESENT.keys()
    assert not SETTINGS.keys() & {field.name for field in dataclasses.fields(HeadsConfig)}
    assert not VALUES.keys() & set(VALUES.values())


OLD_RECIPES = {
    "caption_teacher": (
        {"loss": {"caption_teacher": 0.5, "caption_teacher_scale": 10.0}},
        [{"kind": "caption_similarity", "alignment": 0.5, "scale": 10.0}],
    ),
    "pair_teacher": (
        {"teacher": "runs/cross", "loss": {"pair_teacher": 0.5, "pair_teacher_list": 4, "pair_teacher_scale": 2.0}},
        [{"kind": "cross_encoder", "matching": 0.5, "list_length": 4, "scale": 2.0, "models": ["runs/cross"]}],
    ),
    "pair_teacher of alignment, named by an option": (
        {"teacher": "", "loss": {"pair_teacher": 0.5, "pair_teacher_of": "alignment"}},
        [{"kind": "cross_encoder", "alignment": 0.5}],
    ),
    "ensemble": (
        {"ensemble": ["one", "other"], "loss": {"ensemble_alignment": 1.0, "ensemble_matching": 0.5, "ensemble_scale": 9.0}},
        [{"kind": "ensemble", "alignment": 1.0, "matching": 0.5, "scale": 9.0, "models": ["one", "other"]}],
    ),
    "cross_fitted": (
        {"loss": {"cross_fitted_matching": 0.5, "caption_teacher": 0.2}, "cross_fitted": {"folds": 3, "epochs": 9}},
        [{"kind": "caption_similarity", "alignment": 0.2}, {"kind": "cross_fitted", "matching": 0.5, "folds": 3, "epochs": 9}],
    ),
    "none, as a run wrote it down": (
        {
            "teacher": "",
            "ensemble": [],
            "cross_fitted": dict(CROSS_FITTED),
            "loss": {"caption_teacher": 0.0, "caption_teacher_scale": 20.0, "pair_teacher": 0.0, "ensemble_alignment": 0.0},
        },
        [],
    ),
}


@pytest.mark.parametrize("name", OLD_RECIPES)
def test_a_recipe_with_teachers_among_its_losses_is_the_same_recipe(name: str) -> None:
    old, teachers = OLD_RECIPES[name]
    before = {"train": ["backbone", "matching_head"], **old, "loss": {"distillation": 0.3, **old["loss"]}}
    now = {"train": ["backbone", "matching_head"], "loss": {"distillation": 0.3}, "teacher": teachers}
    assert recipe_of(before, "old.toml") == from_table(Recipe, now)
    assert recipe_of(now, "new.toml") == from_table(Recipe, now)


@pytest.mark.parametrize(
    "old",
    [
        {"teacher": "runs/cross"},
        {"ensemble": ["one"]},
        {"cross_fitted": {"folds": 3}},
    ],
)
def test_a_teacher_of_an_old_recipe_to_which_nobody_listens_is_refused(old: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="has no weight; give alignment or matching one above 0"):
        recipe_of(old, "old.toml")


def test_parts_that_learn_are_known_by_their_old_names() -> None:
    loss = {"alignment": 0.0, "pairs": 1.0}
    assert recipe_of({"train": ["backbone", "pair_head"], "loss": loss}, "old.toml").train == ("backbone", "cross_encoder")


def test_options_for_teachers_are_those_of_their_kinds() -> None:
    given = ["train", "r.toml", "--teacher", "runs/3", "--ensemble", "one", "--ensemble=other", "--", "--teacher", "x"]
    expected = ["--teacher", "cross_encoder=runs/3", "--teacher", "ensemble=one", "--teacher", "ensemble=other"]
    assert renamed_arguments(given) == ["train", "r.toml", *expected, "--", "--teacher", "x"]
    assert renamed_arguments(["train", "--teacher=ensemble=a"]) == ["train", "--teacher", "ensemble=a"]


@pytest.mark.slow
def test_a_checkpoint_of_before_goes_on_with_its_learned_weights_of_losses(tmp_path: Path) -> None:
    loss = LossConfig(alignment=1.0, matching=0.5, distillation=0.5, learned_weights=True)
    recipe = dataclasses.replace(
        INTERRUPTED, train=("backbone", "matching_head"), loss=loss,
        teacher=(CaptionSimilaritySettings(alignment=0.2),),
    )  # fmt: skip
    run = trainer(recipe, tmp_path)
    run.run(Recorder())
    path = run.folder.checkpoint
    state, (metadata, names) = load_file(path), (safe_metadata(path), run.objective.names)
    rows = [WEIGHED_LOSSES.index(name) for name in names]
    moments = [name for name, tensor in state.items() if tensor.shape == (len(names),)]
    assert len(moments) == 3  # the weights and two moments
    for name in moments:
        old = torch.full((len(WEIGHED_LOSSES),), -2.3)
        old[rows] = state[name]
        state[name] = old
    del metadata["losses"]
    save_file(state, path, metadata)

    again = trainer(recipe, tmp_path)
    again.run(Recorder())

    assert again.next_step == again.total_steps
    assert torch.equal(again.objective.log_variances, run.objective.log_variances)
    variances = again.learning.optimizer.state[again.objective.log_variances]
    assert torch.equal(variances["exp_avg"], run.learning.optimizer.state[run.objective.log_variances]["exp_avg"])


def test_a_checkpoint_names_its_teachers_models_as_before(tmp_path: Path) -> None:
    one, other = {"name": "one", "fingerprint": "1"}, {"name": "other", "fingerprint": "2"}
    assert present_origins({"start": one, "teacher": one, "ensemble": {"models": [one, other]}}) == {
        "start": one,
        "teachers": {"cross_encoder": {"models": [one]}, "ensemble": {"models": [one, other]}},
    }


def safe_metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata
