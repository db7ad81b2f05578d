"""What is done to pictures and texts before a network reads them: one value for the decoder, for training and for search."""

from dataclasses import dataclass, field

from aladin.config import IF_CHANGED, at_least, is_finite
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
    exact: bool = field(default=False, metadata=IF_CHANGED)  # of pictures, as `Fitting.exact`
    mean: tuple[float, ...] = (MEAN,) * 3  # of red, green and blue from 0 to 255; subtracted inside the network
    deviation: tuple[float, ...] = (DEVIATION,) * 3  # then divides
    first_piece: str = "[CLS]"  # around every text; "": none
    last_piece: str = "[SEP]"
    caption_pieces: int = 50  # of a text, with both of these; the end of a longer one is not read
    lower_case: bool = field(default=False, metadata=IF_CHANGED)  # texts, before the tokenizer does what it says itself
    pad_to: int = field(default=0, metadata=IF_CHANGED)  # pieces, always; 0: each text has its own length
    pad_piece: str = field(default="", metadata=IF_CHANGED)  # that fills it up

    def __post_init__(self) -> None:
        at_least(1, self, "size")
        at_least(2, self, "caption_pieces")
        at_least(0, self, "pad_to")
        for name, most in (("size", MAX_SIZE), ("caption_pieces", MAX_PIECES), ("pad_to", MAX_PIECES)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at most {most}")
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            if len(values) != 3 or not all(map(is_finite, values)):
                raise ConfigError(f"{name} is {list(values)}; expected three finite numbers, of red, green and blue")
        if not min(self.deviation) > 0:
            raise ConfigError(f"deviation is {list(self.deviation)}; expected three numbers of more than 0")
        for name in ("first_piece", "last_piece"):
            piece = getattr(self, name)
            if piece and not piece.strip():
                raise ConfigError(f"{name} is {piece!r}; expected a piece of the tokenizer, such as [CLS]")
        self._check_padding()

    def _check_padding(self) -> None:
        if self.pad_to and (self.pad_to < self.caption_pieces or not self.pad_piece):
            raise ConfigError(
                f"pad_to is {self.pad_to}, caption_pieces {self.caption_pieces} and pad_piece {self.pad_piece!r}; expected no "
                "fewer than the pieces of a text, and the piece that fills it up"
            )
        if not (self.pad_to or self.first_piece or self.last_piece):
            raise ConfigError("first_piece, last_piece and pad_to are all left empty, so a text could be; name one of them")

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
        return Fitting(self.size, self.fit, self.resampling, self.exact)


OWN = Preprocessing()  # what aladin's own models do to pictures and texts unless they say otherwise
