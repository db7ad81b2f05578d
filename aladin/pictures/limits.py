"""What reading one picture may cost: processes, time, memory, pictures of one file."""

import os
from dataclasses import dataclass

MIN_DECODE_MB = 192  # a decoding process below that cannot read ordinary photographs
COMFORTABLE_DECODE_MB = 512  # with less for each, fewer processes decode instead
ENCODING_MB = 448  # what the process itself needs beside its decoders: ONNX Runtime, the network, one batch
MOST_FRAMES = 100  # of one file: their pixels are held at once


@dataclass(frozen=True)
class DecodingLimits:
    """How many processes decode, and what each may use."""

    workers: int
    seconds: float  # for one file
    memory_mb: int  # for each

    @classmethod
    def below(cls, ceiling_mb: int, workers: int, seconds: float, memory_mb: int) -> "DecodingLimits":
        """The limits under a ceiling (0: none) for this process and its decoders, which share what encoding leaves.

        Without workers there is one a core; below a ceiling fewer, so that each has enough.
        """
        workers = workers or os.cpu_count() or 1
        if not ceiling_mb:
            return cls(workers, seconds, memory_mb)
        left = max(ceiling_mb - ENCODING_MB, MIN_DECODE_MB)
        workers = max(1, min(workers, left // COMFORTABLE_DECODE_MB))
        return cls(workers, seconds, min(memory_mb, left // workers))
