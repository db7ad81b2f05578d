import dataclasses
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from aladin.encoder.config import BackboneConfig, HeadsConfig, ImageConfig, LimitsConfig, ModelConfig
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ConfigError
from aladin.network.backbones import new_backbone
from aladin.network.grid import class_names
from aladin.network.model import Aladin
from aladin.network.variants import widened
from tests.tiny_learning import SIZE, TINY, tiny_model, trunk, write_tokenizer
from tests.tiny_learning import picture as draw


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer: Path) -> Aladin:
    limits = LimitsConfig(tags=2, tag_pieces=3)
    return tiny_model(tokenizer, dataclasses.replace(TINY, limits=limits)).eval()


@pytest.fixture(scope="module")
def maps(model: Aladin) -> torch.Tensor:
    assert model.backbone.image_network is not None
    found, _ = trunk(model.backbone.image_network, torch.stack([torch.from_numpy(draw(n)) for n in range(3)]).numpy(), 2)
    return torch.from_numpy(found).float()


CLASSES = torch.tensor([[1, 2], [3, 999], [0, 7]])


def test_tags_are_the_pieces_of_class_names_between_cls_and_sep(model: Aladin, tokenizer: Path) -> None:
    pieces = WordPieces.load(tokenizer, 12)
    ids, mask = model.backbone.tags(CLASSES)
    names, name_mask = pieces.name_pieces([class_names()[number] for number in CLASSES.flatten()], 3)
    for row, (tags, real) in enumerate(zip(ids, mask, strict=True)):
        of_row = slice(2 * row, 2 * row + 2)
        expected = [pieces.special("[CLS]"), *names[of_row][name_mask[of_row]], pieces.sep]
        assert tags[real].tolist() == expected


def test_a_model_may_do_without_tags(tokenizer: Path, maps: torch.Tensor) -> None:
    model = tiny_model(tokenizer, dataclasses.replace(TINY, limits=LimitsConfig(tags=0))).eval()
    states = model.image_states(model.backbone.image_input(maps, torch.empty(3, 0, dtype=torch.int64)))
    assert states.states.shape == (3, 1 + 4, 16)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch_mates(model: Aladin, maps: torch.Tensor) -> None:
    together = model.encoded_images(model.image_states(model.backbone.image_input(maps, CLASSES)))
    for row in range(3):
        alone = model.encoded_images(
            model.image_states(model.backbone.image_input(maps[row : row + 1], CLASSES[row : row + 1]))
        )
        assert_close(alone.vectors[0], together.vectors[row], atol=1e-5, rtol=0)
        assert_close(alone.tokens.states[0], together.tokens.states[row], atol=1e-5, rtol=0)


@torch.no_grad()
def test_keeping_every_region_is_keeping_none_back(model: Aladin, maps: torch.Tensor) -> None:
    every = torch.arange(4).expand(3, 4)
    assert_close(
        model.image_states(model.backbone.image_input(maps, CLASSES, every)).states,
        model.image_states(model.backbone.image_input(maps, CLASSES)).states,
    )


@torch.no_grad()
def test_a_kept_region_brings_its_own_features_and_geometry(model: Aladin, maps: torch.Tensor) -> None:
    assert model.backbone.image_network is not None
    seen: list[torch.Tensor] = []
    hook = model.backbone.region_embedding.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    keep = torch.tensor([[1, 3], [0, 2], [2, 3]])
    model.image_states(model.backbone.image_input(maps, CLASSES, keep))
    hook.remove()
    regions = model.backbone.image_network.regions(maps)
    for row in range(3):
        for place, region in enumerate(keep[row].tolist()):
            assert_close(seen[0][row, place], torch.cat([regions[row, region], model.backbone.geometry[region]]))


def test_both_heads_read_the_same_states(model: Aladin) -> None:
    pieces, mask = torch.tensor([[2, 4, 5, 3]]), torch.ones(1, 4, dtype=torch.bool)
    encoded = model.encoded_captions(model.caption_states(pieces, mask))
    assert encoded.tokens.mask.sum().item() == 2
    assert_close(encoded.tokens.states[0, :2], torch.nn.functional.normalize(encoded.states.states[0, 1:3], dim=-1))
    assert_close(encoded.vectors, model.matching_head(encoded.states))


def changed(**sections: object) -> ModelConfig:
    return dataclasses.replace(TINY, **sections)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (changed(backbone=dataclasses.replace(TINY.backbone, heads=3)), r"dim in \[backbone\] is 16 and heads .* is 3"),
        (changed(heads=HeadsConfig(matching_heads=5)), r"matching_heads in \[heads\] is 5"),
        (changed(preprocessing=Preprocessing(SIZE, caption_pieces=17)), "positions in .* is 16, but .* allow 17 word pieces"),
        (changed(limits=LimitsConfig(tags=5)), "positions in .* is 16, but .* allow 17 word pieces"),
        (
            changed(image=ImageConfig(grid=3)),
            "size in .* is 64 and grid in .* is 3; expected a multiple of 32, at least 32 x grid",
        ),
        (changed(backbone=BackboneConfig(region_features=2048)), "the image networks give 1280 and 6"),
        (changed(backbone=BackboneConfig(positions=4000), limits=LimitsConfig(tags=1001)), "tags .* is 1001"),
    ],
)
def test_sizes_that_contradict_each_other_are_an_error(config: ModelConfig, expected: str, model: Aladin) -> None:
    with pytest.raises(ConfigError, match=expected):
        new_backbone(config)


def test_a_fresh_model_starts_from_berts_distribution_and_without_biases(tokenizer: Path) -> None:
    states = tiny_model(tokenizer).state_dict()
    assert states["backbone.layers.0.intermediate.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert states["backbone.embeddings.word_embeddings.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert not states["backbone.region_embedding.linear.bias"].any()


@torch.no_grad()
def test_a_widened_model_says_the_same_until_it_learns(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, limits=dataclasses.replace(TINY.limits, tags=0))
    narrow = tiny_model(write_tokenizer(tmp_path), config)
    image = dataclasses.replace(config.image, networks=("efficientnet-lite0", "efficientnet-lite2"))
    wide = widened(narrow, image, SIZE)
    assert narrow.backbone.image_network is not None
    assert wide.backbone.image_network is not None
    pixels = torch.stack([torch.from_numpy(draw(number)) for number in range(3)])
    none = torch.zeros(3, 0, dtype=torch.int64)
    expected = narrow.image_states(narrow.backbone.image_input(narrow.backbone.image_network.maps(pixels), none)).states
    assert_close(wide.image_states(wide.backbone.image_input(wide.backbone.image_network.maps(pixels), none)).states, expected)
    with pytest.raises(ConfigError, match="expected the model's own first"):
        widened(narrow, dataclasses.replace(image, networks=("efficientnet-lite2",)), SIZE)
