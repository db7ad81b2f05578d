"""Padded token sequences with their masks: the value that every encoder returns and every score takes."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Value = TypeVar("Value")


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences, padded at the end; `mask` is True where the token is real.

    What stands in padded cells is unspecified; whoever reads `states` must read `mask` too.
    """

    states: Float[Tensor, "batch tokens dim"]
    mask: Bool[Tensor, "batch tokens"]

    def __len__(self) -> int:
        return self.states.shape[0]

    @property
    def padding_bias(self) -> Float[Tensor, "batch tokens"]:
        """What attention adds to its scores so that nobody looks at padding."""
        bias = torch.zeros(self.mask.shape, dtype=self.states.dtype, device=self.states.device)
        # The lowest finite number, not -inf: a row without any real token must not turn into NaN.
        return bias.masked_fill(~self.mask, torch.finfo(torch.bfloat16).min)

    def __getitem__(self, rows: slice | Tensor) -> "Tokens":
        return Tokens(self.states[rows], self.mask[rows])


@dataclass(frozen=True)
class Regions:
    """A batch of images' regions, padded at the end: what each looks like and where it is; `mask` is True where it is real.

    A box is x1, y1, x2, y2, width and height as shares of the image; a backbone may do without.
    """

    features: Float[Tensor, "batch regions features"]
    boxes: Float[Tensor, "batch regions numbers"]
    mask: Bool[Tensor, "batch regions"]

    def __len__(self) -> int:
        return self.features.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> "Regions":
        return Regions(self.features[rows], self.boxes[rows], self.mask[rows])

    @property
    def tokens(self) -> Tokens:
        """Features with their boxes behind them, in one row a region."""
        return Tokens(torch.cat([self.features, self.boxes], dim=-1), self.mask)

    def kept(self, numbers: Int[Tensor, "batch kept"]) -> "Regions":
        """Of each image only the regions of these numbers, in that order."""

        def chosen(rows: Tensor) -> Tensor:
            return rows.gather(1, numbers[:, :, None].expand(-1, -1, rows.shape[-1]))

        return Regions(chosen(self.features), chosen(self.boxes), self.mask.gather(1, numbers))


@dataclass(frozen=True)
class ImageInput:
    """Images as the transformer reads them: tag pieces, the first token and [SEP] around them, and regions."""

    tags: Int[Tensor, "images tags"]
    tag_mask: Bool[Tensor, "images tags"]
    regions: Regions

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, rows: slice | Tensor) -> "ImageInput":
        return ImageInput(self.tags[rows], self.tag_mask[rows], self.regions[rows])


def lengthened(
    vectors: Float[Tensor, "batch dim"], tokens: Tokens, share: float, added: Float[Tensor, "batch more"]
) -> tuple[Float[Tensor, "batch longer"], Tokens]:
    """Vectors and tokens of length 1 with `added` behind them, the same in all tokens of an item; of length 1 as before if the
    squares of `added` sum up to `share`.
    """
    own = math.sqrt(1 - share)
    every = added[:, None].expand(-1, tokens.states.shape[1], -1)
    states = torch.cat([tokens.states * own, every], dim=2)
    return torch.cat([vectors * own, added], dim=1), Tokens(states, tokens.mask)


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


def each_tensor(value: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """A tensor as `change` makes it; of a dataclass another one with all its tensors so, and those of its dataclasses."""
    return cast(Value, _changed(value, change))


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    parts = {name: part for name, part in held.items() if isinstance(part, Tensor) or dataclasses.is_dataclass(part)}
    return dataclasses.replace(value, **{name: _changed(part, change) for name, part in parts.items()})
