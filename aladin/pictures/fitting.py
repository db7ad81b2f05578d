"""How a picture becomes a square of pixels: the one place that knows each way of fitting it in."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from aladin.pictures.boxes import Box

# squash: the whole picture, its sides squashed as needed. crop: its middle, as long as wide, after its shorter side has the
# size. Another way is one more name and its branch here.
Fit = Literal["squash", "crop"]
Resampling = Literal["bicubic", "bilinear"]
RESAMPLING: dict[Resampling, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
MOST_SIDES = 128  # of a picture that is so many times as long as wide, more would be resized in vain before it is cropped


@dataclass(frozen=True)
class Fitting:
    """What of a model's preprocessing is done to a picture before the network has it."""

    size: int  # px a side
    fit: Fit = "squash"
    resampling: Resampling = "bicubic"
    exact: bool = False  # resampled from all its pixels, as transformers does; else in two steps, several times as fast

    @property
    def draft_size(self) -> int:
        """How small a JPEG may be decoded, as `open_image` has it; 0: at its full size."""
        return 0 if self.exact else self.size


def fitted(image: Image.Image, fitting: Fitting) -> Image.Image:
    """The picture at `fitting.size` a side; where it is cropped, its middle, which `seen` gives."""
    size = (fitting.size, fitting.size)
    if fitting.fit == "crop":
        image = _without_ends(image)
        width, height = _covering(image.width, image.height, fitting.size)
        left, top = (width - fitting.size) // 2, (height - fitting.size) // 2
        covering = _resized(image, (width, height), fitting)
        return covering.crop((left, top, left + fitting.size, top + fitting.size))
    return _resized(image, size, fitting)


def seen(picture: Box, fitting: Fitting) -> Box:
    """The part of a picture, or of a part of one, that a model sees which fits pictures so."""
    if fitting.fit == "squash":
        return picture
    width, height = _covering(picture.width, picture.height, fitting.size)
    left, wide = _span(picture.width, width, fitting.size)
    top, high = _span(picture.height, height, fitting.size)
    return Box(picture.x + left, picture.y + top, wide, high)


def _span(side: int, resized: int, size: int) -> tuple[int, int]:
    """Where the middle `size` px of a side begin before it was resized, and how long they are there."""
    begin = (resized - size) // 2
    first, last = round(begin * side / resized), round((begin + size) * side / resized)
    return min(first, side - 1), max(last - first, 1)


def _covering(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height of a picture whose shorter side has the size, as transformers rounds the longer one."""
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def _without_ends(image: Image.Image) -> Image.Image:
    """The picture, or the middle of one that is a line; else a few pixels could be resized to gigabytes."""
    longest = MOST_SIDES * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = max(image.width - longest, 0) // 2, max(image.height - longest, 0) // 2
    return image.crop((left, top, image.width - left, image.height - top))


def _resized(image: Image.Image, size: tuple[int, int], fitting: Fitting) -> Image.Image:
    gap = None if fitting.exact else 3.0
    return image if image.size == size else image.resize(size, RESAMPLING[fitting.resampling], reducing_gap=gap)
