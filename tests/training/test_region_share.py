"""The share of an added encoder's regions in its scores, chosen on images with captions."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import aladin
from aladin.cli import main
from aladin.datasets import Dataset, read_dataset
from aladin.encoder.encoder import Encoder
from aladin.evaluation.encoding import encode_by
from aladin.measures.recalls import rsum
from aladin.network.run import Run
from aladin.progress import SILENT
from aladin.search.probability import read_calibration
from aladin.training.region_share import HALF, SHARES, at_share, best_share, rsum_by_share, with_share, write_share
from tests.conftest import paint
from tests.tiny_model import COLOURS, TOKEN_DIM, build_tiny_encoder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of each colour, each with a stripe of the next."""
    folder, rows, names = tmp_path_factory.mktemp("pictures"), [], list(COLOURS)
    for number in range(60):
        colours = names[number % 6], names[(number + 1 + number // 30) % 6]
        paint(folder / f"{number}.png", *colours, seed=number)
        # Few name both: a word of more than a fifth of the images is no query.
        said = [f"{colours[0]} and {colours[1] if number < 12 else 'more'}", f"a {colours[0]} picture"]
        rows.append(json.dumps({"image": f"{number}.png", "captions": said}) + "\n")
    (folder / "captions.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture
def data(pictures: Path) -> Dataset:
    return read_dataset(pictures)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_tiny_encoder(tmp_path / "encoder", 0.25, encoder='[origin]\nlicence = "mit"\n')


@pytest.mark.parametrize("share", SHARES)
def test_scores_at_a_share_are_those_of_a_model_with_that_share(folder: Path, data: Dataset, share: float) -> None:
    encoder = Encoder.load(folder, threads=1)
    half = encode_by(with_share(encoder, HALF), data, Run(), SILENT)
    expected = encode_by(with_share(encoder, share), data, Run(), SILENT)
    found = at_share(half, TOKEN_DIM, share)
    assert_allclose(found.alignment_scores(), expected.alignment_scores(), atol=1e-5)
    judged = rsum_by_share(half, TOKEN_DIM, Run())
    if share:
        assert judged[share] == pytest.approx(rsum(expected.alignment_scores(), data.owners), abs=2)  # near ties
    else:
        cosine = half.images.vectors @ half.captions.vectors.T
        assert judged[0.0] == rsum(cosine.numpy(), data.owners)
    assert torch.isfinite(found.images.tokens.states).all()


def test_of_equal_shares_the_lowest_is_best() -> None:
    assert best_share({0.0: 300.0, 0.1: 310.0, 0.2: 310.0, 0.3: 290.0}) == 0.1


def test_only_the_share_changes_in_the_settings(folder: Path) -> None:
    before = tomllib.loads((folder / "model.toml").read_text())
    write_share(folder, 0.4)
    after = tomllib.loads((folder / "model.toml").read_text())
    assert after == before | {"encoder": before["encoder"] | {"share": 0.4}}
    (folder / "model.toml").write_text((folder / "model.toml").read_text().replace("share = 0.4\n", ""))
    write_share(folder, 0.1)
    assert tomllib.loads((folder / "model.toml").read_text())["encoder"]["share"] == 0.1


@pytest.mark.slow
def test_calibrating_an_encoder_chooses_its_share_first_and_says_so(
    folder: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = aladin.calibrate(folder, pictures, write=False)
    assert Encoder.load(folder).model.config.encoder.share == 0.25
    assert set(expected.shares) == set(SHARES)
    assert expected.share == best_share(expected.shares)
    with pytest.raises(SystemExit, match="0"):
        main(["calibrate", str(folder), str(pictures)])
    assert f"share of regions {expected.share:g}, of the best rsum (0: " in capsys.readouterr().out
    encoder = Encoder.load(folder)
    assert encoder.model.config.encoder.share == expected.share
    assert read_calibration(encoder) == expected.calibration
    again = aladin.calibrate(folder, pictures, write=False)
    assert np.isclose(list(again.shares.values()), list(expected.shares.values())).all()
