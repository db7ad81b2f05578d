"""Files to upright RGB pictures, and what a photograph says of itself: the decoding of untrusted bytes.

Every decoding process loads this module, so it imports Pillow and nothing else that is large.
"""

import importlib.util
import io
import json
import math
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from aladin.errors import DataError
from aladin.pictures.frames import chosen_frames

# Decided by content, never by the file's name; nothing outside this list is ever opened. JPEG's opener reads MPO too.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 178_956_970  # decoded; Pillow's own limit, beyond which a file is taken for a decompression bomb
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MAX_SIDECAR_BYTES = 1 << 18
MAX_KEPT_CHARACTERS = 1 << 13  # of a sidecar's facts, as JSON

# What decoders raise over damaged and hostile bytes, as fuzzing showed.
DECODER_FAILURES = (
    OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, MemoryError, ArithmeticError, AttributeError,
    RuntimeError, struct.error, Warning,
)  # fmt: skip

# What a row's metadata may hold of the file's own facts; filters name them, so docs/collections.md describes them.
FACT_KEYS = ("camera", "lens", "iso", "f_number", "exposure_s", "focal_mm", "latitude", "longitude", "description", "sidecar")


def open_image(source: Path | bytes, name: str = "", draft_size: int = 0, frame: int = 0) -> Image.Image:
    """The picture upright (EXIF orientation applied), in RGB; alpha over white; of several the one of number `frame`, from 0.

    `name` stands for the source in errors. With `draft_size`, a JPEG may come decoded at a reduced size of at least twice
    that many pixels a side, which is several times faster. DataError for anything that cannot be decoded. Colour profiles
    are not applied, as in training; grey of more than 8 bits is scaled, not clipped.
    """
    label = name or (str(source) if isinstance(source, Path) else "image")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats(source)) as image:
            if frame:
                _seek(image, frame, label)
            elif draft_size:
                image.draft("RGB", (2 * draft_size, 2 * draft_size))
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{label} has more than {MAX_PIXELS:,} pixels; reduce it below that") from None
    except UnidentifiedImageError:
        raise DataError(f"{label} {_unknown(source)}") from None
    except DECODER_FAILURES as error:
        raise DataError(f"{label} cannot be decoded ({_said(error)}); expected one of {', '.join(FORMATS)}") from None


def bitmap(image: Image.Image) -> bytes:
    """A picture that is open as the content of a file, upright and in RGB as `open_image` gives one; DataError as there."""
    content = io.BytesIO()
    try:
        _to_rgb(ImageOps.exif_transpose(image)).save(content, "BMP")
    except DECODER_FAILURES as error:
        raise DataError(f"the given image cannot be decoded ({_said(error)}); give another") from None
    return content.getvalue()


def open_with_size(data: bytes, name: str = "", draft_size: int = 0, frame: int = 0) -> tuple[Image.Image, tuple[int, int]]:
    """As `open_image`, and the picture's width and height as displayed, which are its own unless it was decoded smaller."""
    image = open_image(data, name, draft_size, frame)
    return image, image.size if frame else upright_size(data)


def further_pictures(data: bytes, most: int) -> Iterator[tuple[int, Image.Image]]:
    """The pictures of a file beside its first, upright and in RGB, with their numbers; with that one `most`, spread evenly.

    Left out are reduced copies: a TIFF's pages that say so, and what an MPO holds in another size than its first. It ends where
    one cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as image:
            first = image.size
            for number in chosen_frames(getattr(image, "n_frames", 1), most)[1:]:
                image.seek(number)
                if image.width * image.height > MAX_PIXELS:
                    return
                if not _is_reduced_copy(image, first):
                    image.load()
                    yield number, _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, *DECODER_FAILURES):
        return


def _is_reduced_copy(image: Image.Image, first: tuple[int, int]) -> bool:
    if image.format == "TIFF":
        return bool(getattr(image, "tag_v2", {}).get(254, 0) & 1)  # NewSubfileType
    return image.format == "MPO" and image.size != first


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height as displayed, from the header, since a JPEG may be decoded smaller."""
    with Image.open(io.BytesIO(data), formats=_formats(data)) as header:
        width, height = header.size
        try:
            # Pillow turns the size of a TIFF itself.
            turned = header.format != "TIFF" and header.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        except DECODER_FAILURES:
            turned = False  # a picture with a broken EXIF block is still a picture
    return (height, width) if turned else (width, height)


def exif_facts(data: bytes) -> dict[str, Any]:
    """When ("taken"), where and with what the camera took it, as far as the EXIF block says so and can be read."""
    facts: dict[str, Any] = {}
    try:
        with Image.open(io.BytesIO(data), formats=_formats(data)) as header:
            exif = header.getexif()
            if not exif:
                return facts
            details, gps = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
        base = ExifTags.Base
        facts["taken"] = _iso_time(details.get(base.DateTimeOriginal) or exif.get(base.DateTime))
        facts["camera"] = _camera(_text(exif.get(base.Make)), _text(exif.get(base.Model)))
        facts["lens"] = _text(details.get(base.LensModel))
        facts["description"] = _text(exif.get(base.ImageDescription))
        facts["iso"] = _number(details.get(base.ISOSpeedRatings))
        facts["f_number"] = _number(details.get(base.FNumber))
        facts["exposure_s"] = _number(details.get(base.ExposureTime))
        facts["focal_mm"] = _number(details.get(base.FocalLength))
        facts["latitude"] = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), "S", 90.0)
        facts["longitude"] = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), "W", 180.0)
    except DECODER_FAILURES:
        pass  # what was read until then stands
    return {key: value for key, value in facts.items() if value is not None}


