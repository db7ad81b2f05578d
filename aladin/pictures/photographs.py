"""What is known of a photograph once its file has been read: the values between decoding and the collection."""

import hashlib
from dataclasses import dataclass
from typing import Any

from aladin.pictures.listing import FileState
from aladin.pictures.pixels import Pixels


@dataclass(frozen=True)
class Photograph:
    """What a decoded file says of itself."""

    file: FileState
    sha256: bytes  # of the file; of one of its further pictures, what `further_content` makes of it
    width: int  # px, upright
    height: int
    taken: str | None  # as in ImageRow
    metadata: dict[str, Any] | None = None  # joins what the row has; a key that is None here is taken away there


def further_content(sha256: bytes, frame: int) -> bytes:
    """What stands for the content of a further picture of a file: the same in every copy of the file."""
    return hashlib.sha256(b"%s/%d" % (sha256, frame)).digest()


@dataclass(frozen=True)
class Decoded:
    """An image ready to be encoded."""

    photograph: Photograph
    pixels: Pixels
    further: tuple["Decoded", ...] = ()  # the other pictures of the same file that were asked for


@dataclass(frozen=True)
class Unreadable:
    """A file that gives no image; `vanished` ones are no longer there and get no row."""

    file: FileState
    reason: str
    vanished: bool = False
