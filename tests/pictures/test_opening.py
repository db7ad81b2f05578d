"""Every kind of picture becomes upright RGB, by a rule; and what photographs say of themselves."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from aladin.encoder.encoder import Encoder
from aladin.errors import DataError
from aladin.pictures.fitting import Fitting, fitted
from aladin.pictures.opening import exif_facts, open_image, sidecar_facts, upright_size
from aladin.pictures.pixels import to_pixels
from tests.hostile_images import encoded, picture
from tests.tiny_model import SIZE

pillow_heif = pytest.importorskip("pillow_heif")
pillow_heif.register_heif_opener(thumbnails=False)
GREY = 1.5  # levels of 255 that a lossy or rounded conversion may be off on average


def colours(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def opened(image: Image.Image, kind: str, **options: object) -> np.ndarray:
    return colours(open_image(encoded(image, kind, **options)))


# I3: orientation.


def turned(upright: Image.Image, orientation: int) -> Image.Image:
    """What a camera held that way stores: what its EXIF tag turns back to `upright`."""
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    return upright if back is None else upright.transpose(Image.Transpose(back))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PNG", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_gives_the_vector_of_the_upright_picture(encoder: Encoder, kind: str, orientation: int) -> None:
    upright = picture((64, 48))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind in ("JPEG", "AVIF") else {}
    content = encoded(turned(upright, orientation), kind, exif=exif, **options)
    found = open_image(content, draft_size=SIZE)
    assert found.size == upright.size == upright_size(content)
    pixels = np.stack([to_pixels(image, Fitting(SIZE)) for image in (found, upright)])
    rows = encoder.encode_images(pixels)
    for vectors in (rows.vectors, rows.regions.reshape(2, -1)):
        cosine = vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])
        assert cosine > 0.999


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_by_its_own_box_and_not_by_exif(orientation: int) -> None:
    """As its standard says: what EXIF holds is a remark about a turn that the decoder has made already."""
    exif = Image.Exif()
    exif[274] = orientation
    content = encoded(picture((64, 48)), "HEIF", exif=exif, quality=100)
    found = open_image(content)
    assert found.size == upright_size(content) == (64, 48)
    assert np.abs(colours(found) - colours(picture((64, 48)))).mean() < 12


# I4: modes.


def test_alpha_goes_over_white() -> None:
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (opened(red, "PNG") == 255).all()
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert np.abs(opened(half, "PNG") - [255, 127, 127]).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa", "La"])
def test_every_mode_with_alpha_is_over_white(mode: str) -> None:
    image = Image.new("RGBA", (5, 3), (0, 0, 0, 0)).convert("RGBA")
    converted = image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)
    path = io.BytesIO()
    try:
        converted.save(path, "TIFF")
    except OSError:
        pytest.skip(f"no file holds {mode}")
    assert (colours(open_image(path.getvalue())) == 255).all()


@pytest.mark.parametrize("transparency", [0, b"\0\xff\xff"])
def test_a_palette_s_transparent_colour_becomes_white(transparency: int | bytes) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    found = opened(image, "PNG", transparency=transparency)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(2, axis=0)
    found = opened(Image.fromarray(ramp), kind)
    assert np.abs(found[0, :, 0] - np.arange(256)).max() <= 1
    assert (found[..., 0] == found[..., 1]).all()


def test_floats_from_0_to_1_use_the_whole_range() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(2, axis=0)
    assert np.abs(opened(Image.fromarray(ramp), "TIFF")[0, :, 0] - np.arange(256)).max() <= 1


def test_integers_beyond_16_bits_are_stretched() -> None:
    values = np.array([[-100_000, 0, 100_000]], dtype=np.int32)
    assert opened(Image.fromarray(values), "TIFF")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_numbers_do_no_harm(value: float) -> None:
    image = Image.fromarray(np.array([[0.0, 0.5, value]], dtype=np.float32))
    assert opened(image, "TIFF").shape == (1, 3, 3)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_what_a_screen_shows_of_it(kind: str) -> None:
    """JPEG stores it inverted, as Adobe does."""
    image = picture()
    found = opened(image.convert("CMYK"), kind, **({"quality": 100} if kind == "JPEG" else {}))
    assert np.abs(found - colours(image)).mean() < GREY


def test_lab_is_what_a_screen_shows_of_it() -> None:
    image = Image.new("RGB", (8, 8), (200, 60, 30))
    lab = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
    assert lab is not None
    assert np.abs(opened(lab, "TIFF") - colours(image)).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "YCbCr", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_every_mode_and_shape_becomes_pixels(mode: str, size: tuple[int, int]) -> None:
    image = picture(size).convert(mode)
    for kind in ("JPEG",) if mode == "YCbCr" else ("TIFF",):
        found = open_image(encoded(image, kind), draft_size=SIZE)
        assert to_pixels(found, Fitting(SIZE)).shape == (SIZE, SIZE, 3)


def test_colour_profiles_change_nothing() -> None:
    image = picture()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(opened(image, "PNG", icc_profile=profile), opened(image, "PNG"))


# I5: more than one picture in a file.


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_the_first_of_several_pictures_counts(kind: str) -> None:
    first, others = picture(seed=1), [ImageOps.invert(picture(seed=1)), picture(seed=3)]
    options: dict[str, object] = {"quality": 95} if kind in ("MPO", "AVIF", "WEBP") else {}
    found = opened(first, kind, save_all=True, append_images=others, **options)
    assert np.abs(found - colours(first)).mean() < 12


def test_a_film_behind_a_photograph_is_passed_over() -> None:
    content = encoded(picture(), "JPEG")
    film = b"\0\0\0\x18ftypmp42" + bytes(5000)
    np.testing.assert_array_equal(colours(open_image(content + film)), colours(open_image(content)))


def test_a_resized_picture_is_squashed_not_cropped() -> None:
    image = Image.new("RGB", (100, 10), "red")
    image.paste("blue", (50, 0, 100, 10))
    found = np.asarray(fitted(image, Fitting(10)))
    assert (found[:, 0] == [255, 0, 0]).all()
    assert (found[:, -1] == [0, 0, 255]).all()


def test_heic_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(picture(), "HEIF")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(DataError, match=r"is a HEIC image; install what reads it with pip install 'aladin\[heic\]'"):
        open_image(content)


# What a photograph says of itself.


def test_the_camera_s_facts_are_read() -> None:
    exif = Image.Exif()
    exif[271], exif[272], exif[270] = "Canon", "Canon EOS 5D", "A dog\0"
    details, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    details[36867], details[34855], details[42036] = "2026:05:01 12:30:00", 200, "EF 50mm"
    details[33437], details[33434], details[37386] = 2.8, 0.004, 50.0
    place[1], place[2], place[3], place[4] = "S", (33.0, 51.0, 36.0), "E", (151.0, 12.0, 0.0)
    assert exif_facts(encoded(picture(), "JPEG", exif=exif)) == {
        "taken": "2026-05-01T12:30:00", "camera": "Canon EOS 5D", "lens": "EF 50mm", "description": "A dog", "iso": 200,
        "f_number": 2.8, "exposure_s": 0.004, "focal_mm": 50.0, "latitude": -33.86, "longitude": 151.2,
    }  # fmt: skip


def test_a_maker_is_named_once() -> None:
    exif = Image.Exif()
    exif[271], exif[272] = "NIKON CORPORATION", "NIKON D90"
    assert exif_facts(encoded(picture(), "JPEG", exif=exif))["camera"] == "NIKON D90"
    exif[271] = "Apple"
    assert exif_facts(encoded(picture(), "JPEG", exif=exif))["camera"] == "Apple NIKON D90"


@pytest.mark.parametrize("degrees", [(1000.0, 0.0, 0.0), (1.0,), (0.0, 7000.0, 0.0)])
def test_a_place_that_is_none_is_left_out(degrees: tuple[float, ...]) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = degrees
    facts = exif_facts(encoded(picture(), "JPEG", exif=exif))
    assert "latitude" not in facts


@pytest.mark.filterwarnings("ignore")  # as in a decoding process
def test_a_broken_exif_block_costs_the_facts_alone() -> None:
    content = bytearray(encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(20)))
    assert exif_facts(bytes(content)) == {}
    assert upright_size(bytes(content)) == (48, 32)


def test_google_takeout_is_understood() -> None:
    sidecar = {
        "photoTakenTime": {"timestamp": "1777638600"},
        "geoData": {"latitude": 52.5, "longitude": 13.4},
        "description": "At the lake",
        "people": [{"name": "Ada"}, {"name": "Grace"}],
    }
    assert sidecar_facts(json.dumps(sidecar).encode()) == {
        "taken": "2026-05-01T12:30:00", "latitude": 52.5, "longitude": 13.4, "description": "At the lake",
        "sidecar": {"people": ["Ada", "Grace"]},
    }  # fmt: skip


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"a": "' + b"x" * 9000 + b'"}', b"[" * 100_000])
def test_a_sidecar_that_says_nothing_usable_says_nothing(text: bytes) -> None:
    assert sidecar_facts(text) == {}


def test_of_another_sidecar_simple_values_are_kept() -> None:
    text = b'{"place": "sea", "stars": 4, "tags": ["a", "b"], "deep": {"no": 1}, "bad": NaN, "odd": "\\ud800"}'
    assert sidecar_facts(text) == {"sidecar": {"place": "sea", "stars": 4, "tags": ["a", "b"], "odd": "\ud800"}}


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        open_image(tmp_path / "none.jpg")
