"""SigLIP, and SigLIP 2 of a fixed size: attention pools a picture, and a text is the state of its last of 64 positions.

Texts are padded to all positions, and padding is read like any piece: they were trained so.
"""

from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear

from aladin.errors import ModelError
from aladin.exporting.encoders.towers import Probability, Read, Towers


class Siglip(Towers):
    """SiglipModel, which SigLIP 2's folders of a fixed size name too."""

    family = "siglip"
    class_name = "SiglipModel"
    lower_case = True  # SigLIP 2's own files leave it out; the first one's tokenizer does it itself
    pictures: ClassVar = {
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
    }

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if not model.config.vision_config.vision_use_head:
            raise ModelError("config.json has vision_use_head false, so this encoder pools no picture; take one that does")

    def read_images(self, pixels: Float[Tensor, "images 3 size size"]) -> Read:
        read = self.model.vision_model(pixel_values=pixels)
        return Read(read.pooler_output, read.last_hidden_state)

    def regions(self, cells: Float[Tensor, "images cells hidden"]) -> Float[Tensor, "images cells dim"]:
        head = self.model.vision_model.head
        # Attention over a single cell gives that cell's value, whatever the query is.
        value, bias = head.attention.in_proj_weight.chunk(3)[2], head.attention.in_proj_bias.chunk(3)[2]
        attended = head.attention.out_proj(linear(cells, value, bias))
        pooled: Tensor = attended + head.mlp(head.layernorm(attended))
        return pooled

    def read_texts(self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]) -> Read:
        read = self.model.text_model(input_ids=pieces)
        return Read(read.pooler_output, self.model.text_model.head(read.last_hidden_state))

    def features(self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]) -> Float[Tensor, "texts dim"]:
        vectors: Tensor = self.model.get_text_features(input_ids=pieces).pooler_output
        return vectors

    @property
    def padded_to(self) -> int:
        return self.positions

    @property
    def probability(self) -> Probability:
        return Probability(float(self.model.logit_scale.exp()), float(self.model.logit_bias), sigmoid=True)
