"""Where and how one training run computes."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

from aladin.evaluation.encoding import precision_context

Precision = Literal["bf16", "fp32"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Run:
    """One process of a run: `world` of them share the work, told apart by `rank`. Today there is one, on the processor."""

    precision: Precision = "bf16"
    device: torch.device = CPU
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world, "each process has a rank of its own"
        assert self.world == 1, "nothing shares out the steps of a run yet"

    @property
    def writes(self) -> bool:
        """Whether this process writes to the run's folder; one of them does."""
        return self.rank == 0

    def context(self) -> AbstractContextManager[object]:
        """Within it matrix products are computed as `precision` says."""
        return precision_context(self.precision)
