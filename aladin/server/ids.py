"""Public ids: what clients call an image instead of its id in the collection or its path.

The stored id is turned by a Feistel network of four rounds, keyed by where the collection is. So an id says nothing, cannot be
counted through, and stays the same as long as the collection stays where it is. It is a name and no secret.
"""

import base64
import hashlib
from pathlib import Path

PATTERN = "^[a-z2-7]{13}$"
ROUNDS = 4
HALF = 0xFFFFFFFF
MOST = 1 << 40  # ids; what decodes to more was never given out


class PublicIds:
    """Stored ids to public ones and back."""

    def __init__(self, file: Path) -> None:
        self._key = hashlib.blake2b(str(file.resolve()).encode("utf-8", "surrogateescape"), person=b"aladin-ids").digest()

    def of(self, stored: int) -> str:
        left, right = stored >> 32, stored & HALF
        for turn in range(ROUNDS):
            left, right = right, left ^ self._mixed(turn, right)
        return base64.b32encode((left << 32 | right).to_bytes(8, "big")).decode().rstrip("=").lower()

    def stored(self, text: str) -> int | None:
        """The stored id of a public one; None when it was never given out."""
        try:
            value = int.from_bytes(base64.b32decode(text.upper() + "==="), "big")
        except ValueError:
            return None
        left, right = value >> 32, value & HALF
        for turn in reversed(range(ROUNDS)):
            left, right = right ^ self._mixed(turn, left), left
        stored = left << 32 | right
        return stored if 0 < stored < MOST and self.of(stored) == text else None

    def _mixed(self, turn: int, half: int) -> int:
        data = bytes([turn]) + half.to_bytes(4, "big")
        return int.from_bytes(hashlib.blake2b(data, key=self._key, digest_size=4).digest(), "big")
