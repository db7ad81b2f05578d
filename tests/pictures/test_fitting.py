"""Pictures are fitted as transformers fits them for its encoders, bit for bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from aladin.pictures.boxes import Box
from aladin.pictures.fitting import Fitting, fitted, seen

SIZES = [(640, 480), (481, 640), (333, 1000), (224, 224), (100, 57), (1000, 31), (31, 1000), (225, 224)]


def noise(width: int, height: int) -> Image.Image:
    """Waves with noise: what every way of resampling makes something else of."""
    random = np.random.default_rng(width)
    waves = np.sin(np.arange(width)[None, :, None] / 9) * np.cos(np.arange(height)[:, None, None] / 7) * [90, 60, 30] + 128
    return Image.fromarray(np.clip(waves + random.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8))


def by_transformers(processor: Any, image: Image.Image) -> np.ndarray:
    values = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    return np.moveaxis(values, 0, -1)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("resampling", ["bicubic", "bilinear"])
def test_a_cropped_picture_is_that_of_transformers_for_clip(size: tuple[int, int], resampling: Any) -> None:
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = clip.CLIPImageProcessorPil(resample=Image.Resampling[resampling.upper()])
    found = np.asarray(fitted(noise(*size), Fitting(224, "crop", resampling, exact=True)))
    assert_array_equal(found, by_transformers(processor, noise(*size)))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("resampling", ["bicubic", "bilinear"])
def test_a_squashed_picture_is_that_of_transformers_for_siglip(size: tuple[int, int], resampling: Any) -> None:
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
    processor = siglip.SiglipImageProcessorPil(
        resample=Image.Resampling[resampling.upper()], size={"height": 224, "width": 224}
    )
    found = np.asarray(fitted(noise(*size), Fitting(224, "squash", resampling, exact=True)))
    assert_array_equal(found, by_transformers(processor, noise(*size)))


def test_a_picture_that_is_a_line_is_cropped_without_being_resized_whole() -> None:
    line = noise(30_000, 2)
    found = fitted(line, Fitting(224, "crop", exact=True))  # whole it would have 750 million pixels
    middle = fitted(line.crop((14_900, 0, 15_100, 2)), Fitting(224, "crop", exact=True))
    assert_array_equal(np.asarray(found), np.asarray(middle))


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), size=st.integers(1, 600))
def test_what_is_seen_of_a_picture_is_inside_it_and_as_long_as_its_shorter_side(width: int, height: int, size: int) -> None:
    part = seen(Box(0, 0, width, height), Fitting(size, "crop"))
    assert part.x + part.width <= width
    assert part.y + part.height <= height
    shorter = min(width, height)
    assert abs(part.width - shorter) <= 1 + shorter / size
    assert abs(part.height - shorter) <= 1 + shorter / size


def test_what_is_seen_of_a_picture_is_what_is_in_the_crop() -> None:
    picture = noise(640, 480)
    part = seen(Box(0, 0, *picture.size), Fitting(240, "crop", exact=True))
    alone = picture.crop((part.x, part.y, part.x + part.width, part.y + part.height))
    difference = np.asarray(fitted(picture, Fitting(240, "crop", exact=True)), dtype=int) - np.asarray(
        fitted(alone, Fitting(240, "squash", exact=True)), dtype=int
    )
    assert np.abs(difference[:, 4:-4]).max() <= 1  # at the edge the one sees beyond it


def test_an_exact_picture_is_read_from_all_of_a_files_pixels() -> None:
    assert (Fitting(224, exact=True).draft_size, Fitting(224).draft_size) == (0, 224)
