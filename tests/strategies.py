"""Random batches for property tests."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from aladin.network.tensors import Tokens

DIM = 8


@dataclass(frozen=True)
class TokenBatch:
    """Images and captions of unequal lengths, as rows without padding and as padded tokens."""

    images: list[np.ndarray]
    captions: list[np.ndarray]

    @property
    def regions(self) -> Tokens:
        return padded(self.images)

    @property
    def words(self) -> Tokens:
        return padded(self.captions)


def padded(rows: list[np.ndarray], extra: int = 0) -> Tokens:
    """Rows padded with large numbers, which must never matter, to the longest plus `extra`."""
    length = max(1, *(len(row) for row in rows)) + extra
    states = torch.full((len(rows), length, DIM), 7.0)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for number, row in enumerate(rows):
        states[number, : len(row)] = torch.from_numpy(row)
        mask[number, : len(row)] = True
    return Tokens(states, mask)


@st.composite
def token_batches(draw: st.DrawFn, fewest_words: int = 0) -> TokenBatch:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)
    word_lengths = st.lists(st.integers(fewest_words, 5), min_size=1, max_size=4)

    def rows(counts: list[int]) -> list[np.ndarray]:
        return [unit_rows(random, count) for count in counts]

    return TokenBatch(rows(draw(lengths)), rows(draw(word_lengths)))


def unit_rows(random: np.random.Generator, count: int) -> np.ndarray:
    rows = random.normal(size=(count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class ScoreBatch:
    """A teacher's and a student's scores, and the image that owns each caption."""

    student: torch.Tensor
    teacher: torch.Tensor
    owners: list[int]

    @property
    def positives(self) -> torch.Tensor:
        return torch.arange(len(self.student))[:, None] == torch.tensor(self.owners)[None]


@st.composite
def score_batches(draw: st.DrawFn) -> ScoreBatch:
    """1 to 5 images that own 1 to 3 captions each, in any order."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    owners = draw(st.permutations([image for image, count in enumerate(counts) for _ in range(count)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    shape = (len(counts), len(owners))
    return ScoreBatch(
        torch.rand(shape, generator=generator) * 2 - 1, torch.rand(shape, generator=generator) * 2 - 1, list(owners)
    )
