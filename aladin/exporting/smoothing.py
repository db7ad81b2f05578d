"""The transformer's channels evened out, so that products in int8 lose little of them."""

import copy
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.network.backbone import EncoderLayer
from aladin.network.model import Aladin


@torch.no_grad()
def smoothed(model: Aladin) -> Aladin:
    """The same function, with less between the largest and the smallest channel of what its matrices multiply.

    A few channels of BERT's states are ten times the others, whatever is read; in int8 that leaves the others few steps. So
    states are divided, channel by channel, before they enter a layer's matrices, and the matrices' columns are multiplied
    instead, by as much as makes the channel no larger than the column (SmoothQuant, Xiao et al. 2023, with alpha = 1/2).
    """
    result = copy.deepcopy(model)
    readers = _readers(result)
    largest = _largest_states(result, list(readers))
    for block, linears in readers.items():
        column = torch.stack([linear.weight.abs().amax(dim=0) for linear in linears]).amax(dim=0)
        divisor = (largest[block].clamp(min=1e-3) / column.clamp(min=1e-5)).sqrt()
        for linear in linears:
            linear.weight *= divisor
        block.register_forward_pre_hook(partial(_scale_input, 1 / divisor))
    return result


def _readers(model: Aladin) -> dict[nn.Module, list[nn.Linear]]:
    """For each module that reads normalised states, the linear layers in it that do."""
    readers: dict[nn.Module, list[nn.Linear]] = {}
    for layer in model.backbone.layers:
        assert isinstance(layer, EncoderLayer)
        readers[layer.attention] = [layer.attention.query, layer.attention.key, layer.attention.value]
        readers[layer.intermediate] = [layer.intermediate]
    return readers


def _largest_states(model: Aladin, blocks: list[nn.Module]) -> dict[nn.Module, Float[Tensor, " dim"]]:
    """How large each channel gets before each block while the model reads its class names.

    Which channels are large is the transformer's own habit: photographs and captions, read instead, give no better scales.
    """
    largest: dict[nn.Module, Tensor] = {}

    def note(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest[block] = inputs[0].abs().amax(dim=(0, 1))

    handles = [block.register_forward_pre_hook(note) for block in blocks]
    model.caption_states(*model.tags(torch.arange(len(model.name_pieces))[:, None]))
    for handle in handles:
        handle.remove()
    return largest


def _scale_input(factor: Float[Tensor, " dim"], block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0] * factor, *inputs[1:])
