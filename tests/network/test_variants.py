import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch

from aladin.encoder.config import ImageConfig
from aladin.network.model import Aladin
from aladin.network.variants import (
    as_trained,
    widened,
    with_cross_encoder,
    with_depth,
    with_dropout,
    with_fresh_matching_head,
    with_global_head,
    with_hub_correction,
    with_projection,
    with_settings,
)
from tests.tiny_learning import TINY, tiny_model, write_tokenizer

HEADS = TINY.heads
GLOBAL = dataclasses.replace(HEADS, global_dim=4, global_axes=8, global_hidden=8)
VECTORS = torch.nn.functional.normalize(torch.randn(12, TINY.backbone.dim, generator=torch.Generator().manual_seed(0)), dim=1)
FORGETFUL = (
    dataclasses.replace(TINY.backbone, dropout=0.3, attention_dropout=0.1),
    dataclasses.replace(HEADS, matching_dropout=0.2, depth_dropout=0.1),
)
VARIANTS: dict[str, Callable[[Aladin], Aladin]] = {
    "fresh matching head": with_fresh_matching_head,
    "depth": lambda model: with_depth(model, dataclasses.replace(HEADS, matching_depth="gated", post_layers=1)),
    "cross-encoder": with_cross_encoder,
    "settings": lambda model: with_settings(
        model, dataclasses.replace(TINY, preprocessing=dataclasses.replace(TINY.preprocessing, caption_pieces=9))
    ),
    "dropout": lambda model: with_dropout(model, *FORGETFUL),
    "projection": lambda model: with_projection(model, 8),
    "the same projection": lambda model: with_projection(model, HEADS.token_dim),
    "global head": lambda model: with_global_head(model, GLOBAL),
    "hub correction": lambda model: with_hub_correction(model, dataclasses.replace(HEADS, hub_centres=3), VECTORS, VECTORS),
    "widened": lambda model: widened(model, ImageConfig(("efficientnet-lite0", "efficientnet-lite1"), grid=2), 64),
    "as trained": as_trained,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Aladin:
    return tiny_model(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_leaves_the_given_model_as_it_was(model: Aladin, variant: str, training: bool) -> None:
    model.train(training)
    weights, config, modules = copy.deepcopy(model.state_dict()), model.config, [*model.modules()]
    shares = [module.p for module in modules if isinstance(module, torch.nn.Dropout)]
    new = VARIANTS[variant](model)
    assert new is not model
    assert model.config == config
    assert [*model.modules()] == modules
    assert [module.p for module in modules if isinstance(module, torch.nn.Dropout)] == shares
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert all(module.training is training for module in new.modules())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_shares_no_weight_with_the_given_model(model: Aladin, variant: str) -> None:
    ours = {weight.data_ptr() for weight in model.state_dict().values() if weight.numel()}
    new = VARIANTS[variant](model).state_dict().values()
    assert not ours & {weight.data_ptr() for weight in new if weight.numel()}


def test_as_trained_takes_off_what_was_added_after_training(model: Aladin) -> None:
    added = with_global_head(model, GLOBAL)
    trained = as_trained(added)
    assert added.global_head is not None
    assert trained.global_head is None
    assert trained.config == model.config
