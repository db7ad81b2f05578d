"""Chinese-CLIP and AltCLIP: CLIP's picture tower, and a BERT whose first state is the text; a word has read all others."""

from jaxtyping import Bool, Int
from torch import Tensor

from aladin.exporting.encoders.clip import Projected
from aladin.exporting.encoders.towers import Read


class ChineseClip(Projected):
    """ChineseCLIPModel."""

    family = "chinese-clip"
    class_name = "ChineseCLIPModel"

    def read_texts(self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]) -> Read:
        read = self.model.text_model(input_ids=pieces, attention_mask=mask.long())
        states = self.model.text_projection(read.last_hidden_state)
        return Read(states[:, 0], states)


class AltClip(ChineseClip):
    """AltCLIPModel."""

    family = "altclip"
    class_name = "AltCLIPModel"

    @property
    def positions(self) -> int:
        text = self.model.config.text_config
        return int(text.max_position_embeddings) - int(text.pad_token_id) - 1  # counted from the one after padding's
