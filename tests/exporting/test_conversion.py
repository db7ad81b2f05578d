import argparse
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import BertModel

from aladin.config import read_toml, to_table
from aladin.datasets import Dataset, read_dataset
from aladin.encoder.config import HeadsConfig, ImageConfig, ModelConfig, QuirksConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import AladinError, ConfigError, DataError, ModelError
from aladin.exporting.conversion import Original, bert_tokenizer, caption_lines, convert_checkpoint, fill, unpickled
from aladin.network.backbones import new_backbone
from aladin.network.checkpoints import load_model
from aladin.network.detections import DetectionReader, RegionSet, check_photographs
from aladin.network.model import Aladin
from aladin.network.official import RELEASED
from aladin.network.scores import alignment_scores
from aladin.network.tensors import ImageInput, Tokens
from aladin.training.cross_fitting import pictures_seen
from aladin.training.losses import infonce_loss
from tests import official_reference
from tests.bert import bert_config
from tests.tiny_official import (
    TINY,
    VOCABULARY,
    Sizes,
    aladin_checkpoint,
    aladin_shapes,
    linear,
    random_images,
    random_weights,
    vinvl_shapes,
    write_features,
    write_vinvl,
)
from tests.tiny_official import layer_norm as norm_shapes

COUNTS = [3, 1, 40, 6, 2]  # boxes of each image, one of them over the limit
CAPTIONS = ["Red above green.", "a picture", "blue and white and black.", "Unknown: wörds, (spelt)!", "a"]
ENCODER = "img_txt_enc."
VINVL = f"{ENCODER}oscar_model."
UNUSED = (f"{ENCODER}img_proj", f"{ENCODER}cap_proj", f"{VINVL}bert.pooler", f"{VINVL}classifier")


@pytest.fixture(scope="module")
def vinvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vinvl(tmp_path_factory.mktemp("original") / "vinvl")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_weights(aladin_shapes(TINY))


