"""What the original code does and ours does not, each by its name in [quirks] of model.toml (spec, sections 1.3, 1.5 and 2).

The released weights were trained with all of them, so a converted model has them; own training has none.

- `image_first_token = "[UNK]"`: an image's tags are preceded by [UNK], not [CLS]. The original puts the integer 0 in a list
  of tokens, and its tokenizer takes whatever it does not know for [UNK].
- `region_as_cls`: the first region of the file stands for the image, as [CLS] stands for the caption. The matching head is
  read there, the alignment head leaves that region out, and the state of the first token is not used.
- `last_piece_dropped`: the alignment head leaves out a caption's last word piece, as a rule its full stop.
- `zero_padding`: padded cells of the similarity matrix are 0, and in evaluation there always are some, so the best of a word
  or region is never below 0.
- `equal_layers`: the layers of a fresh matching head start from the same weights, since torch's TransformerEncoder copies the
  one that it is given.
"""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from aladin.encoder.config import ModelConfig, QuirksConfig
from aladin.encoder.pooling import POOLINGS
from aladin.network.heads import AlignmentHead
from aladin.network.tensors import Tokens

RELEASED = QuirksConfig(
    image_first_token="[UNK]", region_as_cls=True, last_piece_dropped=True, zero_padding=True, equal_layers=True
)


class OriginalAlignmentHead(AlignmentHead):
    """The alignment head with `last_piece_dropped` and `zero_padding` as the quirks say."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.heads, config.backbone.dim)
        self._drops_last = config.quirks.last_piece_dropped
        self._pads_regions = config.quirks.zero_padding
        # A zero word changes no other pooling but MrAVGw, where it would count as a word.
        self._pads_words = config.quirks.zero_padding and POOLINGS[config.heads.pooling].regions_choose

    def words(self, encoded: Tokens) -> Tokens:
        """The word pieces of a caption, with a zero in [CLS]'s place where padding can win."""
        words = super().words(encoded)
        if self._drops_last:
            words = Tokens(words.states, words.mask & pad(words.mask[:, 1:], (0, 1)))
        return _zero_first(words) if self._pads_words else words

    def regions(self, encoded: Tokens) -> Tokens:
        """The regions of an image, with a zero in place of the first token where padding can win."""
        regions = super().regions(encoded)
        return _zero_first(regions) if self._pads_regions else regions


def alignment_head(config: ModelConfig) -> AlignmentHead:
    """The alignment head that the settings ask for."""
    if config.quirks.last_piece_dropped or config.quirks.zero_padding:
        return OriginalAlignmentHead(config)
    return AlignmentHead(config.heads, config.backbone.dim)


def image_states(encoded: Tokens, quirks: QuirksConfig) -> Tokens:
    """The backbone's states of an image as the heads read them: the one that stands for the image first."""
    if not quirks.region_as_cls:
        return encoded
    return Tokens(encoded.states[:, 1:], encoded.mask[:, 1:])


def _zero_first(tokens: Tokens) -> Tokens:
    """A token of zeros before the others: its similarity is 0 to everything, as that of the original's padded cells.

    Being real it also keeps the score of an image without regions at 0, the original's, instead of -inf.
    """
    states: Float[Tensor, "batch longer dim"] = pad(tokens.states, (0, 0, 1, 0))
    mask: Bool[Tensor, "batch longer"] = pad(tokens.mask, (1, 0), value=True)
    return Tokens(states, mask)
