"""TIPSv2: a text is the mean of its words, and patches were trained to agree with texts, so nothing is projected."""

from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from aladin.exporting.encoders.towers import Probability, Read, Towers


class Tipsv2(Towers):
    """Tipsv2Model. Its picture vector is the first token, which learned from the web's texts; the next learned from others."""

    family = "tipsv2"
    class_name = "Tipsv2Model"
    lower_case = True
    absent = ("temperature",)
    pictures: ClassVar = {"size": {"height": 448, "width": 448}, "resample": 2, "do_normalize": False}

    def read_images(self, pixels: Float[Tensor, "images 3 size size"]) -> Read:
        read = self.model.vision_model(pixel_values=pixels)
        before = 1 + int(self.model.config.vision_config.num_register_tokens)
        return Read(read.pooler_output, read.last_hidden_state[:, before:])

    def regions(self, cells: Float[Tensor, "images cells hidden"]) -> Float[Tensor, "images cells dim"]:
        return cells

    def read_texts(self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]) -> Read:
        read = self.model.text_model(input_ids=pieces, attention_mask=mask.long())
        return Read(read.pooler_output, read.last_hidden_state)

    @property
    def padded_to(self) -> int:
        return self.positions  # there are no special pieces, and a graph takes no text of no pieces

    @property
    def probability(self) -> Probability:
        return Probability(scale=1 / float(self.model.temperature))
