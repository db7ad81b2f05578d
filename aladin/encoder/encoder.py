"""Pixels to vectors and tokens, by the image graph of a model folder; needs no PyTorch.

The graph's contract: image.onnx takes `pixels` and gives `vector` and `regions`. Vectors and tokens come L2-normalised, regions
in reading order; resized pixels are normalised inside the graph.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from aladin.encoder.folder import ModelFolder
from aladin.encoder.text_encoder import EncodedTexts, TextEncoder, new_session, usable_rows
from aladin.errors import ModelError

__all__ = ["EncodedImages", "EncodedTexts", "Encoder"]
IMAGE_GRAPH = ({"pixels"}, ("vector", "regions"))


@dataclass(frozen=True)
class EncodedImages:
    """One row for each image; `usable` is False where the network gave no finite vector with a direction.

    `aladin.encoder.composition` makes an added encoder's regions comparable with its words.
    """

    vectors: Float32[np.ndarray, "images dim"]
    regions: Float32[np.ndarray, "images regions token_dim"]
    usable: Bool[np.ndarray, " images"]


class Encoder(TextEncoder):
    """The model of a folder, ready to encode texts and photographs."""

    @classmethod
    def load(cls, folder: Path, threads: int = 0) -> "Encoder":
        """The encoder of a model folder; ModelError when a file is missing or damaged, or it reads no photographs."""
        return cls(ModelFolder.of_photographs(folder), threads)

    def encode_images(self, pixels: UInt8[np.ndarray, "images size size 3"]) -> EncodedImages:
        """Vector and region tokens of each picture, already resized to the model's size."""
        feeds = [{"pixels": pixels[row : row + 1]} for row in range(len(pixels))]
        rows = self._run(self._image_session, "image.onnx", IMAGE_GRAPH[1], feeds)
        vectors, regions = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        config = self.model.config
        expected = (config.regions, config.heads.encoded_token_dim)
        if regions.shape[1:] != expected:
            raise ModelError(
                f"{self.model.path / 'image.onnx'} gives regions of shape {regions.shape[1:]} and model.toml says {expected}; "
                "export the model again"
            )
        return EncodedImages(vectors, regions, usable_rows(vectors, regions))

    def _check_size(self, session: Any) -> None:
        """ModelError where model.toml states another size of pictures than image.onnx was made for."""
        size, settings = self.model.config.preprocessing.size, self.model.path / "model.toml"
        wanted = [side for side in session.get_inputs()[0].shape[1:3] if isinstance(side, int)]  # others are left open
        if any(side != size for side in wanted):
            raise ModelError(
                f"size in [preprocessing] of {settings} is {size} px, 224 if it is left out, but image.onnx takes pictures of "
                f"{' x '.join(map(str, wanted))} px; write size = {wanted[0]} there"
            )

    @cached_property
    def _image_session(self) -> Any:
        session = new_session(self.model.path / "image.onnx", *IMAGE_GRAPH)
        self._check_size(session)
        return session
