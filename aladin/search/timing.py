"""Where the time of a search goes."""

import dataclasses
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Seconds:
    """What each stage of one search took."""

    encode: float  # the query
    nearest: float  # stage 1, with the condition
    gather: float  # tokens from the disk
    align: float  # stage 2


class Clock:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds = {stage.name: 0.0 for stage in dataclasses.fields(Seconds)}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What has passed since the last lap belongs to this stage."""
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now
