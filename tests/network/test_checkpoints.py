import dataclasses
import os
from pathlib import Path

import pytest
import tomli_w
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel

from aladin.cli.average import average
from aladin.config import read_toml, to_table
from aladin.encoder.config import BackboneConfig
from aladin.encoder.folder import model_config
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import AladinError, ConfigError, ModelError
from aladin.network.checkpoints import load_model, provenance, save_model
from aladin.network.minilm import load_minilm, minilm_folder
from aladin.network.model import Aladin
from aladin.network.transformer import Transformer
from aladin.training.averaging import average_models, averaged_from
from tests.tiny_learning import TINY, tiny_model, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer: Path) -> Aladin:
    return tiny_model(tokenizer, dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, token_dim=5)))


@pytest.fixture
def folder(model: Aladin, tokenizer: Path, tmp_path: Path) -> Path:
    save_model(model, tokenizer, tmp_path / "model", {"training": {"epoch": 3}})
    return tmp_path / "model"


def sentence(caught: pytest.ExceptionInfo[AladinError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_saving_and_loading_change_nothing(model: Aladin, folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.config == model.config
    assert not loaded.training
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.state_dict().items())


def test_a_loaded_model_encodes_as_the_saved_one(model: Aladin, folder: Path) -> None:
    maps, classes = torch.rand(2, 112, 4, 4), torch.tensor([[3], [5]])
    loaded = load_model(folder)
    with torch.no_grad():
        one, other = (m.encoded_images(m.image_states(m.backbone.image_input(maps, classes))) for m in (model.eval(), loaded))
    assert torch.equal(one.vectors, other.vectors)
    assert torch.equal(one.tokens.states, other.tokens.states)


def test_a_model_folder_states_the_architecture_and_the_details(model: Aladin, tokenizer: Path, folder: Path) -> None:
    table = read_toml(folder / "model.toml")
    assert table == {**to_table(model.config), "training": {"epoch": 3}}
    assert model_config(folder) == model.config
    assert (folder / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    assert not list(folder.glob("*.partial"))


def test_a_model_can_be_saved_over_the_one_it_was_loaded_from(folder: Path) -> None:
    loaded = load_model(folder)
    with torch.no_grad():
        loaded.backbone.layers[0].output.bias += 1
    save_model(loaded, folder / "tokenizer.json", folder)
    assert_close(load_model(folder).backbone.layers[0].output.bias, loaded.backbone.layers[0].output.bias)


def change_weights(folder: Path, change: str) -> None:
    state = load_file(folder / "model.safetensors")
    match change:
        case "missing":
            del state["matching_head.layers.0.norm1.bias"]
        case "unknown":
            state["third_head.weight"] = torch.zeros(2)
        case "shape":
            state["backbone.layers.0.output.bias"] = torch.zeros(7)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("missing", r"lacks matching_head\.layers\.0\.norm1\.bias and has unknown nothing"),
        ("unknown", r"lacks nothing and has unknown third_head\.weight"),
        ("shape", r"backbone\.layers\.0\.output\.bias of another shape: \(7,\) where \(16,\) was expected"),
    ],
)
def test_a_weight_that_does_not_fit_is_refused_by_name(folder: Path, change: str, expected: str) -> None:
    change_weights(folder, change)
    with pytest.raises(ModelError, match=expected) as caught:
        load_model(folder)
    assert str(folder) in sentence(caught)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000])