@pytest.fixture(scope="module")
def checkpoint(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As PyTorch 1.2 wrote it: a legacy file."""
    path = tmp_path_factory.mktemp("original") / "model_best_rsum.pth.tar"
    torch.save(aladin_checkpoint(weights), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def folder(checkpoint: Path, vinvl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "paper"
    convert_checkpoint(checkpoint, vinvl, path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Aladin:
    return load_model(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = write_features(tmp_path_factory.mktemp("data") / "features", random_images(COUNTS))
    images = [image.id for image in random_images(COUNTS)]
    rows = [{"image": image, "captions": [text]} for image, text in zip(images, CAPTIONS, strict=True)]
    (path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_dataset(path)


def region_set(dataset: Dataset, tokenizer: Path, config: ModelConfig) -> RegionSet:
    """The data set as a model of a detector's regions reads it, which caches nothing."""
    return DetectionReader(tokenizer, config).read(dataset, 1, cache=tokenizer.parent)


@pytest.fixture(scope="module")
def batch(dataset: Dataset, folder: Path, model: Aladin) -> ImageInput:
    return region_set(dataset, folder / "tokenizer.json", model.config).read(range(len(dataset)))


def sentence(caught: pytest.ExceptionInfo[AladinError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_synthetic_files_have_as_many_keys_and_parameters_as_the_released_ones() -> None:
    for shapes, keys, parameters in ((vinvl_shapes(Sizes()), 205, 111_063_554), (aladin_shapes(Sizes()), 233, 119_337_986)):
        assert (len(shapes), sum(map(math.prod, shapes.values()))) == (keys, parameters)


# Parity with networks that are not ours, fed with the original's weights under the original's names.


class Given(nn.Module):
    """Embeddings that are made elsewhere."""

    def forward(self, inputs_embeds: Tensor, **others: object) -> Tensor:
        return inputs_embeds


@pytest.fixture(scope="module")
def bert(weights: dict[str, Tensor]) -> BertModel:
    config = bert_config(TINY)
    network = BertModel(config).eval()
    own = {key.removeprefix(f"{VINVL}bert."): weight for key, weight in weights.items() if key.startswith(f"{VINVL}bert.")}
    regions = {key for key in own if key.startswith(("img_embedding.", "LayerNorm."))}
    missing, unknown = network.load_state_dict(own, strict=False)
    assert (set(missing) - {"embeddings.position_ids", "embeddings.token_type_ids"}, set(unknown)) == (set(), regions)
    return network


def layer_norm(rows: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return nn.functional.layer_norm(rows, (TINY.dim,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)


def image_embeddings(weights: dict[str, Tensor], batch: ImageInput) -> Tensor:
    """What the specification says of the image pass (section 1.4): tags with position and type, regions with neither."""
    name = f"{VINVL}bert."
    types = torch.ones_like(batch.tags)
    types[:, 0] = 0
    words = (
        weights[f"{name}embeddings.word_embeddings.weight"][batch.tags]
        + weights[f"{name}embeddings.position_embeddings.weight"][: batch.tags.shape[1]]
        + weights[f"{name}embeddings.token_type_embeddings.weight"][types]
    )
    regions = batch.regions.tokens.states @ weights[f"{name}img_embedding.weight"].T + weights[f"{name}img_embedding.bias"]
    return torch.cat(
        [layer_norm(words, weights, f"{name}embeddings.LayerNorm"), layer_norm(regions, weights, f"{name}LayerNorm")], dim=1
    )


@torch.no_grad()
def test_hidden_states_of_captions_are_transformers_ones(folder: Path, model: Aladin, bert: BertModel) -> None:
    pieces = WordPieces.load(folder / "tokenizer.json", 50).encode(CAPTIONS)
    ids, mask = torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask)
    expected = bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert_close(model.caption_states(ids, mask).states[mask], expected[mask], atol=1e-5, rtol=0)


@torch.no_grad()
def test_hidden_states_of_images_are_transformers_ones_fed_the_same_embeddings(
    model: Aladin, bert: BertModel, weights: dict[str, Tensor], batch: ImageInput
) -> None:
    words, bert.embeddings = bert.embeddings, Given()
    mask = torch.cat([batch.tag_mask, batch.regions.mask], dim=1)
    expected = bert(inputs_embeds=image_embeddings(weights, batch), attention_mask=mask.long()).last_hidden_state
    bert.embeddings = words
    actual = model.image_states(batch)
    assert torch.equal(actual.mask, batch.regions.mask)
    assert_close(actual.states[actual.mask], expected[:, batch.tags.shape[1] :][actual.mask], atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_to_the_full_limits_as_the_original_does_changes_no_state(model: Aladin, batch: ImageInput) -> None:
    pad = nn.functional.pad
    tags, tag_mask = (pad(value, (0, 50 - batch.tags.shape[1])) for value in (batch.tags, batch.tag_mask))
    full = model.image_states(ImageInput(tags, tag_mask, batch.regions))
    short = model.image_states(batch)
    assert_close(full.states[full.mask], short.states[short.mask], atol=1e-5, rtol=0)


@torch.no_grad()
def test_vectors_are_the_first_outputs_of_torchs_encoder(
    folder: Path, model: Aladin, weights: dict[str, Tensor], batch: ImageInput
) -> None:
    layer = nn.TransformerEncoderLayer(TINY.dim, 4, TINY.dim, dropout=0.1, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    name = f"{ENCODER}final_projection_net."
    encoder.load_state_dict({key.removeprefix(name): weight for key, weight in weights.items() if key.startswith(name)})
    pieces = WordPieces.load(folder / "tokenizer.json", 50).encode(CAPTIONS)
    captions = model.caption_states(torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask))
    images = model.image_states(batch)
    for states, vectors in (
        (captions, model.encoded_captions(captions).vectors),
        (images, model.encoded_images(images).vectors),
    ):
        outputs = encoder(states.states, src_key_padding_mask=~states.mask)
        assert_close(vectors, nn.functional.normalize(outputs[:, 0], dim=-1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_alignment_scores_are_the_slow_ones_of_the_specification(folder: Path, model: Aladin, batch: ImageInput) -> None:
    pieces = WordPieces.load(folder / "tokenizer.json", 50).encode(CAPTIONS)
    captions = model.caption_states(torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask))
    images = model.image_states(batch)
    rows = [
        [states[mask].numpy() for states, mask in zip(tokens.states, tokens.mask, strict=True)] for tokens in (images, captions)
    ]
    expected = [[official_reference.alignment(image, caption, "MrSw") for caption in rows[1]] for image in rows[0]]
    scores = alignment_scores(model.encoded_images(images).tokens, model.encoded_captions(captions).tokens, "MrSw")
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    assert scores[:, CAPTIONS.index("a")].eq(0).all(), "a caption of one piece has no word left"


# Reading regions.


def test_regions_and_tags_are_cut_to_the_limits_in_the_order_of_the_file(dataset: Dataset, folder: Path, model: Aladin) -> None:
    images = random_images(COUNTS)
    batch = region_set(dataset, folder / "tokenizer.json", model.config).read(np.array([2, 0]))
    assert batch.regions.mask.sum(dim=1).tolist() == [34, 3]
    assert_close(batch.regions.tokens.states[0], torch.from_numpy(images[2].boxes[:34]))
    assert_close(batch.regions.tokens.states[1, :3], torch.from_numpy(images[0].boxes))
    assert batch.tags.shape[1] <= 50
    assert (batch.tags[:, 0] == VOCABULARY.index("[UNK]")).all()
    for row, number in enumerate((2, 0)):
        expected = ["[UNK]", *" ".join(images[number].classes).split(), "[SEP]"]
        assert [VOCABULARY[piece] for piece in batch.tags[row][batch.tag_mask[row]]] == expected


def test_a_cross_fitted_teacher_sees_a_detectors_regions_as_they_are(dataset: Dataset, folder: Path, model: Aladin) -> None:
    pooled = pictures_seen(region_set(dataset, folder / "tokenizer.json", model.config), network=None)
    for row, image in zip(pooled, random_images(COUNTS), strict=True):
        boxes = torch.from_numpy(image.boxes[:34])
        assert_close(row, torch.cat([boxes.mean(dim=0), boxes.amax(dim=0)]))


def test_regions_of_another_size_than_the_models_are_refused(folder: Path, model: Aladin, tmp_path: Path) -> None:
    path = write_features(tmp_path / "features", random_images([2], numbers=TINY.region - 6))
    (path / "captions.jsonl").write_text('{"image": "100", "captions": ["a"]}\n')
    regions = region_set(read_dataset(path), folder / "tokenizer.json", model.config)
    with pytest.raises(DataError, match=r"line 1 \(image 100\): 8 numbers a box; expected 14; append x1/W") as caught:
        regions.read(range(1))
    sentence(caught)


def test_photographs_and_regions_are_not_taken_for_each_other(
    dataset: Dataset, folder: Path, model: Aladin, photos: Path
) -> None:
    (photos / "captions.jsonl").write_text('{"image": "red.png", "captions": ["red"]}\n')
    pictures = read_dataset(photos)
    with pytest.raises(DataError, match=r"image red\.png is a photograph; this model reads a detector's regions") as caught:
        region_set(pictures, folder / "tokenizer.json", model.config)
    sentence(caught)
    with pytest.raises(DataError, match="image 100 is a row of region features; this model reads photographs") as caught:
        check_photographs(dataset)
    sentence(caught)
    check_photographs(pictures)


# What is converted, and what is refused.


def test_a_converted_folder_states_sizes_quirks_and_origin(folder: Path, checkpoint: Path) -> None:
    table = read_toml(folder / "model.toml")
    assert table["backbone"] == {
        "vocabulary": len(VOCABULARY),
        "positions": 64,
        "dim": 16,
        "layers": 2,
        "heads": 4,
        "feed_forward": 24,
        "region_features": 8,
        "region_geometry": 6,
        "region_layer_norm": True,
        "layer_norm_eps": 1e-12,
        "dropout": 0.1,
        "attention_dropout": 0.1,
    }
    quirks = dict.fromkeys(("region_as_cls", "last_piece_dropped", "zero_padding", "equal_layers"), True)
    quirks |= {"image_first_token": "[UNK]"}
    assert table["quirks"] == quirks == to_table(RELEASED)
    assert (table["limits"]["object_pieces"], table["limits"]["regions"]) == (50, 34)
    assert table["preprocessing"]["caption_pieces"] == 50
    assert table["origin"]["file"] == checkpoint.name
    assert table["origin"]["epoch"] == 14
    assert len(table["origin"]["sha256"]) == 64


def converted(content: object, vinvl: Path, tmp_path: Path, **options: Any) -> Aladin:
    torch.save(content, tmp_path / "checkpoint.pt", **options)
    convert_checkpoint(tmp_path / "checkpoint.pt", vinvl, tmp_path / "out")
    return load_model(tmp_path / "out")


def same_weights(one: Aladin, other: Aladin) -> bool:
    own = other.state_dict()
    return all(torch.equal(weight, own[name]) for name, weight in one.state_dict().items())


@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_old_and_new_pytorch_give_the_same_model(
    weights: dict[str, Tensor], vinvl: Path, model: Aladin, tmp_path: Path, zipped: bool
) -> None:
    other = converted(aladin_checkpoint(weights), vinvl, tmp_path, _use_new_zipfile_serialization=zipped)
    assert same_weights(model, other)
    assert other.config == model.config


def test_layer_norms_called_gamma_and_beta_are_read(
    weights: dict[str, Tensor], vinvl: Path, model: Aladin, tmp_path: Path
) -> None:
    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    renamed = {old(name): weight for name, weight in weights.items()}
    assert len(renamed.keys() - weights.keys()) == 2 * (2 + 2 * TINY.layers)
    assert same_weights(model, converted(aladin_checkpoint(renamed), vinvl, tmp_path))


def test_what_nobody_reads_may_be_missing_or_more(
    weights: dict[str, Tensor], vinvl: Path, model: Aladin, tmp_path: Path
) -> None:
    changed = {name: weight for name, weight in weights.items() if not name.startswith(UNUSED)}
    assert len(weights) - len(changed) == 8
    more = ("distillation_loss.wb", f"{VINVL}cls.predictions.bias", f"{VINVL}bert.embeddings.position_ids")
    more += (f"{VINVL}classifier.0.weight", f"{VINVL}classifier.2.bias")
    changed |= {name: torch.zeros(2) for name in more}
    assert same_weights(model, converted(aladin_checkpoint(changed), vinvl, tmp_path))


def test_every_weight_that_is_read_is_required_by_its_name(weights: dict[str, Tensor], model: Aladin) -> None:
    needed = [name for name in weights if not name.startswith(UNUSED)]
    assert len(needed) == len(model.state_dict())
    other = Aladin(model.config, new_backbone(model.config))
    for name in needed:
        rest = {key: weight for key, weight in weights.items() if key != name}
        with pytest.raises(ModelError) as caught:
            fill(other, Original(rest, None, {}, None), Path("checkpoint"))
        assert sentence(caught).startswith(f"checkpoint lacks {name} and has unknown nothing; ")
    fill(other, Original({name: weights[name] for name in needed}, None, {}, None), Path("checkpoint"))
    assert same_weights(other, model)


def test_nothing_is_written_when_a_weight_is_missing(weights: dict[str, Tensor], vinvl: Path, tmp_path: Path) -> None:
    rest = {name: weight for name, weight in weights.items() if name != f"{VINVL}bert.embeddings.LayerNorm.bias"}
    with pytest.raises(ModelError, match=r"lacks img_txt_enc\.oscar_model\.bert\.embeddings\.LayerNorm\.bias and has unknown"):
        converted(aladin_checkpoint(rest), vinvl, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{ENCODER}third_proj.weight", r"lacks nothing and has unknown img_txt_enc\.third_proj\.weight"),
        (f"{VINVL}bert.encoder.layer.2.output.dense.bias", r"unknown img_txt_enc\.oscar_model\.bert\.encoder\.layer\.2\."),
        (
            f"{ENCODER}depth_aggregator_model_matching.gate_ffn.bias",
            r"lacks img_txt_enc\.depth_aggregator_model_matching\.gate_ffn\.weight, .* and 2 more",
        ),
        (f"{ENCODER}depth_aggregator_model_alignment.self_attn.in_proj_bias", "unknown .*depth_aggregator_model_alignment"),
        (f"{ENCODER}feature_fusion.alphas.0.weight", r"lacks img_txt_enc\.feature_fusion\.alphas\.0\.bias"),
        (
            f"{ENCODER}transformer_encoder_1.layers.0.norm1.bias",
            r"lacks img_txt_enc\.transformer_encoder_1\.layers",
        ),
        (f"{ENCODER}transformer_encoder_2.layers.0.norm1.bias", r"unknown img_txt_enc\.transformer_encoder_2"),
    ],
)
def test_anything_else_is_refused_by_its_name(
    weights: dict[str, Tensor], vinvl: Path, tmp_path: Path, name: str, expected: str
) -> None:
    with pytest.raises(ModelError, match=expected) as caught:
        converted(aladin_checkpoint(weights | {name: torch.zeros(2)}), vinvl, tmp_path)
    sentence(caught)


def with_settings(weights: dict[str, Tensor], **changes: object) -> dict[str, object]:
    content = aladin_checkpoint(weights)
    content["config"]["model"] |= {name.replace("_", "-"): value for name, value in changes.items()}  # type: ignore[index]
    return content


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"depth_aggregation_alignment": "mean"}, r"lacks img_txt_enc\.feature_fusion\.alphas\.0\.bias"),
        ({"depth_aggregation_matching": "gated"}, r"lacks img_txt_enc\.depth_aggregator_model_matching\.gate_ffn"),
        ({"tern_layers": 4}, "a matching head of 2 layers and tern-layers 4 in its settings"),
        ({"alignment_mode": "best"}, "has alignment-mode 'best'; expected one of MrSw,"),
        ({"alignment_mode": "mean"}, "alignment-mode 'mean', which in the original depends on the padding"),
    ],
)
def test_settings_that_describe_another_network_are_refused(
    weights: dict[str, Tensor], vinvl: Path, tmp_path: Path, settings: dict[str, object], expected: str
) -> None:
    with pytest.raises(ModelError, match=expected) as caught:
        converted(with_settings(weights, **settings), vinvl, tmp_path)
    sentence(caught)


def test_another_pooling_is_taken_over(weights: dict[str, Tensor], vinvl: Path, tmp_path: Path) -> None:
    assert converted(with_settings(weights, alignment_mode="symm"), vinvl, tmp_path).config.heads.pooling == "symm"


def gates(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's weights with those of a gated depth aggregation for the matching head."""
    name, dim = f"{ENCODER}depth_aggregator_model_matching", TINY.dim
    shapes = {f"{name}.self_attn.in_proj_weight": (3 * dim, dim), f"{name}.self_attn.in_proj_bias": (3 * dim,)}
    shapes |= linear(f"{name}.self_attn.out_proj", dim, dim) | linear(f"{name}.gate_ffn", 1, dim)
    return weights | random_weights(shapes, seed=1)


@torch.no_grad()
@pytest.mark.parametrize("form", ["gated", "mean"])
def test_the_matching_head_reads_all_hidden_states_where_the_checkpoint_says_so(
    weights: dict[str, Tensor], vinvl: Path, tmp_path: Path, bert: BertModel, form: str
) -> None:
    content = aladin_checkpoint(gates(weights))
    if form == "mean":
        content = with_settings(weights, depth_aggregation_matching="mean")
    model = converted(content, vinvl, tmp_path)
    assert model.config.heads.depth == HeadsConfig().depth | {"matching_depth": form}
    pieces = WordPieces.load(tmp_path / "out" / "tokenizer.json", 50).encode(CAPTIONS)
    ids, mask = torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask)
    every = torch.stack(bert(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states)
    assert len(every) == 1 + TINY.layers
    shares = torch.full((len(every), *mask.shape, 1), 1 / len(every))
    if form == "gated":
        name, own = f"{ENCODER}depth_aggregator_model_matching.", gates(weights)
        parts = {key.removeprefix(name): weight for key, weight in own.items() if key.startswith(name)}
        attention = nn.MultiheadAttention(TINY.dim, 4, batch_first=True).eval()
        attention.load_state_dict({key.removeprefix("self_attn."): parts[key] for key in parts if key.startswith("self_attn.")})
        attended = torch.stack([attention(states, states, states, key_padding_mask=~mask)[0] for states in every])
        shares = (attended @ parts["gate_ffn.weight"].T + parts["gate_ffn.bias"]).sigmoid()
    expected = model.matching_head(Tokens((shares * every).sum(dim=0), mask))
    found = model.encoded_captions(model.caption_states(ids, mask))
    assert_close(found.vectors, expected, atol=1e-5, rtol=0)
    # The alignment head goes on reading the last one.
    assert_close(found.tokens.states[found.tokens.mask], words_of(every[-1], found.tokens.mask), atol=1e-5, rtol=0)


def encoder_layers(name: str, count: int, feed_forward: int = 20) -> dict[str, tuple[int, ...]]:
    """The weights of a transformer that the original adds."""
    dim = TINY.dim
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(count):
        start = f"{ENCODER}{name}.layers.{layer}"
        shapes |= {f"{start}.self_attn.in_proj_weight": (3 * dim, dim), f"{start}.self_attn.in_proj_bias": (3 * dim,)}
        shapes |= linear(f"{start}.self_attn.out_proj", dim, dim) | linear(f"{start}.linear1", feed_forward, dim)
        shapes |= linear(f"{start}.linear2", dim, feed_forward)
        shapes |= norm_shapes(f"{start}.norm1", dim) | norm_shapes(f"{start}.norm2", dim)
    return shapes


def run_layers(weights: dict[str, Tensor], name: str, states: Tensor, mask: Tensor) -> Tensor:
    """What torch's own encoder of these weights makes of states."""
    start = f"{ENCODER}{name}.layers."
    layers = {key.removeprefix(start): weight for key, weight in weights.items() if key.startswith(start)}
    layer = nn.TransformerEncoderLayer(TINY.dim, 4, len(layers["0.linear1.bias"]), batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1 + max(int(key.split(".")[0]) for key in layers), enable_nested_tensor=False)
    encoder.layers.load_state_dict(layers)
    found: Tensor = encoder.eval()(states, src_key_padding_mask=~mask)
    return found


def fused_by_hand(weights: dict[str, Tensor], earlier: Tensor, last: Tensor) -> Tensor:
    """feature_fusion(aggregated, last)."""
    parts = {key.removeprefix(f"{ENCODER}feature_fusion.alphas."): weight for key, weight in weights.items()}
    hidden = (torch.cat([earlier, last], dim=-1) @ parts["0.weight"].T + parts["0.bias"]).relu()
    alphas = (hidden @ parts["3.weight"].T + parts["3.bias"]).sigmoid()
    return alphas[..., :1] * earlier + alphas[..., 1:] * last


FUSION: dict[str, tuple[int, ...]] = {
    f"{ENCODER}feature_fusion.alphas.{name}": shape
    for name, shape in {"0.weight": (512, 32), "0.bias": (512,), "3.weight": (2, 512), "3.bias": (2,)}.items()
}


@torch.no_grad()
@pytest.mark.parametrize("matching", ["last", "mean"])
def test_depth_and_added_transformers_stand_where_the_originals_do(
    weights: dict[str, Tensor], vinvl: Path, tmp_path: Path, bert: BertModel, matching: str
) -> None:
    added = random_weights(FUSION | encoder_layers("post_oscar_transformer", 1) | encoder_layers("transformer_encoder_1", 2), 2)
    content = with_settings(weights | added, **({} if matching == "last" else {"depth_aggregation": "mean"}))
    model = converted(content, vinvl, tmp_path)
    heads = model.config.heads
    assert (heads.matching_depth, heads.alignment_depth, heads.alignment_layers) == (matching, "mean", 2)
    assert heads.post_layers == (1 if matching == "mean" else 0), "without depth for the matching head nobody reads it"
    pieces = WordPieces.load(tmp_path / "out" / "tokenizer.json", 50).encode(CAPTIONS)
    ids, mask = torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask)
    every = torch.stack(bert(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states)
    fused = fused_by_hand(added, every[:-1].mean(dim=0), every[-1])
    post = run_layers(added, "post_oscar_transformer", every[-1], mask)
    read = fused if matching == "last" else torch.cat([every, post[None]]).mean(dim=0)
    found = model.encoded_captions(model.caption_states(ids, mask))
    assert_close(found.vectors, model.matching_head(Tokens(read, mask)), atol=1e-5, rtol=0)
    words = run_layers(added, "transformer_encoder_1", fused, mask)
    assert_close(found.tokens.states[found.tokens.mask], words_of(words, found.tokens.mask), atol=1e-5, rtol=0)


@torch.no_grad()
def test_images_have_a_transformer_of_their_own_where_it_is_not_shared(
    weights: dict[str, Tensor], vinvl: Path, tmp_path: Path, dataset: Dataset
) -> None:
    added = random_weights(encoder_layers("transformer_encoder_1", 1) | encoder_layers("transformer_encoder_2", 1), 3)
    model = converted(aladin_checkpoint(weights | added), vinvl, tmp_path)
    assert not model.config.heads.alignment_layers_shared
    read = region_set(dataset, tmp_path / "out" / "tokenizer.json", model.config).read(range(len(dataset)))
    states = model.image_states(read)
    expected = run_layers(added, "transformer_encoder_2", states.states, states.mask)
    found = model.encoded_images(states)
    regions = model.alignment_head.regions(Tokens(expected, states.mask))
    assert_close(found.tokens.states[found.tokens.mask], regions.states[regions.mask], atol=1e-5, rtol=0)


def words_of(states: Tensor, mask: Tensor) -> Tensor:
    """The real words of an alignment head that puts nothing in front."""
    return nn.functional.normalize(states[:, 1:], dim=-1)[mask]


def test_a_weight_of_another_shape_is_refused_by_its_name(weights: dict[str, Tensor], vinvl: Path, tmp_path: Path) -> None:
    name = f"{VINVL}bert.img_embedding.weight"
    with pytest.raises(ModelError, match=rf"has {name} of shape \(16, 8\); expected \(16, 14\) by config.json") as caught:
        converted(aladin_checkpoint(weights | {name: torch.zeros(16, 8)}), vinvl, tmp_path)
    sentence(caught)


def test_a_model_without_region_layer_norm_is_read_as_such(weights: dict[str, Tensor], vinvl: Path, tmp_path: Path) -> None:
    plain = {name: weight for name, weight in weights.items() if not name.startswith(f"{VINVL}bert.LayerNorm")}
    assert not converted(aladin_checkpoint(plain), vinvl, tmp_path).config.backbone.region_layer_norm


@pytest.mark.parametrize(("purpose", "quirks"), [("aladin", RELEASED), ("own", QuirksConfig())])
def test_vinvls_own_checkpoint_is_a_start_with_a_fresh_matching_head_for_the_paper_or_ones_own(
    vinvl: Path, tmp_path: Path, purpose: Literal["aladin", "own"], quirks: QuirksConfig
) -> None:
    for out in ("one", "other"):
        convert_checkpoint(vinvl / "pytorch_model.bin", vinvl, tmp_path / out, purpose)
    one, other = load_model(tmp_path / "one"), load_model(tmp_path / "other")
    expected = random_weights(vinvl_shapes(TINY))
    assert torch.equal(one.backbone.region_embedding.linear.weight, expected["bert.img_embedding.weight"])
    assert one.config.quirks == quirks
    first, second = (layer.state_dict() for layer in one.matching_head.layers)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items()) == quirks.equal_layers
    assert one.config.heads == HeadsConfig("MrSw", 16, 2, 4, 16)
    assert one.config.image == ImageConfig(source="detector")
    assert same_weights(one, other), "the fresh head is the same every time"


def test_lengths_are_those_of_the_checkpoints_options(weights: dict[str, Tensor], vinvl: Path, tmp_path: Path) -> None:
    options = argparse.Namespace(max_seq_length=60, max_img_seq_length=40)
    config = converted(aladin_checkpoint(weights) | {"opt": options}, vinvl, tmp_path).config
    assert (config.preprocessing.caption_pieces, config.limits.object_pieces, config.limits.regions) == (60, 60, 40)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ModelError, match="has max_seq_length 'many' in its options; expected a number of at least 2"):
        converted(aladin_checkpoint(weights) | {"opt": argparse.Namespace(max_seq_length="many")}, vinvl, other)


