import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import aladin.search.probability
from aladin.collection.cache import cache_folder
from aladin.collection.writer import CollectionWriter
from aladin.encoder.config import EncoderConfig
from aladin.encoder.encoder import Encoder
from aladin.errors import ConfigError, ModelError
from aladin.search.probability import BACKGROUND, Background, Calibration, background_of, background_scores, read_calibration
from aladin.search.stored_regions import stored_regions
from tests.conftest import fill
from tests.reference import alignment
from tests.tiny_model import build_tiny_model

TABLE = """
[calibration]
intercept = -2.0
slope = 1.5
length_intercept = -0.5
length_slope = 0.25
mean = 0.1
deviation = 0.2
data = "six colours"
"""
CALIBRATION = Calibration(-2.0, 1.5, -0.5, 0.25, 0.1, 0.2, "six colours")
scores = st.floats(-5, 5)


@pytest.fixture
def calibrated(tmp_path: Path) -> Encoder:
    folder = build_tiny_model(tmp_path / "model", "MrAVGw")
    with (folder / "model.toml").open("a") as file:
        file.write(TABLE)
    return Encoder.load(folder, threads=1)


@pytest.fixture
def rows(calibrated: Encoder, tmp_path: Path) -> Iterator[CollectionWriter]:
    with CollectionWriter.create(tmp_path / "rows.sqlite", tmp_path) as collection:
        fill(collection, calibrated.model, 40)
        yield collection


# The curve.


@given(score=scores, pieces=st.integers(1, 48))
def test_the_curve_is_the_one_that_is_documented(score: float, pieces: int) -> None:
    found = CALIBRATION.probabilities(np.array([score]), pieces, Background(0.1, 0.2))
    t, length = (score - 0.1) / 0.2, math.log(pieces)
    assert_allclose(found, [1 / (1 + math.exp(-(-2 + 1.5 * t + (-0.5 + 0.25 * t) * length)))], rtol=1e-9)


@given(one=scores, other=scores, pieces=st.integers(1, 48))
def test_a_higher_score_is_never_less_likely(one: float, other: float, pieces: int) -> None:
    low, high = CALIBRATION.probabilities(np.array(sorted([one, other])), pieces, CALIBRATION.background)
    assert 0 <= low <= high <= 1


def test_a_collection_where_everything_scores_higher_asks_for_more() -> None:
    score = np.array([0.5])
    (usual,) = CALIBRATION.probabilities(score, 3, Background(0.1, 0.2))
    (higher,) = CALIBRATION.probabilities(score, 3, Background(0.3, 0.2))
    assert higher < usual


def test_no_score_is_too_large_for_the_curve() -> None:
    assert CALIBRATION.probabilities(np.array([1e9, -1e9]), 1, CALIBRATION.background).tolist() == pytest.approx([1, 0])


# In the model folder.


def test_a_model_folder_says_what_its_scores_mean(calibrated: Encoder, encoder: Encoder) -> None:
    assert read_calibration(calibrated) == CALIBRATION
    assert read_calibration(encoder) is None


@pytest.mark.parametrize("line", ["slope = 1.5", "mean = 0.1", 'data = "six colours"'])
def test_a_table_that_lacks_something_is_named(tmp_path: Path, line: str) -> None:
    folder = build_tiny_model(tmp_path / "model")
    with (folder / "model.toml").open("a") as file:
        file.write(TABLE.replace(line, ""))
    with pytest.raises(ModelError, match=r"has no calibration that this version reads: .*; run `aladin calibrate`"):
        read_calibration(Encoder.load(folder))


@pytest.mark.parametrize("change", ["slope = 'x'", "slope = nan", "steepness = 3"])
def test_a_table_that_is_wrong_is_named(tmp_path: Path, change: str) -> None:
    folder = build_tiny_model(tmp_path / "model")
    with (folder / "model.toml").open("a") as file:
        file.write(TABLE.replace("slope = 1.5", change, 1))
    with pytest.raises(ModelError, match="run `aladin calibrate`"):
        read_calibration(Encoder.load(folder))


