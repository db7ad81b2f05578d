import dataclasses
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aladin.datasets import Dataset, FileOnDisk, read_dataset
from aladin.errors import DataError
from aladin.network.grid import GridNetwork, grid_network
from aladin.network.grid_features import GridFeatures, cache_name, cached_features, view_pixels
from aladin.pictures.fitting import Fitting
from aladin.pictures.pixels import open_image, to_pixels
from tests.tiny_learning import SIZE, revive, trunk, write_pictures

# Progress is recorded every 1,024 pictures, so there have to be more of them.
FITTING = Fitting(SIZE)
PICTURES, VIEWS, TAGS = 16, 70, 2
TOTAL = PICTURES * VIEWS


@pytest.fixture(scope="module")
def network() -> GridNetwork:
    torch.manual_seed(0)
    random = grid_network(["efficientnet-lite0"], pretrained=False)
    revive(random)
    return random


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read_dataset(write_pictures(tmp_path_factory.mktemp("data") / "pictures", PICTURES))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset, network: GridNetwork) -> Path:
    """A complete cache."""
    folder = tmp_path_factory.mktemp("cache")
    told: list[tuple[int, int]] = []
    cached_features(dataset, network, FITTING, TAGS, VIEWS, folder, lambda done, total: told.append((done, total)))
    assert told[-1] == (TOTAL, TOTAL)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    return folder


@pytest.fixture(scope="module")
def features(cache: Path, dataset: Dataset, network: GridNetwork) -> GridFeatures:
    return cached_features(dataset, network, FITTING, TAGS, VIEWS, cache)


def refuse(done: int, total: int) -> None:
    raise AssertionError("nothing was left to compute")


def pixels(dataset: Dataset, view: int) -> np.ndarray:
    images = [open_image(example.source.read()) for example in dataset.examples]
    return np.stack([view_pixels(image, FITTING, view, seed=row) for row, image in enumerate(images)])


