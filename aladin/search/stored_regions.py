"""Regions of stored images as they are compared with a query."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32

from aladin.collection.store import Store
from aladin.encoder.composition import composed
from aladin.encoder.config import EncoderConfig


def stored_regions(
    collection: Store, ids: Sequence[int], encoder: EncoderConfig
) -> tuple[Float32[np.ndarray, "images regions dim"], Bool[np.ndarray, "images regions"]]:
    """The region tokens of these images, padded, and which are real; an added encoder's are joined with the images' vectors.

    So a collection holds no vector twice, and another share of regions needs no image read again.
    """
    tokens = collection.tokens(ids)
    regions = tokens.restored()
    if encoder.family:
        regions = composed(regions, collection.vectors_of(ids).astype(np.float32), encoder)
    return regions, tokens.mask