def test_a_folder_that_holds_a_model_is_not_written_over(checkpoint: Path, vinvl: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="holds a model already; give another folder") as caught:
        convert_checkpoint(checkpoint, vinvl, folder)
    sentence(caught)


# Pickles are never run.


class Harmful:
    """A pickle of it makes a folder when it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["model", "opt", "namespace"])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    weights: dict[str, Tensor], vinvl: Path, tmp_path: Path, zipped: bool, place: str
) -> None:
    harmful, content = Harmful(tmp_path / "proof"), aladin_checkpoint(weights)
    if place == "namespace":
        content["opt"] = argparse.Namespace(logger=harmful)
    else:
        content[place] = harmful
    with pytest.raises(ModelError, match=r"asks for \w+\.mkdir, which is no plain data and, for safety, not run") as caught:
        converted(content, vinvl, tmp_path, _use_new_zipfile_serialization=zipped)
    sentence(caught)
    assert not (tmp_path / "proof").exists()
    torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert (tmp_path / "proof").exists(), "the file is as harmful as the test says"


@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_file_is_refused_in_one_sentence(checkpoint: Path, tmp_path: Path, zipped: bool) -> None:
    content = {"model": {"a": torch.ones(3)}, "opt": argparse.Namespace(lr=1)}
    torch.save(content, tmp_path / "small.pt", _use_new_zipfile_serialization=zipped)
    whole, random = (tmp_path / "small.pt").read_bytes(), np.random.default_rng(0)
    damaged = [whole[: len(whole) * share // 10] for share in range(10)]
    for _ in range(40):
        flipped = bytearray(whole)
        flipped[random.integers(len(whole))] = random.integers(256)
        damaged.append(bytes(flipped))
    said = []
    for content in damaged:
        (tmp_path / "small.pt").write_bytes(content)
        try:
            unpickled(tmp_path / "small.pt")
        except ModelError as error:
            said.append(str(error))
    assert len(said) > 10
    assert not any("\n" in error for error in said)
    with pytest.raises(ModelError, match="there is no file"):
        unpickled(tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "holds list; expected an ALADIN or VinVL checkpoint, which is a dictionary"),
        ({"model": 3}, "holds no weights by name"),
        ({"model": {"a": "b"}}, "holds no weights by name"),
        ({"model": {1: torch.ones(2)}}, "holds no weights by name"),
        ({"epoch": 3}, "holds no weights by name"),
        ({}, r"lacks img_txt_enc\.oscar_model"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(vinvl: Path, tmp_path: Path, content: object, expected: str) -> None:
    with pytest.raises(ModelError, match=expected) as caught:
        converted(content, vinvl, tmp_path)
    sentence(caught)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, r"config\.json cannot be read as JSON"),
        ("{", r"config\.json cannot be read as JSON"),
        ("[]", "says None of layer_norm_eps; expected a number"),
        ({"num_hidden_layers": None}, "says None of num_hidden_layers; expected a number"),
        ({"num_hidden_layers": 3}, r"lacks .*encoder\.layer\.2\."),
        ({"num_attention_heads": 5}, r"config\.json describes no model: dim in \[backbone\] is 16"),
        ({"hidden_act": "relu"}, "says 'relu' of hidden_act"),
        ({"img_layer_norm_eps": 1e-5}, "1e-05 of img_layer_norm_eps; expected 'gelu' and one epsilon"),
        ({"hidden_size": 32}, r"of shape \(16, 16\); expected \(16, 32\) by config.json"),
        ({"max_position_embeddings": 40}, r"positions in \[backbone\] is 40, but \[limits\] allow 50"),
        ({"hidden_dropout_prob": 2}, "describes no model: dropout is 2.0"),
    ],
)
def test_a_config_that_does_not_describe_the_checkpoint_is_refused(
    checkpoint: Path, tmp_path: Path, change: object, expected: str
) -> None:
    folder = write_vinvl(tmp_path / "vinvl", weights=False)
    path = folder / "config.json"
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))  # type: ignore[operator]
    with pytest.raises(ModelError, match=expected) as caught:
        convert_checkpoint(checkpoint, folder, tmp_path / "out")
    sentence(caught)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read"),
        ("a\nb\n", r"2 lines, 2 of them different, and lacks \[CLS\], \[PAD\], \[SEP\] and 1 more"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", "6 lines, 5 of them different, and lacks nothing"),
        ("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str, range(9))]), "13 lines, .* expected at most 12 word pieces"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "vocab.txt").write_text(content)
    with pytest.raises(ModelError, match=expected) as caught:
        bert_tokenizer(tmp_path / "vocab.txt", 12)
    sentence(caught)


def test_the_tokenizer_splits_as_berts_does(vinvl: Path) -> None:
    from transformers import BertTokenizer

    texts = [*CAPTIONS, "  Spaces\tand\nlines ", "ÉCLAIR über naïve", "中文 red", "x" * 150, "don't-stop...", "[sep] red"]
    theirs = BertTokenizer(str(vinvl / "vocab.txt"), do_lower_case=True)
    ours = bert_tokenizer(vinvl / "vocab.txt", len(VOCABULARY))
    for text in texts:
        assert ours.encode(text, add_special_tokens=False).tokens == theirs.tokenize(text), text


# Captions.


def test_captions_become_lines_of_json_in_their_order_or_that_of_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "minival_captions.pt"
    torch.save({391895: ["A man.", "Ein Mann über Bord"], 7: json.dumps(["Seven.", "7"])}, path)
    lines = [json.loads(line) for line in caption_lines(path)]
    assert lines == [
        {"image": "391895", "captions": ["A man.", "Ein Mann über Bord"], "split": "val"},
        {"image": "7", "captions": ["Seven.", "7"], "split": "val"},
    ]
    assert [json.loads(line)["image"] for line in caption_lines(path, ["7", "391895"])] == ["7", "391895"]
    assert [json.loads(line)["image"] for line in caption_lines(path, ["7"])] == ["7"]


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("test", "test"), ("restval", "train"), ("other", "")])
def test_the_split_is_told_by_the_files_name(tmp_path: Path, name: str, split: str) -> None:
    torch.save({1: ["a"]}, tmp_path / f"{name}_captions.pt")
    (line,) = caption_lines(tmp_path / f"{name}_captions.pt")
    assert json.loads(line)["split"] == split


@pytest.mark.parametrize(
    ("content", "keys", "expected"),
    [
        ([1], None, "holds list; expected a dictionary of image ids and captions"),
        ({1: "no JSON"}, None, "something else than a list of captions for image 1"),
        ({1: 3}, None, "something else than a list of captions for image 1"),
        ({1: [3]}, None, "something else than a list of captions for image 1"),
        ({1: []}, None, "something else than a list of captions for image 1"),
        ({1: ["a"]}, ["1", "2", "3"], "has no captions of image 2, 3; give the list of ids that belongs to this split"),
    ],
)
def test_a_file_that_holds_no_captions_is_refused(
    tmp_path: Path, content: object, keys: list[str] | None, expected: str
) -> None:
    torch.save(content, tmp_path / "test_captions.pt")
    with pytest.raises(DataError, match=expected) as caught:
        list(caption_lines(tmp_path / "test_captions.pt", keys))
    sentence(caught)


def test_code_in_a_caption_file_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({1: Harmful(tmp_path / "proof")}, tmp_path / "test_captions.pt")
    with pytest.raises(DataError, match=r"asks for \w+\.mkdir"):
        list(caption_lines(tmp_path / "test_captions.pt"))
    assert not (tmp_path / "proof").exists()


# Learning.


@pytest.mark.slow
def test_a_model_of_regions_learns_in_a_few_steps(vinvl: Path, dataset: Dataset, tmp_path: Path) -> None:
    convert_checkpoint(vinvl / "pytorch_model.bin", vinvl, tmp_path / "start")
    model = load_model(tmp_path / "start").train()
    regions = region_set(dataset, tmp_path / "start" / "tokenizer.json", model.config)
    pieces = WordPieces.load(tmp_path / "start" / "tokenizer.json", 50).encode(CAPTIONS)
    optimizer, own, losses = torch.optim.Adam(model.parameters(), lr=5e-3), torch.eye(len(CAPTIONS), dtype=torch.bool), []
    torch.manual_seed(0)
    for _ in range(40):
        batch = regions.read(range(len(dataset)))
        images = model.encoded_images(model.image_states(batch))
        captions = model.encoded_captions(model.caption_states(torch.from_numpy(pieces.ids), torch.from_numpy(pieces.mask)))
        aligned = alignment_scores(images.tokens, captions.tokens, "MrAVGw")
        loss = infonce_loss(aligned, own) + infonce_loss(images.vectors @ captions.vectors.T, own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
