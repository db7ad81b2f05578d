"""An encoder's two towers as ONNX graphs, with the inputs and outputs that search knows."""

import onnx
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from aladin.encoder.encoder import IMAGE_GRAPH
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.text_encoder import TEXT_GRAPH
from aladin.exporting.encoders.towers import Towers
from aladin.network.onnx_graph import to_onnx

MAX_GRID = 7  # regions a side: as many as aladin's own models have, so that a collection's tokens take as much room


class ImageTower(nn.Module):
    """Pixels to the encoder's own vector and a grid of regions, all of length 1."""

    def __init__(self, towers: Towers, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.towers = towers
        self.mean = nn.Buffer(torch.tensor(preprocessing.mean))
        self.deviation = nn.Buffer(torch.tensor(preprocessing.deviation))
        self.shares = nn.Buffer(cell_shares(towers.patches_a_side, grid_of(towers)))

    def forward(
        self, pixels: UInt8[Tensor, "images size size 3"]
    ) -> tuple[Float[Tensor, "images dim"], Float[Tensor, "images cells dim"]]:
        read = self.towers.read_images(self.normalised(pixels))
        cells = read.states if len(self.shares) == read.states.shape[1] else self.shares @ read.states
        return normalize(read.vectors, dim=-1), normalize(self.towers.regions(cells), dim=-1)

    def normalised(self, pixels: UInt8[Tensor, "images size size 3"]) -> Float[Tensor, "images 3 size size"]:
        """What the encoder's own image processor makes of a picture that has its size."""
        return ((pixels.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)


class TextTower(nn.Module):
    """Pieces to the encoder's own vector and one for each word piece, special ones left out, all of length 1."""

    def __init__(self, towers: Towers, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.towers = towers
        self.first, self.last = (len(piece) > 0 for piece in (preprocessing.first_piece, preprocessing.last_piece))

    def forward(
        self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]
    ) -> tuple[Float[Tensor, "texts dim"], Float[Tensor, "texts inner dim"], Bool[Tensor, "texts inner"]]:
        read = self.towers.read_texts(pieces, mask)
        # As many as there are real pieces beside the special ones, which stand around them.
        words = pad(mask[:, self.first + self.last :], (0, int(self.last)))
        return normalize(read.vectors, dim=-1), normalize(read.states[:, int(self.first) :], dim=-1), words


def grid_of(towers: Towers) -> int:
    """How many regions a picture has a side."""
    return min(towers.patches_a_side, MAX_GRID)


def cell_shares(patches: int, cells: int) -> Float[Tensor, "cells patches"]:
    """For each cell of a grid the share of its area that each patch of a finer grid covers; each row adds up to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * patches / cells
    low, high = torch.arange(patches), torch.arange(1, patches + 1)
    covered = (torch.minimum(edges[1:, None], high) - torch.maximum(edges[:-1, None], low)).clamp(min=0)
    side = covered / covered.sum(dim=1, keepdim=True)
    return torch.kron(side, side).float()


def both_graphs(towers: Towers, preprocessing: Preprocessing) -> dict[str, onnx.ModelProto]:
    """The graphs by their file names, the one of texts first."""
    length = min(7, preprocessing.caption_pieces)
    axes = {0: "captions", 1: "words"}
    inputs = {"pieces": torch.ones(2, length, dtype=torch.int64), "mask": torch.ones(2, length, dtype=torch.bool)}
    texts = to_onnx(TextTower(towers, preprocessing), inputs, list(TEXT_GRAPH[1]), {"pieces": axes, "mask": axes})
    pixels = torch.zeros(2, preprocessing.size, preprocessing.size, 3, dtype=torch.uint8)
    looks = ImageTower(towers, preprocessing)
    images = to_onnx(looks, {"pixels": pixels}, list(IMAGE_GRAPH[1]), {"pixels": {0: "images"}})
    return {"text.onnx": texts, "image.onnx": images}
