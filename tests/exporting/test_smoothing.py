from pathlib import Path

import pytest
import torch
from torch import nn

from aladin.encoder.word_pieces import WordPieces
from aladin.exporting.smoothing import smoothed
from aladin.network.model import Aladin
from tests.tiny_learning import TINY, tiny_model, write_tokenizer

LARGE = 3  # the channel of the states that is made large


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("smoothing"))


@pytest.fixture(scope="module")
def tokenizer(tokenizer_path: Path) -> WordPieces:
    return WordPieces.of(tokenizer_path, TINY.preprocessing)


@pytest.fixture(scope="module")
def model(tokenizer_path: Path) -> Aladin:
    """A model one of whose channels is much larger than the others, as trained ones have."""
    made = tiny_model(tokenizer_path).eval()
    norms = [module for module in made.backbone.modules() if isinstance(module, nn.LayerNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight[LARGE] = 40.0
    return made


def spread(model: Aladin) -> float:
    """How many times the median channel the largest one is, in what the first layer's query, key and value read."""
    read: list[torch.Tensor] = []
    handle = model.backbone.layers[0].attention.query.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model.caption_states(torch.arange(4, 12)[None], torch.ones(1, 8, dtype=torch.bool))
    handle.remove()
    channels = read[0].abs().amax(dim=(0, 1))
    return float(channels.max() / channels.median())


@torch.no_grad()
def test_a_smoothed_model_encodes_images_and_captions_as_before(model: Aladin, tokenizer: WordPieces) -> None:
    pieces, mask = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]]), torch.tensor([[True] * 4, [True, True, True, False]])
    assert model.backbone.image_network is not None
    maps = torch.randn(2, model.backbone.image_network.map_channels, 4, 4)
    classes = torch.tensor([[1], [999]])
    even = smoothed(model, tokenizer)
    for before, after in (
        (model.caption_states(pieces, mask), even.caption_states(pieces, mask)),
        (
            model.image_states(model.backbone.image_input(maps, classes)),
            even.image_states(even.backbone.image_input(maps, classes)),
        ),
    ):
        torch.testing.assert_close(before.states, after.states, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_a_smoothed_model_has_no_channel_far_above_the_others(model: Aladin, tokenizer: WordPieces) -> None:
    assert spread(model) > 20
    assert spread(smoothed(model, tokenizer)) < 0.3 * spread(model)


def test_smoothing_leaves_the_model_itself_as_it_is(model: Aladin, tokenizer: WordPieces) -> None:
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    smoothed(model, tokenizer)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
