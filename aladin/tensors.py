"""Padded token sequences with their masks: the value that every encoder returns and every score takes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences, padded at the end; `mask` is True where the token is real.

    What stands in padded cells is unspecified; whoever reads `states` must read `mask` too.
    """

    states: Float[Tensor, "batch tokens dim"]
    mask: Bool[Tensor, "batch tokens"]

    def __len__(self) -> int:
        return self.states.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> "Tokens":
        return Tokens(self.states[rows], self.mask[rows])


def concatenate(parts: list[Tokens]) -> Tokens:
    """All rows of `parts` in order, padded to the longest of them with zeros."""
    longest = max(part.mask.shape[1] for part in parts)
    padded = [pad_tokens(part, longest) for part in parts]
    return Tokens(torch.cat([part.states for part in padded]), torch.cat([part.mask for part in padded]))


def pad_tokens(tokens: Tokens, length: int) -> Tokens:
    """The same rows with zero cells appended up to `length` tokens."""
    missing = length - tokens.mask.shape[1]
    assert missing >= 0, "padding never cuts"
    states = torch.nn.functional.pad(tokens.states, (0, 0, 0, missing))
    return Tokens(states, torch.nn.functional.pad(tokens.mask, (0, missing), value=False))
