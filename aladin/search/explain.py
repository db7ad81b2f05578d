"""Why an image has its score: which region each word chose, where it is in the picture, and what it added.

The shares of an explanation and what the picture adds as a whole are the score. Nothing is estimated: these are the numbers
that the score is made of.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from aladin.collection.tokens import token_blob, tokens_from_blobs
from aladin.encoder.composition import composed
from aladin.encoder.encoder import Encoder
from aladin.errors import DataError
from aladin.pictures.boxes import Box
from aladin.pictures.frames import picture_name
from aladin.pictures.opening import open_with_size
from aladin.pictures.pixels import to_pixels
from aladin.search.alignment import Alignment, Choices, token_similarity
from aladin.search.encoding import EncodedPart, EncodedQuery
from aladin.search.image_files import content_of_file


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
    query: EncodedQuery, regions: Float32[np.ndarray, "regions dim"], boxes: tuple[Box, ...], token_dim: int
) -> Explanation:
    """Why the image with these region tokens, which stand in these boxes, has its alignment score.

    The first `token_dim` numbers of a token are its own. Those after them are the same in all tokens of an image or a text, but
    for what int8 makes of them; what they add is `whole`.
    """
    found = [
        Alignment.of(token_similarity(regions[None], part.tokens)[0], regions, part.tokens, token_dim, part.pooling)
        for part in query.parts
    ]
    return explanation_of(query, found, boxes)


def explanation_of(query: EncodedQuery, alignments: Sequence[Alignment], boxes: tuple[Box, ...]) -> Explanation:
    """The same from what each part of the query and the image chose in each other."""
    whole, shares = 0.0, list[Share]()
    for part, alignment in zip(query.parts, alignments, strict=True):
        shares += _words(part, alignment, boxes) if part.words else _regions(part, alignment, boxes)
        whole += _whole(part, alignment)
    return Explanation(whole + sum(share.contribution for share in shares), whole, tuple(shares))


def explain_file(query: EncodedQuery, path: Path, encoder: Encoder, frame: int = 0) -> Explanation:
    """Why the image in a file, or a further picture of it, has its score: the same as a collection gives that has read it."""
    return explain_content(query, content_of_file(path), picture_name(str(path), frame), encoder, frame)


def explain_content(query: EncodedQuery, data: bytes, name: str, encoder: Encoder, frame: int = 0) -> Explanation:
    """The same of what a file contains; `name` stands for it in errors."""
    config = encoder.model.config
    image, size = open_with_size(data, name, config.preprocessing.fitting.draft_size, frame)
    encoded = encoder.encode_images(to_pixels(image, config.preprocessing.fitting)[None])
    if not encoded.usable[0]:
        raise DataError(f"the model has no finite vector for {name}; give another image")
    # As a collection stores them, so that the score is that of a search to its last digit.
    stored = tokens_from_blobs([token_blob(encoded.regions[0])], config.heads.encoded_token_dim).restored()
    regions = composed(stored, encoded.vectors.astype(np.float16).astype(np.float32), config.encoder)[0]
    return explain(query, regions, config.region_boxes(Box(0, 0, *size)), config.heads.token_dim)


def _whole(part: EncodedPart, alignment: Alignment) -> float:
    """What the numbers that tokens share add, wherever a region was chosen."""
    by_word, factor = _shared(alignment.of_words), part.pooling.per_word(len(part.tokens))
    if alignment.of_regions is None:
        return part.weight * float(factor * by_word)
    of_regions = alignment.of_regions
    return part.weight * float(factor * by_word + part.pooling.per_region(len(of_regions.taken)) * _shared(of_regions))


def _shared(choices: Choices) -> float:
    return float((choices.similarity - choices.unshared).sum(dtype=np.float64))


def _words(part: EncodedPart, alignment: Alignment, boxes: tuple[Box, ...]) -> list[Share]:
    chosen = alignment.of_words
    factor = part.weight * part.pooling.per_word(len(part.tokens))
    shares = []
    for word in part.words:
        piece = max(word.pieces, key=lambda piece: chosen.similarity[piece])
        region, total = int(chosen.taken[piece]), float(chosen.unshared[list(word.pieces)].sum(dtype=np.float64))
        shares.append(Share(part.name, word.text, None, boxes[region], region, float(chosen.cosine[piece]), factor * total))
    return shares


def _regions(part: EncodedPart, alignment: Alignment, boxes: tuple[Box, ...]) -> list[Share]:
    """First what each region of the query image chose; then, where both sides choose, what each region of the image did."""

    def share(asked: int, region: int, choices: Choices, position: int, factor: float) -> Share:
        cosine, adds = float(choices.cosine[position]), factor * float(choices.unshared[position])
        return Share(part.name, None, part.boxes[asked], boxes[region], region, cosine, adds)

    chosen, of_regions = alignment.of_words, alignment.of_regions
    factor = part.weight * part.pooling.per_word(len(part.tokens))
    shares = [share(asked, region, chosen, asked, factor) for asked, region in enumerate(chosen.taken.tolist())]
    if of_regions is not None:
        factor = part.weight * part.pooling.per_region(len(of_regions.taken))
        shares += [share(asked, region, of_regions, region, factor) for region, asked in enumerate(of_regions.taken.tolist())]
    return shares


def by_region(explanation: Explanation) -> dict[int, float]:
    """What each region of the image, of those that were chosen, adds in all."""
    sums: dict[int, float] = defaultdict(float)
    for share in explanation.shares:
        sums[share.region] += share.contribution
    return dict(sums)