def sidecar_facts(text: bytes) -> dict[str, Any]:
    """What a JSON file beside a photograph says of it: Google Takeout's fields by our names, else its simple values under
    "sidecar". Nothing from one that is no JSON object, or too large.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    facts = _takeout(content) if "photoTakenTime" in content or "geoData" in content else {"sidecar": _simple(content)}
    return facts if len(json.dumps(facts)) <= MAX_KEPT_CHARACTERS else {}


def _seek(image: Image.Image, frame: int, label: str) -> None:
    try:
        image.seek(frame)
    except EOFError:
        count = getattr(image, "n_frames", 1)
        if frame < count:
            raise
        has = f"{count:,} pictures; give a number from 0 to {count - 1:,}" if count > 1 else "one picture, of number 0"
        raise DataError(f"{label} is not there: the file has {has}") from None


def _formats(source: Path | bytes) -> tuple[str, ...]:
    """What may be opened; the package for HEIC is loaded only for a file that says it is one, since it is large."""
    if not _is_heic(source) or not importlib.util.find_spec("pillow_heif"):
        return FORMATS
    if "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


def _is_heic(source: Path | bytes) -> bool:
    if isinstance(source, bytes):
        start = source[:12]
    else:
        with source.open("rb") as file:
            start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS


def _unknown(source: Path | bytes) -> str:
    if _is_heic(source) and "HEIF" not in Image.OPEN:
        return "is a HEIC image; install what reads it with pip install 'aladin[heic]'"
    return f"is not an image of a known format; expected one of {', '.join(FORMATS)}"


def _said(error: BaseException) -> str:
    """The error's message on one line, of what a database takes."""
    message = f"{error}" or type(error).__name__
    return " ".join(message.encode("utf-8", "replace").decode().split())[:200]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled_to_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit, integer and float grey: the full 16-bit range is scaled, a wider or negative one is stretched."""
    import numpy as np  # rarely needed, and as large as Pillow

    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = (0.0, 65535.0)
    if image.mode == "F" and values.min() >= 0.0 and values.max() <= 1.0:
        high = 1.0
    elif values.min() < low or values.max() > high:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) * 255.0
    return Image.fromarray(scaled.round().astype(np.uint8))


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    rgb = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert rgb is not None
    return rgb


def _iso_time(exif_time: object) -> str | None:
    try:
        return datetime.strptime(str(exif_time).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _camera(make: str | None, model: str | None) -> str | None:
    """Maker and model without the maker twice, as in "Canon EOS 5D"."""
    if make and model and not model.lower().startswith(make.lower().split()[0]):
        return f"{make} {model}"
    return model or make


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "replace").decode().replace("\0", " ").strip()[:500] or None


def _number(value: Any) -> float | int | None:
    if isinstance(value, tuple) and value:
        value = value[0]
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return round(number, 6) if math.isfinite(number) else None


def _degrees(parts: Any, side: object, negative: str, most: float) -> float | None:
    if not isinstance(parts, tuple) or len(parts) != 3:
        return None
    degrees, minutes, seconds = (_number(part) for part in parts)
    if degrees is None:
        return None
    value = degrees + (minutes or 0) / 60 + (seconds or 0) / 3600
    if not 0 <= value <= most:
        return None
    return round(-value if str(side).strip("\0 ").upper() == negative else value, 7)


def _takeout(content: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    time, position = content.get("photoTakenTime"), content.get("geoData")
    if isinstance(time, dict) and str(time.get("timestamp", "")).isdigit():
        seconds = int(time["timestamp"])
        if seconds < 2**33:
            facts["taken"] = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    if isinstance(position, dict):
        latitude, longitude = _number(position.get("latitude")), _number(position.get("longitude"))
        if latitude and longitude and abs(latitude) <= 90 and abs(longitude) <= 180:
            facts |= {"latitude": latitude, "longitude": longitude}
    if _text(content.get("description")):
        facts["description"] = _text(content["description"])
    people = [_text(person.get("name")) for person in content.get("people") or [] if isinstance(person, dict)]
    return facts | ({"sidecar": {"people": people}} if people else {})


def _simple(content: dict[str, Any]) -> dict[str, Any]:
    """Numbers, words, truth values and lists of words: what a filter can ask for."""

    def simple(value: Any) -> bool:
        if isinstance(value, list):
            return all(isinstance(item, str | int) and simple(item) for item in value)
        if isinstance(value, float):
            return math.isfinite(value)
        return isinstance(value, str | int)

    cleaned = {str(key): value for key, value in content.items() if simple(value)}
    kept: dict[str, Any] = json.loads(json.dumps(cleaned).encode("utf-8", "replace"))
    return kept
