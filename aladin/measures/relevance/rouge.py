"""ROUGE-L of every caption against every image's captions, fast enough for 25,000 x 5,000 on one core."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from aladin.errors import ConfigError

BETA = 1.2  # recall counts more than precision, as in the COCO caption evaluation
FIRST_LETTER = 0x10000  # beyond the surrogates; Python strings hold a million letters from here


class RougeL:
    """ROUGE-L F of a caption against the captions of an image: the longest common subsequence of their words.

    Words are lower-cased and parted by single spaces, as in the code of the paper and of the COCO caption evaluation. So two
    spaces have an empty word between them, a space at an end has one beyond it, and a tab is part of a word.
    Precision is the best over the image's captions, recall is the best over them, and F = (1 + b^2) P R / (R + b^2 P) with
    b = 1.2.
    `owners` is each caption's image row, ascending, and every image has captions.
    """

    def __init__(self, captions: Sequence[str], owners: Int[np.ndarray, " captions"]) -> None:
        words: dict[str, str] = {}
        # A word becomes one letter, so that the library compares captions as it compares strings.
        self._captions = [
            "".join(words.setdefault(word, chr(FIRST_LETTER + len(words))) for word in caption.lower().split(" "))
            for caption in captions
        ]
        self._lengths = np.array([len(caption) for caption in self._captions], dtype=np.float32)
        self._first = np.flatnonzero(np.diff(owners, prepend=-1))

    def rows(self, asked: slice) -> Float32[np.ndarray, "asked images"]:
        """The relevance of all images to these captions."""
        try:
            from rapidfuzz.distance import LCSseq
            from rapidfuzz.process import cdist
        except ModuleNotFoundError:
            raise ConfigError(
                "ROUGE-L needs the package rapidfuzz, which is not installed; run pip install 'aladin[protocols]'"
            ) from None
        common = cdist(self._captions[asked], self._captions, scorer=LCSseq.similarity, dtype=np.uint16, workers=-1)
        shared = common.astype(np.float32)
        precision = np.maximum.reduceat(shared, self._first, axis=1) / self._lengths[asked, None]
        recall = np.maximum.reduceat(shared / self._lengths, self._first, axis=1)
        # No word in common makes both 0; the smallest number stands for 0/0.
        bottom = np.maximum(recall + BETA**2 * precision, np.finfo(np.float32).tiny)
        score: Float32[np.ndarray, "asked images"] = (1 + BETA**2) * precision * recall / bottom
        return score.astype(np.float32)