def test_a_background_that_does_not_vary_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected more than 0"):
        Calibration(0.0, 1.0, 0.0, 0.0, 0.1, 0.0, "nothing")


# The background of a collection.


def test_the_background_is_that_of_every_sentence_with_every_image(rows: CollectionWriter, calibrated: Encoder) -> None:
    tokens = rows.tokens(range(1, 6))
    texts = calibrated.encode_texts(list(BACKGROUND))
    every = [
        alignment(regions, words[mask], "MrAVGw")
        for regions in tokens.restored()
        for words, mask in zip(texts.words, texts.word_mask, strict=True)
    ]
    found = background_scores(tokens.restored(), tokens.mask, calibrated)
    assert_allclose([found.mean, found.deviation], [np.mean(every), np.std(every)], atol=1e-5)


def test_a_large_collection_has_its_own_background_and_a_small_one_the_models(
    rows: CollectionWriter, calibrated: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = background_scores(*stored_regions(rows, range(1, 41), EncoderConfig()), calibrated)
    monkeypatch.setattr(aladin.search.probability, "PRIOR_IMAGES", 0)
    assert_allclose(background_of(rows, calibrated, CALIBRATION).mean, own.mean, atol=1e-6)
    assert_allclose(background_of(rows, calibrated, CALIBRATION).deviation, own.deviation, atol=1e-6)
    monkeypatch.setattr(aladin.search.probability, "PRIOR_IMAGES", 10**9)
    assert_allclose(background_of(rows, calibrated, CALIBRATION).mean, CALIBRATION.mean, atol=1e-6)
    with CollectionWriter.create(tmp_path / "empty.sqlite", tmp_path) as empty:
        assert background_of(empty, calibrated, CALIBRATION) == CALIBRATION.background


def test_joining_backgrounds_is_counting_their_images_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aladin.search.probability, "PRIOR_IMAGES", 3)
    random = np.random.default_rng(0)
    here, there = random.normal(1, 2, 1000), random.normal(4, 1, 3000)
    backgrounds = (Background(float(part.mean()), float(part.std())) for part in (here, there))
    found = aladin.search.probability._joined(next(backgrounds), 1, next(backgrounds))
    both = np.concatenate([here, there])
    assert_allclose([found.mean, found.deviation], [both.mean(), both.std()], rtol=1e-6)


def test_a_background_is_kept_until_the_collection_has_changed_much(
    rows: CollectionWriter, calibrated: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = background_of(rows, calibrated, CALIBRATION)
    (file,) = cache_folder(rows.path).iterdir()
    monkeypatch.setattr(aladin.search.probability, "background_scores", lambda *arguments: Background(9.0, 9.0))
    fill(rows, calibrated.model, 5, seed=1)
    assert background_of(rows, calibrated, CALIBRATION).mean == pytest.approx(first.mean, abs=0.02)
    fill(rows, calibrated.model, 20, seed=2)
    assert background_of(rows, calibrated, CALIBRATION).mean > 4
    assert json.loads(file.read_text())["images"] == 65
    monkeypatch.undo()
    again = dataclasses.replace(CALIBRATION, slope=2 * CALIBRATION.slope)
    assert background_of(rows, calibrated, again).mean < 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"images": 40}', '{"images": "many", "fingerprint": 1, "calibration": 2}'])
def test_a_damaged_cache_is_found_again(rows: CollectionWriter, calibrated: Encoder, content: str) -> None:
    expected = background_of(rows, calibrated, CALIBRATION)
    (file,) = cache_folder(rows.path).iterdir()
    file.write_text(content)
    assert background_of(rows, calibrated, CALIBRATION) == expected
    assert json.loads(file.read_text())["images"] == 40


def test_a_cache_that_cannot_be_written_is_done_without(rows: CollectionWriter, calibrated: Encoder) -> None:
    cache_folder(rows.path).write_text("in the way")
    assert background_of(rows, calibrated, CALIBRATION).deviation > 0
