"""The README.md of an added encoder's model folder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aladin import __version__
from aladin.encoder.config import ModelConfig
from aladin.exporting.model_card import STORED

if TYPE_CHECKING:
    from aladin.exporting.encoders.adding import Added


def card(config: ModelConfig, origin: Mapping[str, str], added: "Added", precision: str) -> str:
    """Where the encoder is from, its licence and sizes, how the graphs were checked, and what nobody has measured."""
    encoder, preprocessing, grid = config.encoder, config.preprocessing, config.image.grid
    revision = f", revision {origin['revision']}" if origin["revision"] else ""
    size, limit = f"{preprocessing.size} px a side ({preprocessing.fit})", preprocessing.caption_pieces
    return f"""# {origin["name"]} as an aladin model

An encoder of the family {encoder.family}, made a model folder by aladin {__version__}. Its weights are not aladin's work.

## Where it is from
- source: {origin["name"]}{revision}
- licence: {added.licence or "its card states none; ask its authors before you use it"}

## What is in it
- {added.bytes / 1e6:.1f} MB. {STORED[precision].replace("the transformer's matrices", "large matrices")}
- A vector has {encoder.dim} numbers; a picture has {grid} x {grid} regions, each of {config.heads.token_dim} numbers.
- Pictures are made {size}; a text has at most {limit} pieces.

## Checks
On made-up pictures and texts, against transformers' own forward pass: the full-precision graphs differ by at most
{added.difference:.1e} in any number, and vectors and tokens of these graphs have a cosine of at least {added.cosine:.5f}.

## What was not measured
No recall of this encoder was measured by aladin. Regions and words count {encoder.share:g} of a score, chosen on no
data: `aladin calibrate` chooses it on yours.
"""
