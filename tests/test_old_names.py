import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from aladin.cli import COMMANDS as PRESENT
from aladin.cli import main
from aladin.config import from_table, read_toml
from aladin.encoder.config import HeadsConfig
from aladin.errors import ConfigError
from aladin.network import load_model, save_model
from aladin.network.checkpoints import provenance
from aladin.network.variants import with_cross_encoder
from aladin.old_names import COMMANDS, OPTIONS, SETTINGS, VALUES, WEIGHTS, renamed_arguments
from aladin.training.recipe import LossConfig
from tests.tiny_learning import tiny_model, write_tokenizer


def test_settings_written_under_old_names_are_read() -> None:
    assert from_table(HeadsConfig, {"whole_dim": 7, "pair_head": True}) == HeadsConfig(global_dim=7, cross_encoder=True)
    assert from_table(LossConfig, {"pairs": 2.0, "pairs_scale": 3.0}) == LossConfig(cross_encoder=2.0, cross_encoder_scale=3.0)


def test_a_setting_written_twice_by_its_old_and_its_new_name_is_refused() -> None:
    for table in ({"whole_dim": 7, "global_dim": 7}, {"global_dim": 7, "whole_dim": 7}):
        with pytest.raises(
            ConfigError, match="'whole_dim' and 'global_dim', the old and the new name of one setting; leave one out"
        ):
            from_table(HeadsConfig, table, "[heads]")


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
