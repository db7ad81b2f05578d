"""Photographs to pixels: decoding of untrusted files, and the one way they are resized, in training and in search alike."""

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from aladin.errors import DataError

# Decided by content, never by the file's name; nothing outside this list is ever opened. JPEG's opener reads MPO too.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 178_956_970  # Pillow's own limit, beyond which a file is taken for a decompression bomb

# What decoders raise over damaged and hostile bytes, as fuzzing showed.
DECODER_FAILURES = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, MemoryError, ArithmeticError, AttributeError,
    RuntimeError, struct.error, Warning,
)  # fmt: skip

Pixels = UInt8[np.ndarray, "size size 3"]


def open_image(source: Path | bytes, name: str = "", draft_size: int = 0) -> Image.Image:
    """The picture upright (EXIF orientation applied), in RGB; the first frame of an animation; alpha over white.

    `name` stands for the source in errors. With `draft_size`, a JPEG may come decoded at a reduced size of at least twice
    that many pixels a side, which is several times faster. DataError for anything that cannot be decoded.
    """
    label = name or (str(source) if isinstance(source, Path) else "image")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if draft_size:
                image.draft("RGB", (2 * draft_size, 2 * draft_size))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{label} has more than {MAX_PIXELS:,} pixels; reduce it below that") from None
    except UnidentifiedImageError:
        raise DataError(f"{label} is not an image of a known format; expected one of {', '.join(FORMATS)}") from None
    except DECODER_FAILURES as error:
        raise DataError(f"{label} cannot be decoded ({error}); expected one of {', '.join(FORMATS)}") from None


def to_pixels(image: Image.Image, size: int) -> Pixels:
    """The whole picture resized to `size` x `size` RGB, its sides squashed as needed, without a crop.

    Nothing of the picture is lost, and a region's box is the same share of the width and height before and after.
    """
    if image.size == (size, size):
        return np.asarray(image)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit, integer and float grey: the full 16-bit range is scaled, a wider or negative one is stretched."""
    values: NDArray[np.float64] = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = (0.0, 65535.0)
    if image.mode == "F" and values.min() >= 0.0 and values.max() <= 1.0:
        high = 1.0
    elif values.min() < low or values.max() > high:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) * 255.0
    return Image.fromarray(scaled.round().astype(np.uint8))
