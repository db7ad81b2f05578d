"""Recipes to trained models: batches, losses, teachers, and what is learned after training."""

from aladin.training.trainer import Trainer

__all__ = ["Trainer"]
