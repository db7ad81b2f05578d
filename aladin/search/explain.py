"""Why an image has its score: which region each word chose, where it is in the picture, and what it added.

The shares of an explanation and what the picture adds as a whole are the score. Nothing is estimated: these are the numbers
that the score is made of.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from aladin.collection.tokens import token_blob, tokens_from_blobs
from aladin.encoder.encoder import Encoder
from aladin.errors import DataError
from aladin.pictures.boxes import Box
from aladin.pictures.frames import picture_name
from aladin.pictures.opening import open_with_size
from aladin.pictures.pixels import to_pixels
from aladin.search.alignment import best_regions, token_similarity
from aladin.search.query import EncodedPart, EncodedQuery, content_of_file


@dataclass(frozen=True)
class Share:
    """What one word of the query, or one region of a query image, adds to the score; or one region of the image that chose
    among those of the query image.
    """

    part: str  # of the query, as in `str(query)`
    word: str | None  # as it was typed
    query_box: Box | None  # in the query image
    box: Box  # in the image
    region: int  # of the image, in reading order
    similarity: float  # cosine with that region; of a word of several pieces, the piece that agrees most
    contribution: float  # below 0 for what is not wanted, and for what disagrees


@dataclass(frozen=True)
class Explanation:
    """The score, which is `whole` and all shares; these in the order of the query's parts and of their words."""

    score: float
    whole: float  # what no region adds by itself: how well picture and query agree as a whole, less how common they are
    shares: tuple[Share, ...]


def explain(
    query: EncodedQuery, regions: Float32[np.ndarray, "regions dim"], picture: Box, grid: int, token_dim: int
) -> Explanation:
    """Why the image with these region tokens, in a grid over the whole `picture`, has its alignment score.

    The first `token_dim` numbers of a token are its own. Those after them are the same in all tokens of an image or a text, but
    for what int8 makes of them; what they add is `whole`.
    """
    boxes = picture.cells(grid)
    whole, shares = 0.0, list[Share]()
    for part in query.parts:
        agreement = _Agreement.of(regions, part, token_dim)
        shares += _words(part, agreement, boxes) if part.words else _regions(part, agreement, boxes)
        whole += _whole(part, agreement)
    return Explanation(whole + sum(share.contribution for share in shares), whole, tuple(shares))


@dataclass(frozen=True)
class _Agreement:
    """Of each region with each word, or region of a query image."""

    similarity: Float32[np.ndarray, "regions words"]  # as the score has it; by it regions are chosen
    own: Float32[np.ndarray, "regions words"]  # of that, what both tokens have for themselves
    cosine: Float32[np.ndarray, "regions words"]

    @classmethod
    def of(cls, regions: Float32[np.ndarray, "regions dim"], part: EncodedPart, token_dim: int) -> "_Agreement":
        own_regions, own_words = regions[:, :token_dim], part.tokens[:, :token_dim]
        own = token_similarity(own_regions[None], own_words)[0]
        cosine = own / _lengths(own_regions)[:, None] / _lengths(own_words)
        return cls(token_similarity(regions[None], part.tokens)[0], own, cosine)

    @cached_property
    def regions(self) -> Int64[np.ndarray, " words"]:
        """The region that each word chooses."""
        return best_regions(self.similarity)[0]

    @cached_property
    def words(self) -> Int64[np.ndarray, " regions"]:
        """The word, or region of a query image, that each region chooses."""
        return best_regions(np.ascontiguousarray(self.similarity.T))[0]


def _lengths(tokens: Float32[np.ndarray, "tokens dim"]) -> Float32[np.ndarray, " tokens"]:
    lengths: Float32[np.ndarray, " tokens"] = np.linalg.norm(tokens, axis=1).clip(min=np.finfo(np.float32).tiny)
    return lengths


def explain_file(query: EncodedQuery, path: Path, encoder: Encoder, frame: int = 0) -> Explanation:
    """Why the image in a file, or a further picture of it, has its score: the same as a collection gives that has read it."""
    return explain_content(query, content_of_file(path), picture_name(str(path), frame), encoder, frame)


def explain_content(query: EncodedQuery, data: bytes, name: str, encoder: Encoder, frame: int = 0) -> Explanation:
    """The same of what a file contains; `name` stands for it in errors."""
    config = encoder.model.config
    settings = config.image
    image, size = open_with_size(data, name, settings.size, frame)
    encoded = encoder.encode_images(to_pixels(image, settings.size)[None])
    if not encoded.usable[0]:
        raise DataError(f"the model has no finite vector for {name}; give another image")
    # As a collection stores them, so that the score is that of a search to its last digit.
    stored = tokens_from_blobs([token_blob(encoded.regions[0])], config.heads.encoded_token_dim)
    return explain(query, stored.restored()[0], Box(0, 0, *size), settings.grid, config.heads.token_dim)


def _whole(part: EncodedPart, agreement: _Agreement) -> float:
    """What the numbers that tokens share add, wherever a region was chosen."""
    common = agreement.similarity - agreement.own
    regions, words = common.shape
    by_word = common[agreement.regions, np.arange(words)].sum(dtype=np.float64)
    by_region = common[np.arange(regions), agreement.words].sum(dtype=np.float64)
    return part.weight * float(part.pooling.per_word(words) * by_word + part.pooling.per_region(regions) * by_region)


def _words(part: EncodedPart, agreement: _Agreement, boxes: tuple[Box, ...]) -> list[Share]:
    chosen, places = agreement.regions, np.arange(len(part.tokens))
    best, own = agreement.similarity[chosen, places], agreement.own[chosen, places]
    factor = part.weight * part.pooling.per_word(len(best))
    shares = []
    for word in part.words:
        piece = max(word.pieces, key=lambda piece: best[piece])
        region, total = int(chosen[piece]), float(own[list(word.pieces)].sum(dtype=np.float64))
        cosine = float(agreement.cosine[region, piece])
        shares.append(Share(part.name, word.text, None, boxes[region], region, cosine, factor * total))
    return shares


def _regions(part: EncodedPart, agreement: _Agreement, boxes: tuple[Box, ...]) -> list[Share]:
    """First what each region of the query image chose; then, where both sides choose, what each region of the image did."""

    def share(region: int, place: int, factor: float) -> Share:
        cosine, own = float(agreement.cosine[region, place]), float(agreement.own[region, place])
        return Share(part.name, None, part.boxes[place], boxes[region], region, cosine, factor * own)

    factor = part.weight * part.pooling.per_word(len(agreement.regions))
    shares = [share(region, place, factor) for place, region in enumerate(agreement.regions.tolist())]
    factor = part.weight * part.pooling.per_region(len(agreement.words))
    if factor:
        shares += [share(region, place, factor) for region, place in enumerate(agreement.words.tolist())]
    return shares


def by_region(explanation: Explanation) -> dict[int, float]:
    """What each region of the image, of those that were chosen, adds in all."""
    sums: dict[int, float] = defaultdict(float)
    for share in explanation.shares:
        sums[share.region] += share.contribution
    return dict(sums)
