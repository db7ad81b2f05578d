"""How a folder is read into its collection."""

from dataclasses import dataclass

from aladin.config import above_zero, at_least
from aladin.errors import ConfigError
from aladin.pictures.limits import ENCODING_MB, MIN_DECODE_MB, MOST_FRAMES, DecodingLimits


@dataclass(frozen=True)
class IndexConfig:
    """How a folder is read into its collection."""

    batch_images: int = 8  # encoded at once and committed at once; what a killed run repeats is at most that
    workers: int = 0  # processes that decode; 0: one a core
    decode_seconds: float = 20.0  # for one file, on the clock
    decode_memory_mb: int = 2048  # of each decoding process
    max_memory_mb: int = 0  # of this process and its decoders together, see DecodingLimits; 0: no ceiling
    follow_symlinks: bool = False  # links may lead out of the folder
    confirm_deletes: bool = False  # forget the images whose files are gone
    retry_failed: bool = False  # read files again that could not be read before
    frames: int = 0  # pictures of a file that holds several; 0: as many as the collection has been told before, at first 1

    def __post_init__(self) -> None:
        at_least(1, self, "batch_images")
        at_least(0, self, "workers", "max_memory_mb", "frames")
        if self.frames > MOST_FRAMES:
            raise ConfigError(f"frames is {self.frames}; expected at most {MOST_FRAMES}")
        at_least(MIN_DECODE_MB, self, "decode_memory_mb")
        above_zero(self, "decode_seconds")
        least = ENCODING_MB + MIN_DECODE_MB
        if 0 < self.max_memory_mb < least:
            raise ConfigError(f"the memory ceiling is {self.max_memory_mb} MB; expected at least {least} MB, or none")

    @property
    def decoding_limits(self) -> DecodingLimits:
        """What the decoding processes may use, so that the settings are kept."""
        return DecodingLimits.below(self.max_memory_mb, self.workers, self.decode_seconds, self.decode_memory_mb)
