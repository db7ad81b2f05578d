"""What is known of a photograph once its file has been read: the values between decoding and the collection."""

from dataclasses import dataclass
from typing import Any

from aladin.images import Pixels
from aladin.listing import FileState


@dataclass(frozen=True)
class Photograph:
    """What a decoded file says of itself."""

    file: FileState
    sha256: bytes
    width: int  # px, upright
    height: int
    taken: str | None  # as in ImageRow
    metadata: dict[str, Any] | None = None  # joins what the row has; a key that is None here is taken away there


@dataclass(frozen=True)
class Decoded:
    """An image ready to be encoded."""

    photograph: Photograph
    pixels: Pixels


@dataclass(frozen=True)
class Unreadable:
    """A file that gives no image; `vanished` ones are no longer there and get no row."""

    file: FileState
    reason: str
    vanished: bool = False
