"""Every family's folder becomes a model folder whose graphs give what transformers itself gives."""

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from aladin.encoder.encoder import IMAGE_GRAPH, Encoder
from aladin.encoder.text_encoder import TEXT_GRAPH, new_session
from aladin.errors import ConfigError, ModelError
from aladin.exporting.encoders import FAMILIES, add
from aladin.exporting.encoders.graphs import ImageTower, TextTower, cell_shares
from aladin.exporting.encoders.settings import preprocessing_of
from aladin.exporting.encoders.source import Source
from aladin.pictures.fitting import fitted
from tests.tiny_encoders import BUILDERS, LIMIT, PATCH, SIZE, TEXTS, build_encoder, own_model

FINE = {"image_size": 5 * PATCH * 2, "patch_size": PATCH}  # 10 x 10 patches, more than regions
SIDES = ((64, 48), (48, 65), (33, 100), (SIZE, SIZE), (100, 57), (100, 31), (7, 5))
LOWERED = ("siglip-2",)  # whose own tokenizer file does not lower-case


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(family, tmp_path_factory.mktemp("source") / family)


@pytest.fixture(scope="module")
def exact(family: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of the family's encoder in full precision."""
    model = tmp_path_factory.mktemp("added") / family
    assert add(folder, model, precision="fp32").difference < 1e-5
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder("clip", tmp_path_factory.mktemp("source") / "clip")


@pytest.fixture
def copied(clip: Path, tmp_path: Path) -> Path:
    """A folder of CLIP's to damage."""
    return Path(shutil.copytree(clip, tmp_path / "copied"))


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tokenized(folder: Path, family: str, padding: str | bool = True) -> tuple[Tensor, Tensor]:
    """What transformers' own tokenizer makes of the texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="right")
    padding = "max_length" if family.startswith(("siglip", "tips")) else padding
    texts = [text.lower() if family in LOWERED else text for text in TEXTS]
    read = tokenizer(texts, padding=padding, truncation=True, max_length=LIMIT, return_tensors="pt")
    return read["input_ids"], read["attention_mask"].bool()


def own_vectors(model: Any, family: str, pieces: Tensor, mask: Tensor) -> Tensor:
    masks = {} if family.startswith("siglip") else {"attention_mask": mask.long()}
    return normalize(model.get_text_features(input_ids=pieces, **masks).pooler_output, dim=-1)


def own_words(model: Any, family: str, pieces: Tensor, mask: Tensor) -> Tensor:
    """Each piece's state as the vector of the text that it would be if it were the pooled one."""
    masks = {} if family.startswith("siglip") else {"attention_mask": mask.long()}
    states = model.get_text_features(input_ids=pieces, **masks).last_hidden_state
    if family.startswith("siglip"):
        states = model.text_model.head(states)
    elif family != "tipsv2":
        states = model.text_projection(states)
    return normalize(states, dim=-1)


def own_regions(model: Any, family: str, pixels: Tensor) -> Tensor:
    """Each patch's state through the model's own pooling, one after the other."""
    states = model.get_image_features(pixel_values=pixels).last_hidden_state
    if family.startswith("siglip"):
        pooled = [model.vision_model.head(states[:, [patch]]) for patch in range(states.shape[1])]
    elif family == "tipsv2":
        pooled = [states[:, patch] for patch in range(2, states.shape[1])]
    else:
        patches = range(1, states.shape[1])
        pooled = [model.visual_projection(model.vision_model.post_layernorm(states[:, patch])) for patch in patches]
    return normalize(torch.stack(pooled, dim=1), dim=-1)


def own_pixels(folder: Path, family: str, photographs: list[Image.Image]) -> Tensor:
    """What the model's own image processor makes of photographs."""
    if family == "tipsv2":  # its own one needs torchvision; this does what its settings say
        side = {"height": SIZE, "width": SIZE}
        processor = transformers.SiglipImageProcessorPil(size=side, resample=2, do_normalize=False)
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    read: Tensor = processor(photographs, return_tensors="pt")["pixel_values"]
    return read


def real_words(folder: Path, pieces: Tensor, mask: Tensor) -> Tensor:
    """Which pieces are neither padding nor special."""
    special = torch.tensor(transformers.AutoTokenizer.from_pretrained(folder).all_special_ids)
    return mask & ~torch.isin(pieces, special)


def own_part(tokens: np.ndarray, dim: int) -> np.ndarray:
    """The part of each token that is its own, beside what it shares with its image's or text's others; of length 1."""
    own: np.ndarray = tokens[..., :dim]
    return own / np.linalg.norm(own, axis=-1, keepdims=True)


def towers_of(folder: Path) -> tuple[ImageTower, TextTower]:
    source = Source.open(folder)
    towers = source.load()
    preprocessing = preprocessing_of(source, towers)
    return ImageTower(towers, preprocessing), TextTower(towers, preprocessing)


@torch.no_grad()
def test_pictures_are_what_transformers_makes_of_them(folder: Path, family: str) -> None:
    model = own_model(folder, family)
    pixels = own_pixels(folder, family, [Image.fromarray(noise(SIZE, SIZE))])
    vectors, regions = towers_of(folder)[0](torch.from_numpy(noise(SIZE, SIZE))[None])
    expected = normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    torch.testing.assert_close(vectors, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(regions, own_regions(model, family, pixels), atol=1e-4, rtol=0)


@torch.no_grad()
def test_texts_are_what_transformers_makes_of_them(folder: Path, family: str) -> None:
    model = own_model(folder, family)
    pieces, mask = tokenized(folder, family)
    full = mask.any(dim=1)  # of no pieces at all nothing can be the mean
    vectors, words, word_mask = towers_of(folder)[1](pieces, mask)
    torch.testing.assert_close(vectors[full], own_vectors(model, family, pieces, mask)[full], atol=1e-4, rtol=0)
    expected = own_words(model, family, pieces, mask)
    real = real_words(folder, pieces, mask)
    assert word_mask.sum(dim=1).tolist() == real.sum(dim=1).tolist()
    torch.testing.assert_close(words[word_mask], expected[real], atol=1e-4, rtol=0)


def test_the_settings_are_those_of_the_tokenizer(folder: Path, family: str) -> None:
    source = Source.open(folder)
    texts = preprocessing_of(source, source.load())
    pieces, mask = tokenized(folder, family)
    around = [source.tokenizer.token_to_id(piece) for piece in (texts.first_piece, texts.last_piece) if piece]
    assert pieces[0][mask[0]].tolist() == around
    assert texts.caption_pieces == LIMIT
    assert texts.pad_to in (0, pieces.shape[1])
    if texts.pad_to:
        assert source.tokenizer.token_to_id(texts.pad_piece) == pieces[0, -1]


@pytest.mark.slow
@torch.no_grad()
def test_full_precision_graphs_give_what_transformers_gives(folder: Path, family: str, exact: Path) -> None:
    model, encoder = own_model(folder, family), Encoder.load(exact)
    config = encoder.model.config
    photographs = [Image.fromarray(noise(width, height)) for width, height in SIDES]
    read = encoder.encode_images(np.stack([np.asarray(fitted(image, config.preprocessing.fitting)) for image in photographs]))
    pixels = own_pixels(folder, family, photographs)
    expected = normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
    np.testing.assert_allclose(read.vectors, expected, atol=1e-3)
    regions = own_part(read.regions, config.heads.token_dim)
    np.testing.assert_allclose(regions, own_regions(model, family, pixels), atol=1e-3)
    pieces, mask = tokenized(folder, family)
    some = mask.any(dim=1)  # of no pieces at all nothing can be the mean
    texts = encoder.encode_texts([text for text, any_piece in zip(TEXTS, some, strict=True) if any_piece])
    np.testing.assert_allclose(texts.vectors, own_vectors(model, family, pieces, mask)[some], atol=1e-3)
    words = own_words(model, family, pieces, mask)[real_words(folder, pieces, mask)]
    np.testing.assert_allclose(own_part(texts.words[texts.word_mask], config.heads.token_dim), words, atol=1e-3)
    assert texts.truncated[-1]


@pytest.mark.slow
@torch.no_grad()
def test_a_batch_of_texts_gives_what_each_gives_alone(folder: Path, family: str, exact: Path) -> None:
    pieces, mask = tokenized(folder, family)
    pieces, mask = pieces[mask.any(dim=1)], mask[mask.any(dim=1)]
    session = new_session(exact / "text.onnx", *TEXT_GRAPH)
    together = session.run(None, {"pieces": pieces.numpy(), "mask": mask.numpy()})
    for row in range(len(pieces)):
        length = pieces.shape[1] if "sig" in family else int(mask[row].sum())
        feed = {"pieces": pieces[row : row + 1, :length].numpy(), "mask": mask[row : row + 1, :length].numpy()}
        vectors, words, real = session.run(None, feed)
        np.testing.assert_allclose(vectors[0], together[0][row], atol=1e-5)
        np.testing.assert_allclose(words[real], together[1][row][together[2][row]], atol=1e-5)


@pytest.mark.slow
def test_small_graphs_pass_the_gate(folder: Path, family: str, tmp_path: Path) -> None:
    for precision in ("int8", "fp16") if family == "clip" else ("int8",):
        added = add(folder, tmp_path / "model", precision=precision)
        assert 0.99 <= added.cosine < 1
        assert added.bytes < sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip"], scope="function")
def test_a_finer_grid_of_patches_becomes_seven_regions_a_side(family: str, tmp_path: Path) -> None:
    folder = build_encoder(family, tmp_path / "source", **FINE)
    size = FINE["image_size"]
    side = {"height": size, "width": size}
    looks = {"size": side} if family == "siglip" else {"size": {"shortest_edge": size}, "crop_size": side}
    settings = json.loads((folder / "preprocessor_config.json").read_text()) | looks
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    add(folder, tmp_path / "model", precision="fp32")
    table = tomllib.loads((tmp_path / "model" / "model.toml").read_text())
    assert table["image"]["grid"] == 7
    _, regions = new_session(tmp_path / "model" / "image.onnx", *IMAGE_GRAPH).run(None, {"pixels": noise(size, size)[None]})
    assert regions.shape[1] == 49


@pytest.mark.parametrize(("patches", "cells"), [(7, 7), (14, 7), (10, 7), (16, 7), (3, 3), (9, 7)])
def test_a_cell_is_the_mean_over_its_area(patches: int, cells: int) -> None:
    states = torch.arange(patches**2, dtype=torch.float32).reshape(patches, patches)
    fine = states.repeat_interleave(cells, 0).repeat_interleave(cells, 1)
    expected = fine.reshape(cells, patches, cells, patches).mean(dim=(1, 3))
    torch.testing.assert_close(cell_shares(patches, cells) @ states.flatten(), expected.flatten())


@pytest.mark.slow
def test_the_folder_says_where_the_encoder_is_from(copied: Path, tmp_path: Path) -> None:
    (copied / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# CLIP\n")
    added = add(copied, tmp_path / "model", name="someone/clip", revision="abc123", share=0.25)
    table = tomllib.loads((tmp_path / "model" / "model.toml").read_text())
    assert table["origin"] == {"name": "someone/clip", "licence": "mit", "revision": "abc123"}
    assert table["encoder"]["family"] == added.family == "clip"
    assert table["encoder"]["share"] == 0.25
    card = (tmp_path / "model" / "README.md").read_text()
    assert "someone/clip" in card
    assert "licence: mit" in card
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (copied / "tokenizer.json").read_bytes()
    again = add(copied, tmp_path / "model", licence="CC0")
    assert again.licence == "CC0"
    assert tomllib.loads((tmp_path / "model" / "model.toml").read_text())["origin"]["licence"] == "CC0"


@pytest.mark.slow
def test_a_model_that_fails_the_gate_leaves_what_was_there(copied: Path, tmp_path: Path) -> None:
    add(copied, tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    weights = load_file(copied / "model.safetensors")
    weights["visual_projection.weight"] *= torch.nan
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="not added"):
        add(copied, tmp_path / "model")
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "model"]


def test_an_unknown_family_is_named_with_the_known_ones(copied: Path, tmp_path: Path) -> None:
    (copied / "config.json").write_text(json.dumps({"model_type": "blip", "auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(ModelError, match=r"'blip'; known ones are altclip, chinese_clip, .*tipsv2"):
        add(copied, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert sorted(FAMILIES) == ["altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "tipsv2"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_pickle_is_refused_by_name(copied: Path, name: str, tmp_path: Path) -> None:
    (copied / "model.safetensors").rename(copied / name)
    with pytest.raises(ModelError, match=rf"no model.safetensors \(weights found: only {name}, .* can run code"):
        add(copied, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no model.safetensors"),
        ("tokenizer.json", "has no tokenizer.json .*save_pretrained"),
        ("preprocessor_config.json", "has no processor_config.json; expected .*preprocessor_config.json"),
    ],
)
def test_a_missing_file_is_named(copied: Path, name: str, sentence: str, tmp_path: Path) -> None:
    (copied / name).unlink()
    with pytest.raises(ModelError, match=sentence):
        add(copied, tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_damaged_file_is_one_sentence(copied: Path, name: str, tmp_path: Path) -> None:
    (copied / name).write_bytes(b"{damaged")
    with pytest.raises(ModelError) as error:
        add(copied, tmp_path / "model")
    assert "\n" not in str(error.value)
    assert str(copied) in str(error.value)


def test_weights_of_other_shapes_or_too_few_are_refused(copied: Path, tmp_path: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    projection = weights.pop("text_projection.weight")
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights of its network, such as text_projection\.weight"):
        add(copied, tmp_path / "model")
    save_file(weights | {"text_projection.weight": projection[:3].clone()}, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="cannot be loaded as CLIPModel"):
        add(copied, tmp_path / "model")


def test_weights_in_parts_are_read_only_where_all_are_safetensors(copied: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"logit_scale": "model-00001-of-00002.bin"}}
    (copied / "model.safetensors").unlink()
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names model-00001-of-00002\.bin, which is no safetensors file"):
        add(copied, tmp_path / "model")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"do_resize": False}, "do_resize False"),
        ({"resample": 1}, "resample 1"),
        ({"size": {"shortest_edge": 64}}, "centre crop"),
        ({"size": {"height": 32, "width": 48}, "do_center_crop": False}, "a square"),
        ({"size": {"height": 48, "width": 48}, "do_center_crop": False}, "makes pictures of 48 px"),
        ({"image_mean": [0.5]}, "image_mean"),
    ],
)
def test_an_image_processor_that_search_cannot_copy_is_refused(
    copied: Path, changed: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = copied / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ModelError, match=sentence):
        add(copied, tmp_path / "model")


def test_a_tokenizer_that_ends_texts_otherwise_than_the_network_expects_is_refused(copied: Path, tmp_path: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"pools the piece 7, and its tokenizer ends texts with '<\|endoftext\|>'"):
        add(copied, tmp_path / "model")


def test_a_folder_of_other_things_is_not_replaced(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"holds letter\.txt"):
        add(clip, tmp_path / "letters")
    with pytest.raises(ConfigError, match="own folder"):
        add(clip, clip)
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "model.toml").write_text("[heads]\ntoken_dim = 8\n")
    with pytest.raises(ConfigError, match="holds another model"):
        add(clip, tmp_path / "trained")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: mit\n---\n# CLIP\n", "mit"),
        ("---\nlicense:\n- apache-2.0\n- mit\ntags:\n- vision\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: 'apple-amlr'\n---\n", "apple-amlr"),
        ("---\ntags: [vision]\n---\nlicense: mit\n", ""),
        ("# CLIP\nlicense: mit\n", ""),
        ("", ""),
    ],
)
def test_the_licence_is_what_the_card_states(copied: Path, card: str, licence: str) -> None:
    (copied / "README.md").write_text(card)
    assert Source.open(copied).licence == licence
