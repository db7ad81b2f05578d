"""How the similarities of regions and words become one score: what search, evaluation and the network know of each pooling.

All but three poolings are one formula. Every word takes its best region, every region its best word, and

    score = words * (sum or mean over words) + regions * (sum or mean over regions).

`sum`, `mean` and `scan-sentences` are of another form, which `aladin.network.scores` alone knows. A further pooling of this
formula is one line of `POOLINGS` and one name in `aladin.encoder.config.Pooling`.
"""

from dataclasses import dataclass

from aladin.encoder.config import Pooling
from aladin.errors import ModelError


@dataclass(frozen=True)
class PoolingMode:
    """One pooling as two weights: of the words' best regions, and of the regions' best words."""

    words: float = 0.0
    regions: float = 0.0
    mean: bool = False  # over words and over regions, instead of their sums

    @property
    def words_add(self) -> bool:
        """Whether a score is what its words add and nothing else: then captions need no padding, and each word has a share."""
        return self.words > 0 and not self.regions

    @property
    def regions_choose(self) -> bool:
        """Whether regions take their best words, so that a padded word could be one."""
        return self.regions > 0

    def per_word(self, words: int) -> float:
        """What the similarity of one word and its best region adds to a score, for a text of so many words."""
        return self.words / max(words, 1) if self.mean else self.words

    def per_region(self, regions: int) -> float:
        """What the similarity of one region and its best word adds, for an image of so many regions."""
        return self.regions / max(regions, 1) if self.mean else self.regions


OTHER_FORM = PoolingMode()
POOLINGS: dict[Pooling, PoolingMode] = {
    "MrSw": PoolingMode(words=1.0),  # the paper's choice
    "MrAVGw": PoolingMode(words=1.0, mean=True),  # long captions gain nothing
    "MwSr": PoolingMode(regions=1.0),
    "symm": PoolingMode(words=1.0, regions=1.0),
    "sum": OTHER_FORM,
    "mean": OTHER_FORM,
    "scan-sentences": OTHER_FORM,
}
MUTUAL = PoolingMode(words=0.5, regions=0.5, mean=True)  # of two images, which no model learns by
SEARCHABLE = tuple(name for name, mode in POOLINGS.items() if mode.words_add)  # those whose hits can be explained by words


def searchable(pooling: Pooling) -> PoolingMode:
    """The pooling by which a model is searched; ModelError for one that search does not know."""
    if pooling not in SEARCHABLE:
        raise ModelError(f"the model scores by {pooling}, and search knows {' and '.join(SEARCHABLE)}; train one of those")
    return POOLINGS[pooling]
