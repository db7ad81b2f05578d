import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from aladin.datasets import read_dataset
from aladin.encoder.word_pieces import WordPieces
from aladin.errors import ModelError
from aladin.evaluation import cross_encoder
from aladin.evaluation.cross_encoder import CrossEncoder, check_cross_encoder, has_cross_encoder
from aladin.network.checkpoints import save_model
from aladin.network.model import new_model
from aladin.network.pairs import pair_matrix
from aladin.network.run import ALONE
from aladin.progress import SILENT, TimedSteps
from tests.tiny_learning import TINY, captions, few_examples, learning_set, tiny_model, write_pictures, write_tokenizer
from tests.tiny_official import random_images, write_features
from tests.training.test_paper_recipes import COUNTS, FEATURES, SIZES

PICTURES = 7
WITH_HEAD = dataclasses.replace(TINY, heads=dataclasses.replace(TINY.heads, cross_encoder=True))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    model = tiny_model(tokenizer, WITH_HEAD).eval()
    data = learning_set(model, tokenizer, PICTURES)
    return CrossEncoder(model, data.images, data.pieces, ALONE)


def every_pair(reader: CrossEncoder) -> np.ndarray:
    images = reader.model.backbone.batch(reader.images, np.arange(PICTURES))
    with torch.inference_mode():
        return pair_matrix(reader.model, images, reader.captions).numpy()


@pytest.mark.slow
@few_examples
@given(pairs=st.lists(st.tuples(st.integers(0, PICTURES - 1), st.integers(0, 2 * PICTURES - 1)), max_size=30))
@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_pairs_have_the_scores_of_the_whole_matrix_in_the_order_asked(
    reader: CrossEncoder, at_once: int, pairs: list[tuple[int, int]]
) -> None:
    images, texts = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    told: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_encoder, "IMAGES_AT_ONCE", at_once)
        scores = reader.scores(images, texts, lambda done, total: told.append((done, total)))
    assert scores == pytest.approx(every_pair(reader)[images, texts], abs=1e-5)
    assert told == sorted(told)
    assert not pairs or told[-1] == (len(pairs), len(pairs))


def test_only_the_images_of_a_block_are_in_memory(reader: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    backbone = type(reader.model.backbone)
    fetch = backbone.batch
    monkeypatch.setattr(backbone, "batch", lambda self, images, rows: fetched.append(len(rows)) or fetch(self, images, rows))
    monkeypatch.setattr(cross_encoder, "IMAGES_AT_ONCE", 2)
    reader.scores(np.array([6, 0, 0, 3, 6, 1]), np.array([0, 1, 2, 3, 4, 5]))
    assert fetched == [2, 2]


@pytest.mark.slow
def test_a_model_folder_reads_photographs(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    model = tiny_model(tokenizer, WITH_HEAD).eval()
    save_model(model, tokenizer, tmp_path / "model")
    dataset = read_dataset(write_pictures(tmp_path / "pictures", 3))
    steps = TimedSteps()
    reader = CrossEncoder.load(tmp_path / "model", dataset, ALONE, tmp_path / "cache", steps)
    scores = reader.scores(np.array([2, 0]), np.array([1, 5]))
    with torch.inference_mode():
        expected = pair_matrix(model, model.backbone.batch(reader.images, np.arange(3)), reader.captions)
    assert_close(torch.from_numpy(scores), expected[[2, 0], [1, 5]], atol=1e-5, rtol=1e-4)
    assert list(steps.seconds) == ["image features"]


def test_a_model_folder_reads_a_detectors_regions(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    config = dataclasses.replace(SIZES, heads=dataclasses.replace(SIZES.heads, cross_encoder=True))
    torch.manual_seed(0)
    model = new_model(config, WordPieces.of(tokenizer, config.preprocessing), pretrained=False)
    save_model(model, tokenizer, tmp_path / "model")
    images = random_images(COUNTS, FEATURES)
    features = write_features(tmp_path / "features", images)
    rows = "".join(f'{{"image": "{image.id}", "captions": ["{captions(n)[0]}"]}}\n' for n, image in enumerate(images))
    (tmp_path / "captions.jsonl").write_text(rows)
    dataset = read_dataset(tmp_path / "captions.jsonl", images=features)
    reader = CrossEncoder.load(tmp_path / "model", dataset, ALONE, tmp_path / "cache", SILENT)
    together = reader.scores(np.array([1, 6, 3]), np.array([0, 0, 2]))
    # Image 6 has one region, image 3 six: how many others are read beside it does not change a score.
    alone = [reader.scores(np.array([image]), np.array([caption]))[0] for image, caption in ((1, 0), (6, 0), (3, 2))]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_a_folder_without_a_cross_encoders_weights_is_refused(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    save_model(tiny_model(tokenizer), tokenizer, tmp_path / "plain")
    save_model(tiny_model(tokenizer, WITH_HEAD), tokenizer, tmp_path / "headed")
    assert has_cross_encoder(tmp_path / "headed")
    check_cross_encoder(tmp_path / "headed")
    (tmp_path / "headed" / "model.safetensors").unlink()  # as an exported folder
    for folder in ("plain", "headed", "nowhere"):
        assert not has_cross_encoder(tmp_path / folder)
        with pytest.raises(ModelError, match=rf"{folder} has no weights of a cross-encoder; give a folder that `aladin train`"):
            check_cross_encoder(tmp_path / folder)
