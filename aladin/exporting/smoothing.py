"""The transformer's channels evened out, so that products in int8 lose little of them."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.encoder.word_pieces import WordPieces
from aladin.network.model import Aladin

EVENED = "evened"  # the buffer of a block: what its input is multiplied by


@torch.no_grad()
def smoothed(model: Aladin, tokenizer: WordPieces) -> Aladin:
    """The same function, with less between the largest and the smallest channel of what its matrices multiply.

    A few channels of BERT's states are ten times the others, whatever is read; in int8 that leaves the others few steps. So
    states are divided, channel by channel, before they enter a layer's matrices, and the matrices' columns are multiplied
    instead, by as much as makes the channel no larger than the column (SmoothQuant, Xiao et al. 2023, with alpha = 1/2).
    """
    result = copy.deepcopy(model)
    readers = result.backbone.normalised_readers()
    largest = _largest_states(result, list(readers), tokenizer)
    for block, linears in readers.items():
        column = torch.stack([linear.weight.abs().amax(dim=0) for linear in linears]).amax(dim=0)
        divisor = (largest[block].clamp(min=1e-3) / column.clamp(min=1e-5)).sqrt()
        for linear in linears:
            linear.weight *= divisor
        block.register_buffer(EVENED, 1 / divisor)
        block.register_forward_pre_hook(_scale_input)
    return result


def channel_factors(model: Aladin) -> dict[str, Float[Tensor, " dim"]]:
    """Of a smoothed model, what each matrix's columns are to be multiplied by to have the weights of before."""
    names = {linear: name for name, linear in model.named_modules()}
    return {
        f"{names[linear]}.weight": block.get_buffer(EVENED)
        for block, linears in model.backbone.normalised_readers().items()
        if EVENED in dict(block.named_buffers(recurse=False))
        for linear in linears
    }


def _largest_states(model: Aladin, blocks: list[nn.Module], tokenizer: WordPieces) -> dict[nn.Module, Float[Tensor, " dim"]]:
    """How large each channel gets before each block while the model reads what it knows by heart, such as class names.

    Which channels are large is the transformer's own habit: photographs and captions, read instead, give no better scales.
    """
    largest: dict[nn.Module, Tensor] = {}

    def note(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        largest[block] = inputs[0].abs().flatten(0, -2).amax(dim=0)

    handles = [block.register_forward_pre_hook(note) for block in blocks]
    model.caption_states(*model.backbone.known_captions(tokenizer))
    for handle in handles:
        handle.remove()
    return largest


def _scale_input(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0] * block.get_buffer(EVENED), *inputs[1:])
