"""How much regions and words count in the scores of an added encoder, chosen on images with captions.

Its regions and words never learned to be compared with one another, so that they may help or harm. The share is judged by the
rsum of alignment; a share of 0 is the encoder's plain cosine.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from aladin.encoder.encoder import Encoder
from aladin.evaluation.encoding import EncodedData, EncodedSet
from aladin.evaluation.scoring import alignment_matrix
from aladin.files import write_whole
from aladin.measures.recalls import rsum
from aladin.network.run import Run
from aladin.network.tensors import Tokens

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
HALF = 0.5  # at which the data are encoded, so that both parts are there


def with_share(encoder: Encoder, share: float) -> Encoder:
    """The same encoder with another share of regions."""
    config = encoder.model.config
    changed = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, share=share))
    return Encoder(dataclasses.replace(encoder.model, config=changed))


def rsum_by_share(encoded: EncodedData, token_dim: int, run: Run) -> dict[float, float]:
    """The rsum of alignment at each share, of data that were encoded at a share of a half."""
    regions, words = (
        Tokens(side.tokens.states[..., :token_dim], side.tokens.mask) for side in (encoded.images, encoded.captions)
    )
    alignment = alignment_matrix(regions, words, "MrAVGw", device=run.device).numpy() / HALF
    cosine = encoded.matching_scores()
    return {share: rsum(share * alignment + (1 - share) * cosine, encoded.owners) for share in SHARES}


def best_share(judged: Mapping[float, float]) -> float:
    """The share of the highest rsum, of equal ones the lowest."""
    return min(judged, key=lambda share: (-judged[share], share))


def at_share(encoded: EncodedData, token_dim: int, share: float) -> EncodedData:
    """Data that were encoded at a share of a half as they are at another."""

    def changed(side: EncodedSet) -> EncodedSet:
        factors = torch.full(side.tokens.states.shape[-1:], ((1 - share) / (1 - HALF)) ** 0.5)
        factors[:token_dim] = (share / HALF) ** 0.5
        return EncodedSet(side.vectors, Tokens(side.tokens.states * factors, side.tokens.mask))

    return dataclasses.replace(encoded, images=changed(encoded.images), captions=changed(encoded.captions))


def write_share(model: Path, share: float) -> None:
    """Put the share into [encoder] of the folder's model.toml; the rest of the file stays as it is."""
    path = model / "model.toml"
    text = path.read_text(encoding="utf-8")
    write_whole(path, re.sub(r"(?ms)(^\[encoder\]\n)(.*?)(?=^\[|\Z)", lambda found: _stated(found, share), text))


def _stated(table: "re.Match[str]", share: float) -> str:
    kept = re.sub(r"(?m)^share *=.*\n", "", table[2])
    return f"{table[1]}share = {share}\n{kept}"
