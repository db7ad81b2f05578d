"""What is done to pictures and texts before a network reads them: one value for the decoder, for training and for search."""

from dataclasses import dataclass

from aladin.config import at_least, is_finite
from aladin.errors import ConfigError
from aladin.pictures.fitting import Fit, Fitting, Resampling

MEAN, DEVIATION = 127.0, 128.0  # by which the image networks' pixels were normalised when they were trained
MAX_SIZE = 4096  # px; far beyond any image network
MAX_PIECES = 4096


@dataclass(frozen=True)
class Preprocessing:
    """The table [preprocessing] of model.toml."""

    size: int = 224  # px; a picture is made size x size
    fit: Fit = "squash"
    resampling: Resampling = "bicubic"
    mean: tuple[float, ...] = (MEAN,) * 3  # of red, green and blue from 0 to 255; subtracted inside the network
    deviation: tuple[float, ...] = (DEVIATION,) * 3  # then divides
    first_piece: str = "[CLS]"  # around every text
    last_piece: str = "[SEP]"
    caption_pieces: int = 50  # of a text, with both of these; the end of a longer one is not read

    def __post_init__(self) -> None:
        at_least(1, self, "size")
        at_least(2, self, "caption_pieces")
        for name, most in (("size", MAX_SIZE), ("caption_pieces", MAX_PIECES)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at most {most}")
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            if len(values) != 3 or not all(map(is_finite, values)):
                raise ConfigError(f"{name} is {list(values)}; expected three finite numbers, of red, green and blue")
        if not min(self.deviation) > 0:
            raise ConfigError(f"deviation is {list(self.deviation)}; expected three numbers of more than 0")
        for name in ("first_piece", "last_piece"):
            if not getattr(self, name).strip():
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected a piece of the tokenizer, such as [CLS]")

    def check_normalisation(self) -> None:
        """ConfigError for pixels that the image networks do not understand: they know one mean and one deviation."""
        if (self.mean, self.deviation) != ((MEAN,) * 3, (DEVIATION,) * 3):
            raise ConfigError(
                f"mean and deviation in [preprocessing] are {list(self.mean)} and {list(self.deviation)}, but the image "
                f"networks were trained with {MEAN} and {DEVIATION} for every colour; set them to these, or leave them out"
            )

    @property
    def fitting(self) -> Fitting:
        """What the decoder, training and search do to a picture."""
        return Fitting(self.size, self.fit, self.resampling)
