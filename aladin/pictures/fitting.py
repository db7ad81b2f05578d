"""How a picture becomes a square of pixels: the one place that knows each way of fitting it in."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

Fit = Literal["squash"]  # the whole picture, its sides squashed as needed; another way is one more name and its branch here
Resampling = Literal["bicubic"]
RESAMPLING: dict[Resampling, Image.Resampling] = {"bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Fitting:
    """What of a model's preprocessing is done to a picture before the network has it."""

    size: int  # px a side
    fit: Fit = "squash"
    resampling: Resampling = "bicubic"


def fitted(image: Image.Image, fitting: Fitting) -> Image.Image:
    """The picture at `fitting.size` a side; the whole of it, without a crop."""
    square = (fitting.size, fitting.size)
    return image if image.size == square else image.resize(square, RESAMPLING[fitting.resampling], reducing_gap=3.0)
