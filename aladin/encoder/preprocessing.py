"""What is done to pictures and texts before a network reads them: one value for the decoder, for training and for search."""

from dataclasses import dataclass

from aladin.config import at_least
from aladin.pictures.fitting import Fit, Fitting, Resampling


@dataclass(frozen=True)
class Preprocessing:
    """The table [preprocessing] of model.toml."""

    size: int = 224  # px; a picture is made size x size
    fit: Fit = "squash"
    resampling: Resampling = "bicubic"
    mean: tuple[float, ...] = (127.0, 127.0, 127.0)  # of red, green and blue from 0 to 255; subtracted inside the network
    deviation: tuple[float, ...] = (128.0, 128.0, 128.0)  # then divides
    first_piece: str = "[CLS]"  # around every text
    last_piece: str = "[SEP]"
    caption_pieces: int = 50  # of a text, with both of these; the end of a longer one is not read

    def __post_init__(self) -> None:
        at_least(1, self, "size")
        at_least(2, self, "caption_pieces")

    @property
    def fitting(self) -> Fitting:
        """What the decoder, training and search do to a picture."""
        return Fitting(self.size, self.fit, self.resampling)
