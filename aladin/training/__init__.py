"""Recipes to trained models: batches, losses, teachers, and what is learned after training."""

from aladin.training.recipe import Recipe, read_recipe

__all__ = ["Recipe", "read_recipe"]
