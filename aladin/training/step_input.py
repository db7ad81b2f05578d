"""What the model reads of the rows of a training step."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from aladin.network.model import Aladin
from aladin.network.tensors import ImageInput, Tokens
from aladin.training.batches import WORDS, Step, without_some_words
from aladin.training.learning_set import LearningSet
from aladin.training.recipe import Recipe
from aladin.training.state_bank import StateBank


class StepInput:
    """Images and captions of a step as the recipe has them read; with a `bank` of states the transformer reads nothing."""

    def __init__(self, recipe: Recipe, model: Aladin, data: LearningSet) -> None:
        self._recipe, self._model, self._data = recipe, model, data
        self.bank: StateBank | None = None
        groups = model.backbone.parameter_groups()
        self._image_weights = [weight for group in groups if group.part == "image_network" for weight in group.parameters]

    def states(self, step: Step) -> tuple[Tokens, Tokens]:
        """The transformer's states of images and of captions."""
        if self.bank is not None:
            return self.bank.images(step), self.bank.captions(step)
        return self._model.image_states(self.images(step)), self._model.caption_states(*self.captions(step))

    def captions(self, step: Step) -> tuple[Int[Tensor, "captions words"], Bool[Tensor, "captions words"]]:
        """Word pieces and their mask, some left out if the recipe says so."""
        ids, mask = self._data.pieces.ids[step.captions], self._data.pieces.mask[step.captions]
        if self._recipe.dropped_words:
            random = np.random.default_rng((self._recipe.seed, WORDS, step.number))
            ids, mask = without_some_words(ids, mask, self._recipe.dropped_words, random)
        width = int(mask.sum(axis=1).max())
        return torch.from_numpy(ids[:, :width]), torch.from_numpy(mask[:, :width])

    def images(self, step: Step) -> ImageInput:
        """What the backbone reads of the images; its image network learns from its epoch on."""
        learns = "image_network" in self._recipe.train and step.epoch >= self._recipe.image_network_from_epoch
        for weight in self._image_weights:
            weight.requires_grad_(learns)
        return self._model.backbone.batch(self._data.images, step.images, step.views, step.keep)
