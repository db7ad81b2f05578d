"""With what a fresh projection of tokens begins."""

import dataclasses
from collections.abc import Iterable, Iterator

import torch

from aladin.network import official
from aladin.network.model import Aladin
from aladin.network.principal_axes import principal_axes
from aladin.network.run import Run
from aladin.network.tensors import Tokens
from aladin.training.batches import Step
from aladin.training.step_input import StepInput

AXES_STEPS = 8  # whose tokens a fresh projection begins with


@torch.no_grad()
def begin_projection(model: Aladin, reads: StepInput, steps: Iterable[Step], run: Run) -> None:
    """The projection as what loses least without learning: the principal axes of the tokens that these steps read."""
    model.eval()
    (projection,) = model.alignment_head.parameters()
    projection.copy_(principal_axes(_whole_tokens(model, reads, steps, run), len(projection)))


def _whole_tokens(model: Aladin, reads: StepInput, steps: Iterable[Step], run: Run) -> Iterator[Tokens]:
    """The regions and words of the steps, not projected."""
    config = model.config
    heads = dataclasses.replace(config.heads, token_dim=config.backbone.dim)
    head = official.alignment_head(dataclasses.replace(config, heads=heads))
    for step in steps:
        with run.context():
            images, captions = reads.states(step.whole)
            regions = head.regions(model.aligned(model.alignment_depth(images), "images"))
            tokens = regions, head.words(model.aligned(model.alignment_depth(captions), "captions"))
        yield from tokens
