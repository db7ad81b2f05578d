"""What clients see of an image's file: its path as text, and the version of its content."""

import os

from aladin.collection.store import ImageRow


def shown(path: str) -> str:
    """A path as text that every program takes: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def version(row: ImageRow) -> str:
    """What changes when the image's content does; each picture of a file has its own."""
    return row.sha256.hex()[:16] if row.sha256 else "0"
