"""A model as ONNX graphs in full precision: one of texts, and one of photographs or of a detector's regions."""

import onnx
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from aladin.encoder.folder import IMAGE_GRAPHS
from aladin.encoder.region_encoder import region_inputs
from aladin.network.model import Aladin
from aladin.network.onnx_graph import to_onnx
from aladin.network.tensors import ImageInput, Regions


def both_graphs(model: Aladin) -> dict[str, onnx.ModelProto]:
    """The graphs of a model by their file names, the one of texts first."""
    of_images = image_graph if model.backbone.reads_photographs else region_graph
    return {"text.onnx": text_graph(model), IMAGE_GRAPHS[model.config.image.source]: of_images(model)}


class TextGraph(nn.Module):
    """Word pieces to the matching vector and the alignment head's words (positions 1.. of the input)."""

    def __init__(self, model: Aladin) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]
    ) -> tuple[Float[Tensor, "captions dim"], Float[Tensor, "captions inner token_dim"], Bool[Tensor, "captions inner"]]:
        encoded = self.model.captions(pieces, mask)
        return encoded.vectors, encoded.tokens.states, encoded.tokens.mask


class ImageGraph(nn.Module):
    """Pixels to the matching vector and the alignment head's regions."""

    def __init__(self, model: Aladin) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixels: UInt8[Tensor, "images height width 3"]
    ) -> tuple[Float[Tensor, "images dim"], Float[Tensor, "images regions token_dim"]]:
        encoded = self.model.images(self.model.backbone.look(pixels))
        return encoded.vectors, encoded.tokens.states


class RegionGraph(nn.Module):
    """A detector's regions and its objects' names to the matching vector and the alignment head's regions."""

    def __init__(self, model: Aladin) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        tags: Int[Tensor, "images tags"],
        tag_mask: Bool[Tensor, "images tags"],
        features: Float[Tensor, "images regions features"],
        region_mask: Bool[Tensor, "images regions"],
        boxes: Float[Tensor, "images regions numbers"] | None = None,
    ) -> tuple[Float[Tensor, "images dim"], Float[Tensor, "images tokens token_dim"], Bool[Tensor, "images tokens"]]:
        placed = features[:, :, :0] if boxes is None else boxes
        encoded = self.model.images(ImageInput(tags, tag_mask, Regions(features, placed, region_mask)))
        return encoded.vectors, encoded.tokens.states, encoded.tokens.mask


def text_graph(model: Aladin) -> onnx.ModelProto:
    """text.onnx: `pieces`, `mask` -> `vector`, `words`, `word_mask`."""
    pieces = torch.zeros(2, 7, dtype=torch.int64)
    inputs = {"pieces": pieces, "mask": torch.ones(2, 7, dtype=torch.bool)}
    axes = {0: "captions", 1: "words"}
    return to_onnx(TextGraph(model), inputs, ["vector", "words", "word_mask"], {"pieces": axes, "mask": axes})


def image_graph(model: Aladin) -> onnx.ModelProto:
    """image.onnx: `pixels` -> `vector`, `regions`."""
    size = model.config.preprocessing.size
    pixels = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return to_onnx(ImageGraph(model), {"pixels": pixels}, ["vector", "regions"], {"pixels": {0: "images"}})


def region_graph(model: Aladin) -> onnx.ModelProto:
    """region.onnx: `tags`, `tag_mask`, `features`, `region_mask`, `boxes` -> `vector`, `regions`, `token_mask`.

    Without `boxes` for a model whose regions have no geometry.
    """
    backbone = model.config.backbone
    tags, regions = {0: "images", 1: "tags"}, {0: "images", 1: "regions"}
    inputs = {
        "tags": torch.zeros(2, 5, dtype=torch.int64),
        "tag_mask": torch.ones(2, 5, dtype=torch.bool),
        "features": torch.zeros(2, 3, backbone.region_features),
        "region_mask": torch.ones(2, 3, dtype=torch.bool),
        "boxes": torch.zeros(2, 3, backbone.region_geometry),
    }
    wanted = region_inputs(backbone.region_geometry)
    free = {"tags": tags, "tag_mask": tags, "features": regions, "region_mask": regions, "boxes": regions}
    kept = {name: value for name, value in inputs.items() if name in wanted}
    outputs = ["vector", "regions", "token_mask"]
    return to_onnx(RegionGraph(model), kept, outputs, {name: free[name] for name in kept})