def test_a_damaged_weight_file_is_refused_in_one_sentence(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_model(folder)
    assert str(path) in sentence(caught)


def test_a_pickle_is_never_opened(folder: Path, model: Aladin) -> None:
    torch.save(model.state_dict(), folder / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load_model(folder)
    sentence(caught)


@pytest.mark.parametrize(
    ("missing", "expected"), [("model.toml", r"has no model\.toml"), ("model.safetensors", "cannot be read")]
)
def test_a_folder_without_a_file_of_its_model_is_refused(folder: Path, missing: str, expected: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=expected) as caught:
        load_model(folder)
    assert str(folder) in sentence(caught)


@pytest.mark.parametrize(
    ("section", "setting", "expected"),
    [
        ("backbone", {"layer": 1}, "unknown setting 'layer' in .*did you mean 'layers'"),
        ("backbone", {"heads": 3}, "dim in .* is 16 and heads in .* is 3"),
        ("image", {"grid": 3}, "expected a multiple of 32"),
    ],
)
def test_a_model_toml_that_describes_no_model_is_refused(
    folder: Path, section: str, setting: dict[str, int], expected: str
) -> None:
    table = read_toml(folder / "model.toml")
    table[section] |= setting
    (folder / "model.toml").write_text(tomli_w.dumps(table))
    with pytest.raises(ModelError, match=expected) as caught:
        load_model(folder)
    assert str(folder / "model.toml") in sentence(caught)


@pytest.mark.slow
def test_minilm_encodes_captions_as_transformers_does() -> None:
    backbone = Transformer(BackboneConfig()).eval()
    own_embedding = {name: weight.clone() for name, weight in backbone.region_embedding.state_dict().items()}
    load_minilm(backbone)
    captions = ["Two dogs run through snow.", "A child", "a very tall building with a clock, at night"]
    pieces = WordPieces.load(minilm_folder() / "tokenizer.json", 50).encode(captions)
    ids, mask = torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask)
    network = AutoModel.from_pretrained(minilm_folder()).eval()
    with torch.no_grad():
        expected = network(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        actual = backbone.encode_captions(ids, mask).states
    assert_close(actual[mask], expected[mask], atol=1e-5, rtol=0)
    assert all(torch.equal(own_embedding[name], weight) for name, weight in backbone.region_embedding.state_dict().items())


def test_minilm_is_refused_by_a_backbone_of_other_sizes() -> None:
    expected = r"embeddings\.LayerNorm\.bias, .* and 92 more of another shape: \(384,\) where \(24,\)"
    with pytest.raises(ModelError, match=expected) as caught:
        load_minilm(Transformer(BackboneConfig(dim=24)))
    sentence(caught)
    with pytest.raises(ModelError, match=r"MiniLM lacks layers\.6\.") as caught:
        load_minilm(Transformer(BackboneConfig(layers=7)))
    sentence(caught)


@pytest.mark.slow
def test_an_average_is_the_mean_of_what_learned_and_the_first_models_rest(tokenizer: Path, tmp_path: Path) -> None:
    models = [tiny_model(tokenizer, seed=seed) for seed in (1, 2, 3)]
    folders = [tmp_path / str(number) for number in range(3)]
    for model, folder in zip(models, folders, strict=True):
        save_model(model, tokenizer, folder)
    states = [model.state_dict() for model in models]
    for name, weight in average_models(folders).state_dict().items():
        if name.startswith(tuple(f"backbone.image_network.{part}" for part in ("trunks", "tag_tail", "classifier"))):
            assert torch.equal(weight, states[0][name])
        elif weight.is_floating_point():
            assert_close(weight, (states[0][name] + states[1][name] + states[2][name]) / 3)


def test_the_average_of_a_model_with_itself_is_that_model(tokenizer: Path, tmp_path: Path) -> None:
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "one")
    mean, one = average_models([tmp_path / "one"] * 2).state_dict(), load_model(tmp_path / "one").state_dict()
    assert all(torch.equal(weight, one[name]) for name, weight in mean.items())


@pytest.mark.slow
def test_models_that_learned_with_another_dropout_can_be_averaged(tokenizer: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, dropout=0.2))
    for name, config in (("one", TINY), ("other", other)):
        save_model(tiny_model(tokenizer, config), tokenizer, tmp_path / name)
    mean = average_models([tmp_path / "one", tmp_path / "other"])
    assert mean.config == TINY
    assert all(
        torch.equal(weight, load_model(tmp_path / "one").state_dict()[name]) for name, weight in mean.state_dict().items()
    )


def test_models_of_different_sizes_cannot_be_averaged(tokenizer: Path, tmp_path: Path) -> None:
    wider = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, matching_feed_forward=32))
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "one")
    save_model(tiny_model(tokenizer, wider), tokenizer, tmp_path / "wider")
    with pytest.raises(ModelError, match=r"wider has another architecture than .*one; only models of one kind"):
        average_models([tmp_path / "one", tmp_path / "wider"])


def test_the_command_writes_the_average_and_wants_two_models(tokenizer: Path, tmp_path: Path) -> None:
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "one")
    one, out = str(tmp_path / "one"), str(tmp_path / "mean")
    assert CliRunner().invoke(average, [out, one, one], catch_exceptions=False).exit_code == 0
    assert load_model(tmp_path / "mean").config == TINY
    with pytest.raises(ConfigError, match=r"there is one model, .*one, to average; give two or more"):
        CliRunner().invoke(average, [out, one], catch_exceptions=False)


def test_weights_may_be_read_by_whom_every_new_file_may_be(model: Aladin, tokenizer: Path, tmp_path: Path) -> None:
    for umask in (0o022, 0o027):
        before = os.umask(umask)
        try:
            save_model(model, tokenizer, tmp_path / f"{umask}")
        finally:
            os.umask(before)
        files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / f"{umask}").iterdir()}
        assert files["model.safetensors"] == files["model.toml"] == 0o666 & ~umask


def test_a_folder_without_provenance_says_nothing_and_a_calibration_is_no_part(
    model: Aladin, tokenizer: Path, tmp_path: Path
) -> None:
    save_model(model, tokenizer, tmp_path / "model")
    assert provenance(tmp_path / "model") == {}
    save_model(model, tokenizer, tmp_path / "model", {"training": {"epoch": 3}, "calibration": {"slope": 1.0}})
    assert provenance(tmp_path / "model") == {"training": {"epoch": 3}}
    with pytest.raises(ModelError, match=r"nowhere is not a model folder: it has no model\.toml"):
        provenance(tmp_path / "nowhere")


def test_the_mean_of_a_mean_names_what_that_is_of(tokenizer: Path, tmp_path: Path) -> None:
    first, other, mean = tmp_path / "first" / "best", tmp_path / "other", tmp_path / "mean"
    save_model(tiny_model(tokenizer), tokenizer, first, {"training": {"epoch": 7}, "hub_correction": {"data": {}}})
    save_model(tiny_model(tokenizer), tokenizer, other)
    save_model(tiny_model(tokenizer), tokenizer, mean, {"average": averaged_from([first, other])})
    inner, outer = averaged_from([mean, other])["models"]
    assert (inner["name"], outer["name"]) == ("mean", "other")
    assert [model["name"] for model in inner["average"]["models"]] == ["first/best", "other"]
    assert inner["average"]["models"][0]["training"] == {"epoch": 7}
    assert "hub_correction" not in inner["average"]["models"][0]  # a mean is that of models before it


def test_a_model_toml_from_before_a_setting_is_read_with_its_default(folder: Path) -> None:
    table = read_toml(folder / "model.toml")
    del table["heads"]["matching_dropout"]
    (folder / "model.toml").write_text(tomli_w.dumps(table))
    assert load_model(folder).config.heads.matching_dropout == 0.0
