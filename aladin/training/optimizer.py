"""Which weights learn, how fast, and how the rates go over a run."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from aladin.errors import ConfigError
from aladin.network.model import Aladin
from aladin.training.recipe import OptimizerConfig, Recipe


@dataclass(frozen=True)
class Group:
    """Weights that learn at one rate, or not at all."""

    learns: bool
    full_rate: float
    weights: tuple[nn.Parameter, ...]


def optimizer_of(recipe: Recipe, model: Aladin, others: Iterable[Group] = ()) -> torch.optim.Optimizer:
    """AdamW over what the recipe names and `others`; of the model all else gets no gradient. ConfigError for parts it lacks."""
    rates = recipe.optimizer
    groups = []
    model.requires_grad_(False)
    for group in (*_groups(recipe, model), *others):
        for weight in group.weights:
            weight.requires_grad_(group.learns)
        if group.learns:
            matrices = [weight for weight in group.weights if weight.ndim >= 2]
            vectors = [weight for weight in group.weights if weight.ndim < 2]
            groups += [{"params": matrices, "full_rate": group.full_rate, "weight_decay": rates.weight_decay}]
            groups += [{"params": vectors, "full_rate": group.full_rate, "weight_decay": 0.0}]
    fused = not any(weight.is_meta for weight in model.parameters())  # PyTorch has one for every device that computes
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, rates.beta2), fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Every group at this share of its full rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["full_rate"] * share


def share_of_rates(rates: OptimizerConfig, step: int, epoch: int, total_steps: int) -> float:
    """The share of the full rates at a step: a line up over the warm-up, then a cosine down to 0, or steps by epochs."""
    if rates.step_epochs:
        return min(1.0, (step + 1) / max(1, rates.warmup_steps)) * rates.step_factor ** (epoch // rates.step_epochs)
    if step < rates.warmup_steps:
        return (step + 1) / rates.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - rates.warmup_steps) / max(1, total_steps - rates.warmup_steps)))


def _groups(recipe: Recipe, model: Aladin) -> list[Group]:
    """All of the model's weights that can learn, in an order that checkpoints count on."""
    rates, train = recipe.optimizer, recipe.train
    new = rates.new_learning_rate
    groups = model.backbone.parameter_groups()
    fresh, tails = (tuple(p for group in groups if group.pace == pace for p in group.parameters) for pace in ("new", "image"))
    # None of these has weights unless the settings ask for it.
    after = [weight for part in model.after_backbone for weight in part.parameters()]
    pretrained = [
        Group("backbone" in train, rates.learning_rate * rates.layer_decay**group.below_top, tuple(group.parameters))
        for group in groups
        if group.pace == "pretrained"
    ]
    matching = tuple(weight for part in model.matching_parts for weight in part.parameters())
    projection = tuple(model.alignment_head.parameters())
    if "projection" in train and not projection:
        raise ConfigError('train names "projection", but token_dim is that of the backbone, so there is none; leave it out')
    if "image_network" in train and not tails:
        raise ConfigError('train names "image_network", but this model reads a detector\'s regions; leave it out')
    return [
        Group("backbone" in train, new, (*fresh, *after)),
        *pretrained,
        Group("projection" in train, new, projection),
        Group("matching_head" in train, new, matching),
        Group("cross_encoder" in train, new, tuple(model.cross_encoder.parameters()) if model.cross_encoder else ()),
        Group("image_network" in train, rates.image_learning_rate, tails),
    ]