@pytest.mark.slow
def test_there_is_a_row_for_each_view_of_each_image(features: GridFeatures) -> None:
    assert features.views == VIEWS
    assert features.maps.shape == (VIEWS, PICTURES, 112, SIZE // 16, SIZE // 16)
    assert features.tags.shape == (VIEWS, PICTURES, TAGS)


@pytest.mark.parametrize("view", [0, 1, VIEWS - 1])
def test_cached_features_are_what_torch_computes_from_the_pixels(
    features: GridFeatures, dataset: Dataset, network: GridNetwork, view: int
) -> None:
    maps, tags = trunk(network, pixels(dataset, view), TAGS)
    scale = maps.astype(np.float32).std()
    np.testing.assert_allclose(features.maps[view].astype(np.float32), maps.astype(np.float32), atol=2e-3 * scale, rtol=2e-3)
    np.testing.assert_array_equal(features.tags[view], tags)


def test_what_is_in_the_cache_is_not_computed_again(
    cache: Path, features: GridFeatures, dataset: Dataset, network: GridNetwork
) -> None:
    again = cached_features(dataset, network, FITTING, TAGS, VIEWS, cache, refuse)
    assert not again.maps.flags.writeable, "a cache that is whole may stand where nothing can be written"
    assert np.array_equal(again.maps, features.maps)
    assert np.array_equal(again.tags, features.tags)


@pytest.mark.slow
def test_an_interrupted_build_goes_on_and_ends_as_a_clean_one(
    tmp_path: Path, features: GridFeatures, dataset: Dataset, network: GridNetwork
) -> None:
    def stop_late(done: int, total: int) -> None:
        if done > 1024:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(dataset, network, FITTING, TAGS, VIEWS, tmp_path, stop_late)
    told: list[int] = []
    resumed = cached_features(dataset, network, FITTING, TAGS, VIEWS, tmp_path, lambda done, total: told.append(done))
    assert told[0] > 1024
    assert told[-1] == TOTAL
    assert np.array_equal(resumed.maps, features.maps)
    assert np.array_equal(resumed.tags, features.tags)


@pytest.mark.slow
def test_fewer_views_are_the_beginning_of_more(
    tmp_path: Path, cache: Path, features: GridFeatures, dataset: Dataset, network: GridNetwork
) -> None:
    fewer = cached_features(dataset, network, FITTING, TAGS, 2, cache, refuse)
    assert np.array_equal(fewer.maps, features.maps[:2])
    assert np.array_equal(fewer.tags, features.tags[:2])
    told: list[int] = []
    for views in (1, 3):
        grown = cached_features(dataset, network, FITTING, TAGS, views, tmp_path, lambda done, total: told.append(done))
        assert np.array_equal(grown.maps, features.maps[:views])
    assert len(told) == len(set(told))  # no picture was read twice


@pytest.mark.parametrize("damage", ["delete", "empty", "short"])
def test_a_cache_whose_arrays_were_damaged_is_refused_and_never_read_as_zeros(
    tmp_path: Path, dataset: Dataset, network: GridNetwork, damage: str
) -> None:
    folder = tmp_path / cache_name(dataset, network, FITTING, TAGS)
    folder.mkdir()
    (folder / "tags.int16").write_bytes(bytes(2 * PICTURES * TAGS))
    match damage:
        case "empty":
            (folder / "maps.float16").write_bytes(b"")
        case "short":
            (folder / "maps.float16").write_bytes(bytes(2 * PICTURES * 112 * (SIZE // 16) ** 2 - 1))
    (folder / "done.json").write_text(str(PICTURES))
    with pytest.raises(DataError, match=r"maps\.float16 .*delete"):
        cached_features(dataset, network, FITTING, TAGS, 1, tmp_path)


def test_other_data_or_another_reading_of_it_has_a_cache_of_its_own(
    tmp_path: Path, dataset: Dataset, network: GridNetwork
) -> None:
    other_trunk, other_tail = (grid_network(["efficientnet-lite0"], pretrained=False) for _ in range(2))
    other_tail.load_state_dict(network.state_dict())
    torch.nn.init.normal_(next(other_tail.region_tails.parameters()))
    some = Dataset(dataset.examples[1:])
    moved = Dataset((dataclasses.replace(dataset.examples[0], source=FileOnDisk(tmp_path / "0.png")), *dataset.examples[1:]))
    (tmp_path / "0.png").write_bytes(dataset.examples[0].source.read())
    names = [
        cache_name(dataset, network, FITTING, TAGS),
        cache_name(dataset, network, FITTING, TAGS - 1),
        cache_name(dataset, network, Fitting(SIZE + 32), TAGS),
        cache_name(dataset, other_trunk, FITTING, TAGS),
        cache_name(some, network, FITTING, TAGS),
        cache_name(moved, network, FITTING, TAGS),
    ]
    assert len(set(names)) == len(names)
    # What learns is not cached, so it may change.
    assert cache_name(dataset, other_tail, FITTING, TAGS) == names[0]
    # Captions are not part of an image.
    silent = Dataset(tuple(dataclasses.replace(example, captions=("no",)) for example in dataset.examples))
    assert cache_name(silent, network, FITTING, TAGS) == names[0]


def test_another_picture_in_the_same_place_has_a_cache_of_its_own(tmp_path: Path, network: GridNetwork) -> None:
    folder = write_pictures(tmp_path / "pictures", 2)
    before = cache_name(read_dataset(folder), network, FITTING, TAGS)
    assert cache_name(read_dataset(folder), network, FITTING, TAGS) == before
    stat = (folder / "0.png").stat()
    (folder / "0.png").write_bytes((folder / "1.png").read_bytes())
    os.utime(folder / "0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert cache_name(read_dataset(folder), network, FITTING, TAGS) != before


@pytest.mark.slow
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, network: GridNetwork) -> None:
    folder = write_pictures(tmp_path / "pictures", 2)
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png is not an image"):
        cached_features(read_dataset(folder), network, FITTING, TAGS, 1, tmp_path / "cache")


def gradient(width: int, height: int) -> Image.Image:
    """A picture that is darker on the left, and whose green grows downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8))


def test_view_0_is_the_whole_picture() -> None:
    picture = gradient(90, 60)
    assert np.array_equal(view_pixels(picture, FITTING, 0, seed=3), to_pixels(picture, FITTING))


def test_other_views_are_upright_crops_of_at_least_two_fifths_of_the_area_mirrored_half_of_the_time() -> None:
    picture = gradient(256, 256)
    mirrored = 0
    for view in range(1, 101):
        pixels = view_pixels(picture, FITTING, view, seed=view).astype(float)
        left, right = pixels[:, 0, 0].mean(), pixels[:, -1, 0].mean()
        top, bottom = pixels[0, :, 1].mean(), pixels[-1, :, 1].mean()
        assert bottom > top
        mirrored += left > right
        assert abs(right - left) / 255 * (bottom - top) / 255 > 0.36
    assert 30 <= mirrored <= 70


def test_a_view_is_always_the_same_and_unlike_the_others() -> None:
    picture = gradient(100, 80)
    assert np.array_equal(view_pixels(picture, FITTING, 5, seed=1), view_pixels(picture, FITTING, 5, seed=1))
    views = [view_pixels(picture, FITTING, view, seed).tobytes() for view in range(1, 5) for seed in range(3)]
    assert len(set(views)) == len(views)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_every_picture_has_views_however_thin(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "orange")
    for view in range(20):
        assert view_pixels(picture, FITTING, view, seed=0).shape == (SIZE, SIZE, 3)


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """The system refuses to make a file longer than that, as a full disk refuses to."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_disk_that_turns_out_to_be_full_is_one_sentence_and_what_was_there_stays(
    tmp_path: Path, dataset: Dataset, network: GridNetwork
) -> None:
    one_view = 2 * PICTURES * 112 * (SIZE // 16) ** 2
    expected = r"need 57\.4 kB more in .*, where .* are free \(File too large\); .* by --cache$"
    with files_no_longer_than(one_view - 1), pytest.raises(DataError, match=expected):
        cached_features(dataset, network, FITTING, TAGS, 1, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    first = cached_features(dataset, network, FITTING, TAGS, 1, tmp_path / "cache")
    files = {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    with files_no_longer_than(one_view), pytest.raises(DataError, match=r"or train with fewer views than 2$"):
        cached_features(dataset, network, FITTING, TAGS, 2, tmp_path / "cache")
    assert {path: path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file()} == files
    again = cached_features(dataset, network, FITTING, TAGS, 1, tmp_path / "cache", refuse)
    assert np.array_equal(again.maps, first.maps)


@pytest.mark.slow
def test_the_arrays_have_no_holes_that_a_full_disk_could_not_fill(
    tmp_path: Path, dataset: Dataset, network: GridNetwork
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(dataset, network, FITTING, TAGS, 9, tmp_path, stop)
    for path in tmp_path.rglob("*16"):
        assert path.stat().st_blocks * 512 >= path.stat().st_size > 0
