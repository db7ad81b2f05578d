import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.encoder.config import BackboneConfig, HeadsConfig, ImageConfig, LimitsConfig, ModelConfig, Pooling, QuirksConfig
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.region_encoder import image_pieces
from aladin.encoder.word_pieces import WordPieces
from aladin.exporting.conversion import bert_tokenizer
from aladin.network import official
from aladin.network.backbones import new_backbone
from aladin.network.heads import AlignmentHead
from aladin.network.model import Aladin
from aladin.network.official import RELEASED, OriginalAlignmentHead
from aladin.network.scores import alignment_scores
from aladin.network.tensors import ImageInput, Regions
from tests import official_reference
from tests.strategies import DIM, padded
from tests.tiny_official import VOCABULARY

POOLINGS: list[Pooling] = ["MrSw", "MrAVGw", "MwSr", "symm", "sum", "scan-sentences"]  # mean cannot be converted
BACKBONE = BackboneConfig(
    vocabulary=len(VOCABULARY), positions=16, dim=DIM, layers=1, heads=2, feed_forward=12, region_features=5, region_geometry=6
)
LIMITS = LimitsConfig(regions=4, object_pieces=10)


def from_settings(settings: ModelConfig) -> Aladin:
    return Aladin(settings, new_backbone(settings))


def config(quirks: QuirksConfig, pooling: Pooling = "MrSw") -> ModelConfig:
    heads = HeadsConfig(pooling, token_dim=DIM, matching_layers=1, matching_heads=2, matching_feed_forward=12)
    return ModelConfig(BACKBONE, heads, LIMITS, ImageConfig(source="detector"), quirks, Preprocessing(caption_pieces=12))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> WordPieces:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in VOCABULARY))
    return WordPieces(bert_tokenizer(path, len(VOCABULARY)), Preprocessing(caption_pieces=LIMITS.object_pieces))


