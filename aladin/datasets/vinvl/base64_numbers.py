"""Base64 of many numbers, decoded twice as fast as by the standard library, and without holding up other threads."""

import base64
import string

import numpy as np

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
WRONG = 0xFFFF  # where two characters are no base64; what they mean has 12 bits


def decoded(text: bytes) -> bytes:
    """What the text stands for; binascii.Error as of base64.b64decode(text, validate=True)."""
    pairs = np.frombuffer(text[:-4] if len(text) % 4 == 0 else b"", dtype="<u2")
    bits = _MEANING.take(pairs)  # of numpy, which lets other threads run meanwhile
    if not len(bits) or (bits == WRONG).any():
        return base64.b64decode(text, validate=True)
    first, second = bits[0::2], bits[1::2]
    bytes_ = np.empty((len(first), 3), dtype=np.uint8)
    bytes_[:, 0] = first >> 4
    bytes_[:, 1] = (first << 4) | (second >> 8)
    bytes_[:, 2] = second
    # Only the last four characters may be filled up.
    return bytes_.tobytes() + base64.b64decode(text[-4:], validate=True)


def _meaning_of_pairs() -> np.ndarray:
    """Of each two characters, as a little-endian number."""
    digits = np.full(256, WRONG, dtype=np.uint16)
    digits[list(DIGITS.encode())] = np.arange(64)
    pairs = np.arange(1 << 16)
    first, second = digits[pairs & 0xFF], digits[pairs >> 8]
    return np.where((first == WRONG) | (second == WRONG), np.uint16(WRONG), (first << 6) | second)


_MEANING = _meaning_of_pairs()
