"""Bits flipped in a collection's file, and all that the file says in spite of them."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def flips(count: int, length: int, seed: int) -> Iterator[tuple[int, int]]:
    """So many places in a file of that length, each a byte and a bit of it."""
    random = np.random.default_rng(seed)
    for position, bit in zip(random.integers(length, size=count), random.integers(8, size=count), strict=True):
        yield int(position), int(bit)


def flip(content: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1 << bit
    return bytes(changed)


def said(place: Path) -> list[object]:
    """Every value of every table."""
    connection = sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)
    connection.text_factory = bytes
    try:
        tables = ("meta", "images", "vectors", "tokens", "sqlite_sequence", "sqlite_master")
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    finally:
        connection.close()
