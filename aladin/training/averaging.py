"""The mean of weights: of one model along the steps of its training, and of several models."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aladin.encoder.config import ModelConfig
from aladin.errors import ModelError
from aladin.exporting.restoring import model_that_learns
from aladin.network.checkpoints import named_model, provenance_as_trained
from aladin.network.model import Aladin
from aladin.network.variants import as_trained


def averaged_model(model: nn.Module, steps: int) -> AveragedModel:
    """A copy of the model that follows it slowly; what it finds is far better than what any single step's weights find."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / steps))  # type: ignore[no-untyped-call]


def average_models(folders: Sequence[Path]) -> Aladin:
    """One model whose learned weights are the mean of several, which must have the same architecture and the same beginning.

    Models that were fine-tuned apart from one start lie in one basin, and their mean generalises better than each of them
    (Wortsman et al. 2022, "model soups"). What never learns is taken from the first.
    """
    models = [as_trained(model_that_learns(folder)) for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        if _architecture(model) != _architecture(models[0]):
            raise ModelError(f"{folder} has another architecture than {folders[0]}; only models of one kind can be averaged")
    states = [model.state_dict() for model in models]
    for name, weight in states[0].items():
        if weight.is_floating_point() and not name.startswith(models[0].never_learned):
            weight.copy_(torch.stack([state[name] for state in states]).mean(dim=0))
    return models[0]


def averaged_from(folders: Sequence[Path]) -> dict[str, Any]:
    """The table [average] of a mean: of each model its name, its fingerprint and where it is from itself."""
    return {"models": [named_model(folder) | provenance_as_trained(folder) for folder in folders]}


def _architecture(model: Aladin) -> ModelConfig:
    """The settings of a model but for dropout, which its weights do not depend on."""
    backbone = dataclasses.replace(model.config.backbone, dropout=0.0)
    heads = dataclasses.replace(model.config.heads, matching_dropout=0.0)
    return dataclasses.replace(model.config, backbone=backbone, heads=heads)
