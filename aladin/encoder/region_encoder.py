"""A detector's regions to vectors and tokens, by the region graph of a model folder; needs no PyTorch.

The graph's contract: region.onnx takes `tags` and `tag_mask` (word pieces of the objects' names), `features`, `boxes` and
`region_mask`, any number of images and regions, and gives `vector`, `regions` and `token_mask`. Vectors and tokens come
L2-normalised, regions in the order given. A model whose regions have no geometry takes no `boxes`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from aladin.encoder.config import QuirksConfig
from aladin.encoder.folder import ModelFolder
from aladin.encoder.text_encoder import TextEncoder, new_session, padded_tokens, usable_rows
from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import DataError, ModelError

REGION_GRAPH = ({"tags", "tag_mask", "features", "boxes", "region_mask"}, ("vector", "regions", "token_mask"))


@dataclass(frozen=True)
class EncodedRegions:
    """One row for each image, its tokens padded at the end with zeros; `mask` is True where a token is real."""

    vectors: Float32[np.ndarray, "images dim"]
    regions: Float32[np.ndarray, "images regions token_dim"]
    mask: Bool[np.ndarray, "images regions"]


class RegionEncoder(TextEncoder):
    """The model of a folder, ready to encode texts and a detector's regions."""

    @classmethod
    def load(cls, folder: Path, threads: int = 0) -> "RegionEncoder":
        """The encoder of a model folder; ModelError when a file is missing or damaged, or it reads photographs."""
        model = ModelFolder.open(folder)
        if model.config.image.source != "detector":
            raise ModelError(f"{folder} reads photographs; give a model that reads a detector's regions")
        return cls(model, threads)

    def encode_regions(
        self, objects: Sequence[Sequence[str]], boxes: Sequence[Float32[np.ndarray, "_ numbers"]]
    ) -> EncodedRegions:
        """Vector and region tokens of each image, given the names of its objects, and its boxes' features with their geometry.

        Of each image the model reads the first boxes and the first pieces of the names, up to its limits.
        """
        pieces = image_pieces(objects, self._object_pieces, self.model.config.quirks)
        lengths = pieces.mask.sum(axis=1)
        names = (
            (pieces.ids[row : row + 1, :length], pieces.mask[row : row + 1, :length]) for row, length in enumerate(lengths)
        )
        feeds = [self._feed(tags, mask, image) for (tags, mask), image in zip(names, boxes, strict=True)]
        rows = self._run(self._region_session, "region.onnx", REGION_GRAPH[1], feeds)
        longest = max(mask.shape[1] for _, _, mask in rows)
        vectors = np.concatenate([vector for vector, _, _ in rows])
        regions, mask = (np.concatenate([padded_tokens(row[part], longest) for row in rows]) for part in (1, 2))
        usable = usable_rows(vectors, regions)
        if not usable.all():
            raise DataError(
                f"the model has no vector for image {int(usable.argmin()) + 1} of these; run the detector on it again"
            )
        return EncodedRegions(vectors, regions, mask)

    def _feed(self, tags: np.ndarray, tag_mask: np.ndarray, boxes: Float32[np.ndarray, "_ numbers"]) -> dict[str, np.ndarray]:
        read = boxes[None, : self.model.config.limits.regions]
        features, geometry = np.split(read, [self.model.config.backbone.region_features], axis=2)
        mask = np.ones(read.shape[:2], dtype=bool)
        feed = {"tags": tags, "tag_mask": tag_mask, "features": features, "boxes": geometry, "region_mask": mask}
        return {name: feed[name] for name in self._inputs}

    @property
    def _inputs(self) -> set[str]:
        return region_inputs(self.model.config.backbone.region_geometry)

    @cached_property
    def _object_pieces(self) -> WordPieces:
        return WordPieces.load(self.model.path / "tokenizer.json", self.model.config.limits.object_pieces)

    @cached_property
    def _region_session(self) -> Any:
        return new_session(self.model.path / "region.onnx", self._inputs, REGION_GRAPH[1])


def region_inputs(geometry: int) -> set[str]:
    """The inputs of region.onnx for boxes of so many numbers."""
    return REGION_GRAPH[0] - (set() if geometry else {"boxes"})


def image_pieces(objects: Sequence[Sequence[str]], tokenizer: WordPieces, quirks: QuirksConfig) -> Pieces:
    """For each image the first token, the pieces of its object names in their order, [SEP]."""
    pieces = tokenizer.encode([" ".join(names) for names in objects])
    ids = pieces.ids.copy()
    ids[:, 0] = tokenizer.special(quirks.image_first_token)
    return dataclasses.replace(pieces, ids=ids)
