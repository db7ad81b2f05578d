"""benchmarks/storage.py: what it measures is what search does."""

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from aladin.encoder.config import HUB_DIMS
from aladin.evaluation.encoding import EncodedData, EncodedSet
from aladin.evaluation.heads import evaluate_heads
from aladin.evaluation.scoring import MEMORY
from aladin.measures.report import head_figures
from aladin.network.tensors import Tokens
from aladin.network.variants import with_hub_correction
from aladin.progress import TimedSteps
from benchmarks.storage import alignment_rsum, axes_of, matching_rsum, pooled, projected
from tests.tiny_learning import TINY, tiny_model, write_tokenizer

IMAGES, WORDS = 12, 4


@pytest.fixture(params=["plain", "corrected"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncodedData:
    """Random vectors and tokens of 12 images with two captions each, without terms of hubs or with them."""
    random = torch.Generator().manual_seed(0)
    vectors = {
        side: normalize(torch.randn(count, 16, generator=random), dim=1) for side, count in (("images", 12), ("captions", 24))
    }
    tokens = {
        side: normalize(some[:, None] + 0.4 * torch.randn(len(some), WORDS, 16, generator=random), dim=2)
        for side, some in vectors.items()
    }
    vectors["captions"] = normalize(vectors["images"].repeat_interleave(2, dim=0) + 0.4 * vectors["captions"], dim=1)
    sets = {
        side: EncodedSet(some, Tokens(tokens[side], torch.ones(len(some), WORDS, dtype=torch.bool)))
        for side, some in vectors.items()
    }
    heads = TINY.heads
    if request.param == "corrected":
        heads = dataclasses.replace(heads, hub_centres=4, hub_scale=10.0, hub_weight=0.1)
        model = with_hub_correction(
            tiny_model(write_tokenizer(tmp_path_factory.mktemp("model"))), heads, vectors["images"], vectors["captions"]
        )
        with torch.no_grad():
            sets = {side: EncodedSet(*model.hub_correction(some.vectors, some.tokens, side)) for side, some in sets.items()}
    return EncodedData(sets["images"], sets["captions"], torch.arange(IMAGES).repeat_interleave(2).numpy(), heads)


def test_as_stored_in_full_the_figures_are_those_of_evaluate(data: EncodedData) -> None:
    found = {
        head: head_figures(ranks).rsum.value for head, ranks in evaluate_heads(data, 0, MEMORY, TimedSteps()).ranks.items()
    }
    assert matching_rsum(data, "fp32") == pytest.approx(found["matching"])
    assert alignment_rsum(data, data.images.tokens, data.captions.tokens, "fp32") == pytest.approx(found["alignment"])


@pytest.mark.parametrize("count", [16, 5])
def test_projecting_keeps_the_length_and_the_terms_of_hubs(data: EncodedData, count: int) -> None:
    axes, hubs = axes_of(data, count), data.heads.added_dim
    assert (axes.shape, hubs) == ((count, 16), HUB_DIMS if data.heads.hub_centres else 0)
    tokens = data.images.tokens
    narrow = projected(tokens, axes).states
    assert narrow.shape[2] == count + hubs
    assert_close(narrow.norm(dim=2), torch.ones(narrow.shape[:2]))
    assert_close(narrow[..., count:], tokens.states[..., 16:])
    if count == 16:  # turned, and nothing lost
        whole = alignment_rsum(data, tokens, data.captions.tokens, "fp32")
        turned = alignment_rsum(data, projected(tokens, axes), projected(data.captions.tokens, axes), "fp32")
        assert turned == pytest.approx(whole)


def test_averaged_regions_keep_the_terms_of_hubs_that_all_of_an_image_share(data: EncodedData) -> None:
    hubs = data.heads.added_dim
    one = pooled(data.images.tokens, 1, hubs).states
    assert one.shape == (IMAGES, 1, 16 + hubs)
    assert_close(one[..., 16:], data.images.tokens.states[:, :1, 16:])
    assert_close(
        one[:, 0, :16],
        normalize(data.images.tokens.states[..., :16].mean(dim=1), dim=1)
        * (1 - one[:, 0, 16:].square().sum(dim=1, keepdim=True)).sqrt(),
    )
