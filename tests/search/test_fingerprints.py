import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

import aladin.search.fingerprints
from aladin.collection.cache import cache_folder
from aladin.collection.indexing import index_folder
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.search.fingerprints import MIN_BITS, NAME, SIDE, content_of, fingerprint, read_fingerprints

GREY = (1.0, 1.0, 1.0)


def picture(seed: int, tint: tuple[float, float, float] = GREY) -> Image.Image:
    """Soft noise with the structure of a photograph, in one of the colours that the tiny model tells apart."""
    noise = np.random.default_rng(seed).uniform(60, 250, (6, 8, 1)) * np.array(tint)
    return Image.fromarray(noise.astype(np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("change", ["half", "dark", "jpeg", "colour"])
def test_a_fingerprint_survives_what_people_do_to_pictures(change: str, tmp_path: Path) -> None:
    for seed in range(20):
        original = picture(seed)
        original.save(tmp_path / "a.jpg", quality=30)
        with Image.open(tmp_path / "a.jpg") as saved:
            changed = {
                "half": original.resize((160, 120)),
                "dark": ImageEnhance.Brightness(original).enhance(0.7),
                "jpeg": saved,
                "colour": original.convert("L").convert("RGB"),
            }[change]
            one, other = fingerprint(np.asarray(original)), fingerprint(np.asarray(changed))
        assert one is not None
        assert other is not None
        assert (one ^ other).bit_count() <= 6


def test_different_pictures_have_different_fingerprints() -> None:
    prints = [found for seed in range(60) if (found := fingerprint(np.asarray(picture(seed)))) is not None]
    assert min((a ^ b).bit_count() for place, a in enumerate(prints) for b in prints[:place]) > 10


@pytest.mark.parametrize("colours", [("white", "white"), ("black", "white")])
def test_a_picture_without_structure_has_none(colours: tuple[str, str]) -> None:
    plain = Image.new("RGB", (64, 64), colours[0])
    plain.paste(colours[1], (0, 0, 64, 20))
    assert fingerprint(np.asarray(plain)) is None


def slow_fingerprint(grey: np.ndarray) -> int | None:
    """One bit after the other, of a picture that is small already."""
    bits = [int(grey[row, column] < grey[row, column + 1]) for row in range(SIDE) for column in range(SIDE)]
    return int("".join(map(str, bits)), 2) if MIN_BITS <= sum(bits) <= SIDE**2 - MIN_BITS else None


@given(seed=st.integers(0, 10_000), levels=st.sampled_from([2, 4, 256]))
def test_a_bit_says_whether_a_point_is_darker_than_its_right_neighbour(seed: int, levels: int) -> None:
    grey = np.random.default_rng(seed).integers(0, levels, (SIDE, SIDE + 1)).astype(np.uint8)
    assert fingerprint(np.repeat(grey[:, :, None], 3, axis=2)) == slow_fingerprint(grey)


def test_a_mirrored_picture_has_another_fingerprint() -> None:
    one, other = (
        fingerprint(np.asarray(shown)) for shown in (picture(1), picture(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    )
    assert one is not None
    assert other is not None
    assert (one ^ other).bit_count() > 20


# Reading them from the files of a collection.


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[CollectionWriter]:
    """Two different pictures, a copy of the first and one without structure."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in (1, 2):
        picture(seed).save(folder / f"{seed}.png")
    shutil.copy(folder / "1.png", folder / "copy of 1.png")
    Image.new("RGB", (64, 64), "white").save(folder / "white.png")
    with CollectionWriter.create(tmp_path / "c.sqlite", folder) as opened:
        index_folder(opened, encoder)
        yield opened


def test_each_content_is_read_once_and_its_progress_told(collection: CollectionWriter) -> None:
    rows, steps = list(collection.images("ok")), list[tuple[int, int]]()
    found = read_fingerprints(collection, rows, lambda done, total: steps.append((done, total)))
    assert set(found.of_content) == {content_of(row) for row in rows}
    assert (len(rows), len(found.of_content)) == (4, 3)
    assert [bits is None for bits in found.of_content.values()].count(True) == 1
    assert (found.changed, found.unreadable) == ((), ())
    assert steps[-1][1] == 4


@pytest.mark.slow
def test_what_is_known_is_taken_from_the_cache_and_kept_there(collection: CollectionWriter) -> None:
    rows = list(collection.images("ok"))
    first = read_fingerprints(collection, rows[:1])
    kept = json.loads((cache_folder(collection.path) / NAME).read_bytes())
    assert kept == first.of_content
    for row in rows:
        (collection.root / row.path).unlink()
    again = read_fingerprints(collection, rows)
    assert again.of_content == first.of_content
    assert {row.path for row in again.unreadable} == {row.path for row in rows if content_of(row) not in kept}


def test_a_file_with_another_content_is_named_and_has_no_fingerprint(collection: CollectionWriter) -> None:
    rows = list(collection.images("ok"))
    picture(9).save(collection.root / "2.png")
    found = read_fingerprints(collection, rows)
    assert [row.path for row in found.changed] == ["2.png"]
    assert content_of(found.changed[0]) not in found.of_content


@pytest.mark.parametrize("ahead", [1, 2, 64])
def test_how_many_are_decoded_ahead_changes_nothing(
    collection: CollectionWriter, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    rows = list(collection.images("ok"))
    monkeypatch.setattr(aladin.search.fingerprints, "READ_AHEAD", ahead)
    found = read_fingerprints(collection, rows)
    with Image.open(collection.root / "1.png") as image:
        small = image.resize((64, 64), Image.Resampling.LANCZOS)
    expected, bits = fingerprint(np.asarray(small)), found.of_content[content_of(rows[0])]
    assert expected is not None
    assert bits is not None
    assert (expected ^ bits).bit_count() <= 3
    assert len(found.of_content) == 3