@st.composite
def states(draw: st.DrawFn, fewest: int) -> list[np.ndarray]:
    """The backbone's states of 1 to 4 images or captions, `fewest` to 6 tokens each."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = draw(st.lists(st.integers(fewest, 6), min_size=1, max_size=4))
    return [random.normal(size=(count, DIM)).astype(np.float32) for count in counts]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("pads", [False, True])
@settings(max_examples=10)
@given(images=states(fewest=2), captions=states(fewest=2), extra=st.integers(0, 2))
def test_scores_are_what_the_specification_says_of_the_original(
    pooling: Pooling, drops: bool, pads: bool, images: list[np.ndarray], captions: list[np.ndarray], extra: int
) -> None:
    head = official.alignment_head(config(QuirksConfig(last_piece_dropped=drops, zero_padding=pads), pooling))
    scores = alignment_scores(head.regions(padded(images, extra)), head.words(padded(captions, extra)), pooling)
    expected = [[official_reference.alignment(i, c, pooling, drops, pads) for c in captions] for i in images]
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


def test_own_training_has_no_quirk_and_the_papers_head() -> None:
    assert ModelConfig().quirks == QuirksConfig("[CLS]", False, False, False, False)
    assert type(official.alignment_head(ModelConfig())) is AlignmentHead
    assert QuirksConfig("[UNK]", True, True, True, True) == RELEASED
    assert isinstance(official.alignment_head(config(RELEASED)), OriginalAlignmentHead)


@pytest.mark.parametrize("pooling", ["MrSw", "MrAVGw", "MwSr", "symm"])
@pytest.mark.parametrize("pieces", [0, 1])
def test_a_caption_without_a_word_left_scores_zero(pooling: Pooling, pieces: int) -> None:
    head = OriginalAlignmentHead(config(RELEASED, pooling))
    random = np.random.default_rng(0)
    captions = [random.normal(size=(pieces + 2, DIM)).astype(np.float32), random.normal(size=(9, DIM)).astype(np.float32)]
    images = [random.normal(size=(4, DIM)).astype(np.float32)]
    scores = alignment_scores(head.regions(padded(images)), head.words(padded(captions)), pooling)
    assert scores[0, 0] == 0.0
    assert scores[0, 1] > 0.0


def test_the_score_of_an_image_that_disagrees_with_every_word_is_zero_only_with_zero_padding() -> None:
    word = np.eye(1, DIM, dtype=np.float32)
    image, caption = [np.vstack([word, -word, -word])], [np.repeat(word, 5, axis=0)]
    for pads, expected in ((True, 0.0), (False, -3.0)):
        head = official.alignment_head(config(QuirksConfig(zero_padding=pads)))
        assert alignment_scores(head.regions(padded(image)), head.words(padded(caption))).tolist() == [[expected]]


def test_an_image_of_one_region_has_none_left_and_scores_zero() -> None:
    random = np.random.default_rng(0)
    head = OriginalAlignmentHead(config(RELEASED))
    image, caption = (padded([random.normal(size=(count, DIM)).astype(np.float32)]) for count in (1, 6))
    assert alignment_scores(head.regions(image), head.words(caption)).tolist() == [[0.0]]


def test_the_first_token_of_tags_is_unk_and_names_keep_their_order_and_number(tokenizer: WordPieces) -> None:
    pieces = image_pieces([["red", "Green", "red", "red picture"], []], tokenizer, RELEASED)
    assert [VOCABULARY[number] for number in pieces.ids[0][pieces.mask[0]]] == [
        *("[UNK]", "red", "green", "red", "red", "picture", "[SEP]")
    ]
    assert [VOCABULARY[number] for number in pieces.ids[1][pieces.mask[1]]] == ["[UNK]", "[SEP]"]
    own = image_pieces([["red"]], tokenizer, QuirksConfig())
    assert [VOCABULARY[number] for number in own.ids[0]] == ["[CLS]", "red", "[SEP]"]


def test_more_names_than_fit_are_cut_at_the_end(tokenizer: WordPieces) -> None:
    pieces = image_pieces([["red"] * 7 + ["green"] * 7], tokenizer, RELEASED)
    assert [VOCABULARY[number] for number in pieces.ids[0]] == ["[UNK]", *["red"] * 7, "green", "[SEP]"]


@pytest.fixture(scope="module")
def models() -> dict[str, Aladin]:
    """One network with all quirks, and with each of them turned off."""
    torch.manual_seed(0)
    released = from_settings(config(RELEASED)).eval()
    off = {
        "image_first_token": "[CLS]",
        "region_as_cls": False,
        "last_piece_dropped": False,
        "zero_padding": False,
    }
    found = {"released": released}
    for name, value in off.items():
        found[name] = from_settings(config(dataclasses.replace(RELEASED, **{name: value}))).eval()
        found[name].load_state_dict(released.state_dict())
    return found


@torch.no_grad()
def scores_of(model: Aladin, tokenizer: WordPieces) -> dict[str, torch.Tensor]:
    """Both heads' scores of two images, of which one opposes the other's captions, and two captions."""
    random = np.random.default_rng(1)
    rows = [random.normal(size=(count, 11)).astype(np.float32) for count in (4, 2)]
    padded_rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    regions = Regions(padded_rows[:, :, :-6], padded_rows[:, :, -6:], mask)
    tags = image_pieces([["red", "green"], ["blue"]], tokenizer, model.config.quirks)
    captions = tokenizer.encode(["red above green .", "a picture and blue"])
    read = ImageInput(torch.from_numpy(tags.ids), torch.from_numpy(tags.mask), regions)
    images = model.encoded_images(model.image_states(read))
    texts = model.encoded_captions(model.caption_states(torch.from_numpy(captions.ids), torch.from_numpy(captions.mask)))
    return {
        "matching": images.vectors @ texts.vectors.T,
        "alignment": alignment_scores(images.tokens, texts.tokens, model.config.heads.pooling),
    }


@pytest.mark.parametrize(
    ("quirk", "heads"),
    [
        ("image_first_token", ("matching", "alignment")),
        ("region_as_cls", ("matching", "alignment")),
        ("last_piece_dropped", ("alignment",)),
        ("zero_padding", ("alignment",)),
    ],
)
def test_each_quirk_changes_the_scores_of_its_heads_and_of_no_other(
    models: dict[str, Aladin], tokenizer: WordPieces, quirk: str, heads: tuple[str, ...]
) -> None:
    released, without = scores_of(models["released"], tokenizer), scores_of(models[quirk], tokenizer)
    for head in ("matching", "alignment"):
        if head in heads:
            assert (released[head] - without[head]).abs().amax() > 1e-4, head
        else:
            assert_close(released[head], without[head])


@torch.no_grad()
def test_region_0_stands_for_the_image_and_is_not_aligned(models: dict[str, Aladin], tokenizer: WordPieces) -> None:
    model = models["released"]
    tags = image_pieces([["red"]], tokenizer, RELEASED)
    numbers = torch.randn(1, 3, 11, generator=torch.Generator().manual_seed(0))
    regions = Regions(numbers[:, :, :-6], numbers[:, :, -6:], torch.ones(1, 3, dtype=torch.bool))
    states = model.image_states(ImageInput(torch.from_numpy(tags.ids), torch.from_numpy(tags.mask), regions))
    every = model.backbone.encode_images(torch.from_numpy(tags.ids), torch.from_numpy(tags.mask), regions)
    assert torch.equal(states.states, every.states[:, 1:])
    encoded = model.encoded_images(states)
    outputs = states.states
    for layer in model.matching_head.layers:
        outputs = layer(outputs)
    assert_close(encoded.vectors, torch.nn.functional.normalize(outputs[:, 0], dim=-1), atol=1e-5, rtol=0)
    # A zero in place of region 0, then regions 1 and 2.
    assert_close(encoded.tokens.states[0, 1:], torch.nn.functional.normalize(states.states[0, 1:], dim=-1))
    assert not encoded.tokens.states[0, 0].any()


def test_a_model_of_a_detectors_regions_has_no_image_network(tmp_path: Path) -> None:
    names = from_settings(config(RELEASED)).state_dict()
    assert all(name.startswith(("backbone.", "matching_head.")) for name in names)
