"""The global head: its place in vectors and tokens, what it learns, and the command that adds it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torch.testing import assert_close

import aladin
from aladin.cli.add_global_head import add_global_head
from aladin.cli.average import average
from aladin.cli.correct_hubs import correct_hubs
from aladin.encoder.config import HUB_DIMS, HeadsConfig, Pooling
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError, DataError, ModelError
from aladin.evaluation.scoring import alignment_matrix
from aladin.exporting.graphs import ImageGraph
from aladin.network.checkpoints import load_model, provenance, save_model
from aladin.network.global_head import OUTLIER, GlobalHead, pooled_mean, pooled_mean_and_maximum, standardised
from aladin.network.model import Aladin
from aladin.network.run import Run
from aladin.network.scores import alignment_scores
from aladin.network.tensors import Tokens, pad_tokens
from aladin.network.variants import as_trained, with_global_head
from aladin.training import global_learning
from aladin.training.averaging import average_models
from aladin.training.global_learning import Lesson, PerceptronPair, pooled_pictures, pooled_sentences, with_learned_global_head
from aladin.training.start import start_model
from tests.exporting.test_restoring import learned as learned_model
from tests.network.test_hubs import tokens, vectors
from tests.tiny_learning import (
    INTERRUPTED,
    TINY,
    few_examples,
    learning_set,
    picture,
    tiny_model,
    write_pictures,
    write_tokenizer,
)

HEADS = dataclasses.replace(TINY.heads, global_dim=5, global_share=0.3, global_axes=6, global_hidden=8)
STATES, REGIONS = TINY.backbone.dim, TINY.backbone.region_features + TINY.backbone.region_geometry


@pytest.fixture(autouse=True)
def small_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(global_learning, "HIDDEN", 32)
    monkeypatch.setattr(global_learning, "DIM", 16)
    monkeypatch.setattr(global_learning, "AVERAGED_STEPS", 5)


def head() -> GlobalHead:
    torch.manual_seed(0)
    return GlobalHead(HEADS, REGIONS, STATES).eval()


def model_of(folder: Path) -> Aladin:
    torch.manual_seed(0)
    return with_global_head(tiny_model(write_tokenizer(folder)), HEADS).eval()


@few_examples
@given(images=st.integers(1, 4), captions=st.integers(1, 5), seed=st.integers(0, 1000))
@pytest.mark.parametrize("pooling", ["MrSw", "MrAVGw"])
@torch.no_grad()
def test_scores_of_joined_vectors_and_tokens_are_the_two_cosines_by_their_shares(
    pooling: Pooling, images: int, captions: int, seed: int
) -> None:
    part = head()
    sides = [
        (vectors(n, seed + n), tokens(n, 4, seed + 9 * n), normalize(vectors(n, seed)[:, :5], dim=1))
        for n in (images, captions)
    ]
    (rows, regions, pictures), (columns, words, sentences) = sides
    (one, one_tokens), (other, other_tokens) = part.joined(*sides[0]), part.joined(*sides[1])
    whole = HEADS.global_share * pictures @ sentences.T
    assert_close(one @ other.T, (1 - HEADS.global_share) * rows @ columns.T + whole)
    times = words.mask.sum(dim=1) if pooling == "MrSw" else 1
    expected = (1 - HEADS.global_share) * alignment_scores(regions, words, pooling) + whole * times
    assert_close(alignment_scores(one_tokens, other_tokens, pooling), expected)
    assert_close(alignment_matrix(one_tokens, other_tokens, pooling), expected)
    assert_close(one.norm(dim=1), torch.ones(images))
    assert_close(other_tokens.states.norm(dim=2), torch.ones(other_tokens.mask.shape))
    assert torch.equal(one_tokens.mask, regions.mask)


@torch.no_grad()
@pytest.mark.parametrize(("side", "features"), [("pictures", REGIONS), ("sentences", STATES)])
def test_padding_and_the_order_of_a_batch_change_nothing(side: str, features: int) -> None:
    reader = getattr(head(), side)
    lengths = torch.tensor([3, 1, 2, 3])[:, None]
    read = Tokens(torch.randn(4, 3, features, generator=torch.Generator().manual_seed(0)), torch.arange(3)[None] < lengths)
    found = reader(read)
    assert_close(reader(pad_tokens(read, 9)), found)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(reader(read[order]), found[order])
    assert_close(found.norm(dim=1), torch.ones(4))
    assert not torch.allclose(found[0], reader(Tokens(read.states, torch.ones(4, 3, dtype=torch.bool)))[1])


def test_padding_changes_neither_mean_nor_maximum() -> None:
    states = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)) - 3  # below 0, so that padding could win
    mask = torch.tensor([[True, True, False, False], [True] * 4, [True, False, False, False]])
    pooled = pooled_mean_and_maximum(Tokens(states, mask))
    assert_close(pooled, pooled_mean_and_maximum(pad_tokens(Tokens(states, mask), 9)))
    slow = [torch.cat([own.mean(dim=0), own.max(dim=0).values]) for own in (s[m] for s, m in zip(states, mask, strict=True))]
    assert_close(pooled, torch.stack(slow))
    assert_close(pooled_mean(Tokens(states, mask)), pooled[:, :5])


def test_standardised_features_have_no_mean_no_unit_and_no_outlier() -> None:
    rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 50.0, 0.0]) + 7
    rows[0, 0] = 1e4
    deviation, mean = torch.std_mean(rows, dim=0)
    found = standardised(rows, mean, deviation)
    assert float(found.abs().max()) <= OUTLIER
    assert_close(found[:, 1].mean(), torch.tensor(0.0), atol=1e-3, rtol=0)
    assert_close(found[:, 1].std(), torch.tensor(1.0), atol=1e-2, rtol=0)
    assert (found[:, 2] == 0).all()


def lesson(pairs: int, seed: int = 0) -> Lesson:
    """Pictures and captions of random numbers that a line turns into each other: nothing of a pair can be known by heart."""
    random = torch.Generator().manual_seed(seed)
    owners = np.repeat(np.arange(pairs), 2)
    line = torch.randn(10, 10, generator=torch.Generator().manual_seed(99))
    seen = torch.randn(pairs, 10, generator=random)
    said = seen[owners] @ line + 0.1 * torch.randn(2 * pairs, 10, generator=random)
    like = normalize(said, dim=1)
    return Lesson(
        seen, said, owners, lambda images, captions: like[2 * torch.from_numpy(images)] @ like[torch.from_numpy(captions)].T
    )


@torch.no_grad()
def right(pair: PerceptronPair, data: Lesson) -> float:
    """The share of captions whose own picture is the nearest."""
    found = normalize(pair.pictures(data.pictures), dim=1) @ normalize(pair.sentences(data.sentences), dim=1).T
    return float((found.argmax(dim=0).numpy() == data.owners).mean())


@pytest.mark.slow
def test_a_pair_finds_the_pictures_of_captions_that_it_has_not_seen() -> None:
    told: list[tuple[int, int]] = []
    pair = lesson(200).learned(150, 0, Run(), lambda done, total: told.append((done, total)))
    assert right(pair, lesson(100, seed=1)) > 0.5  # by chance: 0.01
    assert told[-1] == (150, 150)  # one list of all pictures an epoch


def test_a_pair_is_the_same_for_one_seed_and_another_for_another() -> None:
    one, again, other = (lesson(20).learned(3, seed, Run()).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(
        one["straight" if "straight" in one else "pictures.straight.weight"], other["pictures.straight.weight"]
    )


@pytest.fixture
def learned(tmp_path: Path) -> tuple[Aladin, Lesson]:
    """A tiny model whose global head learned from twenty pictures, and what it learned from."""
    tokenizer = write_tokenizer(tmp_path)
    model = tiny_model(tokenizer).eval()
    data = learning_set(model, tokenizer, 20)
    pooled = pooled_pictures(model, data.images), pooled_sentences(model, data.pieces)
    read = Lesson(*pooled, data.owners, lesson(20).similarity)
    return with_learned_global_head(model, read, 4, 0.4, epochs=30, seed=0), read


def test_the_head_of_a_model_has_the_cosines_of_the_pair_that_learned_as_far_as_its_axes_go(
    learned: tuple[Aladin, Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: list[PerceptronPair] = []
    learn = Lesson.learned
    monkeypatch.setattr(Lesson, "learned", lambda *arguments: pairs.append(learn(*arguments)) or pairs[-1])
    _, read = learned
    model = tiny_model(write_tokenizer(tmp_path)).eval()
    whole = with_learned_global_head(model, read, 16, 0.4, epochs=30, seed=0).global_head  # all axes that there are
    assert whole is not None
    rows = [whole.pictures.read(read.pictures), whole.sentences.read(read.sentences)]
    parts = [pairs[0].pictures, pairs[0].sentences], [whole.pictures.perceptron, whole.sentences.perceptron]
    expected, found = (normalize(one(rows[0]), dim=1) @ normalize(other(rows[1]), dim=1).T for one, other in parts)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_learning_gives_the_head_what_it_reads_and_leaves_the_rest_of_the_model_alone(
    learned: tuple[Aladin, Lesson], tmp_path: Path
) -> None:
    model, read = learned
    before = tiny_model(write_tokenizer(tmp_path)).state_dict()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert model.config.heads.global_axes == 20  # no more than pictures
    data = learning_set(model, tmp_path / "tokenizer.json", 20)
    assert model.global_head is not None
    whole = model.global_head.pictures(model.backbone.batch(data.images, np.arange(20)).regions.tokens)
    assert_close(whole, normalize(model.global_head.pictures.perceptron(model.global_head.pictures.read(read.pictures)), dim=1))
    plain = model.encoded_images(model.image_states(model.backbone.batch(data.images, np.arange(20))))
    found = model.images(model.backbone.batch(data.images, np.arange(20)))
    assert_close(found.vectors, torch.cat([plain.vectors * 0.6**0.5, whole * 0.4**0.5], dim=1))
    assert_close(found.tokens.states[:, 1], torch.cat([plain.tokens.states[:, 1] * 0.6**0.5, whole * 0.4**0.5], dim=1))


@pytest.mark.slow
def test_what_was_added_after_training_is_left_out_of_training_and_of_means(tmp_path: Path) -> None:
    model = model_of(tmp_path / "tokenizer")
    save_model(model, tmp_path / "tokenizer" / "tokenizer.json", tmp_path / "whole")
    before = tiny_model(write_tokenizer(tmp_path / "again")).state_dict()
    for after in (
        as_trained(load_model(tmp_path / "whole")),
        average_models([tmp_path / "whole", tmp_path / "whole"]),
        start_model(INTERRUPTED, tmp_path / "whole").model,
    ):
        assert after.config.heads == TINY.heads
        assert after.state_dict().keys() == before.keys()
        assert all(torch.equal(weight, before[name]) for name, weight in after.state_dict().items())


def test_a_model_whose_alignment_would_change_otherwise_is_refused(tmp_path: Path) -> None:
    model = tiny_model(write_tokenizer(tmp_path))
    model.config = dataclasses.replace(model.config, heads=dataclasses.replace(model.config.heads, pooling="symm"))
    with pytest.raises(ConfigError, match=r"a global head and the correction of hubs are for .* this one has symm"):
        with_global_head(model, HEADS)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_leaves_nothing_to_the_one_or_the_other_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=rf"global_share is {share}; expected more than 0 and less than 1"):
        HeadsConfig(global_share=share)


def test_what_there_is_too_little_or_too_much_alike_to_learn_from_is_said(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "trained")
    model = tiny_model(tokenizer)
    save_model(model, tokenizer, tmp_path / "trained")
    data = write_pictures(tmp_path / "pictures", 6)
    command = [str(tmp_path / "trained"), str(tmp_path / "out"), "--data", str(data), "--dim", "19"]
    with pytest.raises(
        DataError, match=r"pictures has 6 images and 12 captions, too few for a global head of 19 numbers; give"
    ):
        CliRunner().invoke(add_global_head, command, catch_exceptions=False)
    equal = dataclasses.replace(lesson(20), pictures=torch.ones(20, REGIONS), sentences=torch.randn(40, STATES))
    with pytest.raises(DataError, match="all images look alike to the image network"):
        with_learned_global_head(model, equal, 4, 0.4, epochs=1, seed=0)


@pytest.mark.parametrize("added", ["global_dim", "hub_centres"])
def test_a_recipe_that_asks_for_what_is_added_after_training_is_refused(added: str) -> None:
    heads = dataclasses.replace(TINY.heads, **{added: 5})
    recipe = dataclasses.replace(INTERRUPTED, model=dataclasses.replace(TINY, heads=heads))
    with pytest.raises(ConfigError, match=r"are no settings of training; leave them out, and add both to the trained model"):
        start_model(recipe, None)


@pytest.mark.parametrize("option", [("--share", "1"), ("--share", "0"), ("--dim", "0"), ("--seed", "-1"), ("--epochs", "0")])
def test_impossible_settings_are_usage_errors(tmp_path: Path, option: tuple[str, str]) -> None:
    result = CliRunner().invoke(add_global_head, [str(tmp_path), str(tmp_path / "out"), "--data", str(tmp_path), *option])
    assert result.exit_code == 2
    assert option[0] in result.output


@pytest.mark.slow
def test_from_a_trained_model_to_an_exported_one_that_is_averaged_with_it_by_commands(tmp_path: Path) -> None:
    """add-global-head, correct-hubs, export and average, one after the other."""
    trained, data = tmp_path / "trained", write_pictures(tmp_path / "pictures", 12)
    tokenizer = write_tokenizer(trained)
    save_model(learned_model(tokenizer, TINY.heads), tokenizer, trained, {"training": {"epoch": 3}})
    run = CliRunner().invoke
    command = [str(trained), str(tmp_path / "whole"), "--data", str(data), "--dim", "7", "--epochs", "3"]
    done = run(add_global_head, command)
    assert done.exit_code == 0, done.output
    assert done.output.endswith("whole: a global head of 7 numbers, from 12 images and 24 captions\n")
    assert provenance(tmp_path / "whole")["global_head"]["model"]["name"] == "trained"
    assert provenance(tmp_path / "whole")["training"] == {"epoch": 3}
    done = run(correct_hubs, [str(tmp_path / "whole"), str(tmp_path / "corrected"), "--data", str(data), "--centres", "4"])
    assert done.exit_code == 0, done.output
    model = load_model(tmp_path / "corrected")
    assert model.config.vector_dim == TINY.backbone.dim + 7 + HUB_DIMS

    val = write_pictures(tmp_path / "val" / "pictures", 8)
    aladin.export(tmp_path / "corrected", tmp_path / "out", val, precision="fp32", cache=tmp_path / "cache")
    read = learning_set(model, tokenizer, 3)
    with torch.no_grad():
        texts = model.captions(torch.from_numpy(read.pieces.ids), torch.from_numpy(read.pieces.mask))
    encoder = Encoder.load(tmp_path / "out", threads=1)
    seen = encoder.encode_images(np.stack([picture(number) for number in range(3)]))
    assert seen.vectors.shape[1] == seen.regions.shape[2] == model.config.vector_dim
    with torch.no_grad():
        vectors, regions = ImageGraph(model)(torch.from_numpy(np.stack([picture(number) for number in range(3)])))
    assert_close(torch.from_numpy(seen.vectors), vectors, atol=1e-4, rtol=0)
    assert_close(torch.from_numpy(seen.regions), regions, atol=1e-4, rtol=0)
    found = encoder.encode_texts(["red above green"])
    assert_close(torch.from_numpy(found.vectors), texts.vectors[:1], atol=1e-4, rtol=0)
    assert_close(torch.from_numpy(found.words[0]), texts.tokens.states[0, : found.words.shape[1]], atol=1e-4, rtol=0)

    with pytest.raises(ModelError, match=r"out holds an exported model, which nothing replaces but another export"):
        run(add_global_head, [str(trained), str(tmp_path / "out"), "--data", str(data)], catch_exceptions=False)
    done = run(average, [str(tmp_path / "mean"), str(trained), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    before = load_model(trained).state_dict()
    assert all(
        torch.allclose(weight, before[name], atol=1e-6) for name, weight in load_model(tmp_path / "mean").state_dict().items()
    )
