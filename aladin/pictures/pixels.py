"""Pictures to pixels: the one way they are resized, in training and in search alike."""

from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from aladin.pictures.fitting import Fitting, fitted
from aladin.pictures.opening import DECODER_FAILURES, FORMATS, MAX_PIXELS, open_image

__all__ = ["DECODER_FAILURES", "FORMATS", "MAX_PIXELS", "Pixels", "open_image", "to_pixels"]

Pixels: TypeAlias = UInt8[np.ndarray, "size size 3"]


def to_pixels(image: Image.Image, fitting: Fitting) -> Pixels:
    """The picture as a model that fits pictures so reads it: squashed to a square, without a crop.

    Nothing of the picture is lost, and a region's box is the same share of the width and height before and after.
    """
    return np.asarray(fitted(image, fitting))
