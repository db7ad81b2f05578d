"""CLIP, and MetaCLIP 2, which differs in its tokenizer alone: a picture is its first state, a text the state of its last piece.

A word's state has read the words before it and none after it.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from aladin.exporting.encoders.towers import Probability, Read, Towers

LEGACY = 2  # older CLIPs state this, and transformers then pools the piece of the highest number
PICTURES = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}


class Projected(Towers):
    """Families whose towers end in a linear projection each, the picture's after a layer norm."""

    pictures = PICTURES

    def read_images(self, pixels: Float[Tensor, "images 3 size size"]) -> Read:
        read = self.model.vision_model(pixel_values=pixels)
        return Read(self.model.visual_projection(read.pooler_output), read.last_hidden_state[:, 1:])

    def regions(self, cells: Float[Tensor, "images cells hidden"]) -> Float[Tensor, "images cells dim"]:
        projected: Tensor = self.model.visual_projection(self.model.vision_model.post_layernorm(cells))
        return projected

    @property
    def probability(self) -> Probability:
        return Probability(scale=float(self.model.logit_scale.exp()))


class Clip(Projected):
    """CLIPModel."""

    family = "clip"
    class_name = "CLIPModel"

    def read_texts(self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]) -> Read:
        # Without the mask: no piece sees what follows it, and padding follows the last piece.
        read = self.model.text_model(input_ids=pieces)
        return Read(self.model.text_projection(read.pooler_output), self.model.text_projection(read.last_hidden_state))

    @property
    def pooled_piece(self) -> int | None:
        number = int(self.model.config.text_config.eos_token_id)
        return None if number == LEGACY else number


class MetaClip2(Clip):
    """MetaClip2Model."""

    family = "metaclip-2"
    class_name = "MetaClip2Model"

    @property
    def pooled_piece(self) -> int:
        return int(self.model.config.text_config.eos_token_id)
