"""What the model reads of the rows of a training step."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from aladin.network.backbone import ImageSet
from aladin.network.model import Aladin, Encoded
from aladin.network.run import Run
from aladin.network.tensors import ImageInput, Tokens, concatenate
from aladin.training.batches import WORDS, Part, Step, without_some_words
from aladin.training.learning_set import LearningSet
from aladin.training.losses import activity
from aladin.training.recipe import Recipe
from aladin.training.sharing import gathered, gathered_tokens
from aladin.training.state_bank import StateBank


@dataclasses.dataclass(frozen=True)
class Reading:
    """What losses need of images or of captions."""

    tokens: Tokens
    vectors: Float[Tensor, "batch dim"]
    activity: Float[Tensor, "parts 2"]

    @classmethod
    def of(cls, encoded: Encoded, counts_activity: bool) -> "Reading":
        states, nothing = encoded.states, encoded.vectors.new_zeros(1, 2)
        return cls(encoded.tokens, encoded.vectors, activity(states.states, states.mask) if counts_activity else nothing)

    @classmethod
    def joined(cls, parts: list["Reading"]) -> "Reading":
        """All rows, in the order of the parts."""
        if len(parts) == 1:
            return parts[0]
        tokens = concatenate([part.tokens for part in parts])
        return cls(tokens, torch.cat([part.vectors for part in parts]), torch.cat([part.activity for part in parts]))

    def first(self, rows: int) -> "Reading":
        """Only so many."""
        return Reading(self.tokens[:rows], self.vectors[:rows], self.activity * min(rows, 1))

    def of_all(self, run: Run) -> "Reading":
        """That of every process, the own rows with their gradient."""
        if run.world == 1:
            return self
        return Reading(gathered_tokens(self.tokens, run), gathered(self.vectors, run), gathered(self.activity, run))


Readings = tuple[Reading, Reading]  # of images and of captions


class StepInput:
    """Images and captions of a step as the recipe has them read; with a `bank` of states the transformer reads nothing."""

    def __init__(
        self, recipe: Recipe, model: Aladin, data: LearningSet, run: Run, images: ImageSet | None = None, whole: bool = False
    ) -> None:
        """`images` are the data's, perhaps read ahead; with `whole` somebody else reads all images of every step."""
        self._recipe, self._model, self._data, self._run = recipe, model, data, run
        self._images = data.images if images is None else images
        self._whole = whole or recipe.loss.cross_encoder > 0
        self.bank: StateBank | None = None
        groups = model.backbone.parameter_groups()
        self._image_weights = [weight for group in groups if group.part == "image_network" for weight in group.parameters]

    def readings(self, step: Step) -> Readings:
        """Those of the step's images and of its captions: read by all processes together, each its share of them.

        With `chunk_images` what the transformer computes is not kept but computed again in the backward pass, so many images
        at a time (GradCache, Gao et al. 2021).
        """
        share = step.parts(self._run.world)[self._run.rank]
        if not len(share):  # more processes than images: one is read, so that there is something of the right shape
            images, captions = self._encoded(step.part(slice(0, 1)))
            return images.first(0).of_all(self._run), captions.first(0).of_all(self._run)
        most = self._recipe.compute.chunk_images
        if not most:
            parts = [self._encoded(share)]
        else:
            # The tensor tells checkpoint() whose random numbers to remember: it looks for devices among the arguments.
            device = torch.empty(0, device=self._run.device)
            parts = [_read_again(self._encoded, part, device) for part in self._own_parts(step)]
        return (
            Reading.joined([images for images, _ in parts]).of_all(self._run),
            Reading.joined([captions for _, captions in parts]).of_all(self._run),
        )

    def image_parts(self, step: Step) -> list[Part]:
        """Whose images this process reads in a step, in order."""
        found: list[Part] = []
        for part in step.apart(self._recipe.gradient_accumulation):
            if self.bank is None and (self._recipe.teaches_alignment or self._recipe.teaches_matching):
                found += self._own_parts(part)
            if self._whole:
                found.append(part.whole)
        return found

    def _own_parts(self, step: Step) -> list[Part]:
        """The process's share of a step, as it is read; where there is none, an image that is read all the same."""
        share = step.parts(self._run.world)[self._run.rank]
        most = self._recipe.compute.chunk_images
        if not len(share):
            return [step.part(slice(0, 1))]
        return share.parts(most) if most else [share]

    def states(self, part: Part) -> tuple[Tokens, Tokens]:
        """The transformer's states of images and of captions."""
        if self.bank is not None:
            return self.bank.images(part), self.bank.captions(part)
        return self._model.image_states(self.images(part)), self._model.caption_states(*self.captions(part))

    def captions(self, part: Part) -> tuple[Int[Tensor, "captions words"], Bool[Tensor, "captions words"]]:
        """Word pieces and their mask as wide as the whole step's, some left out if the recipe says so."""
        step = part.step
        ids, mask = self._data.pieces.ids[step.captions], self._data.pieces.mask[step.captions]
        if self._recipe.dropped_words:
            random = np.random.default_rng((self._recipe.seed, WORDS, step.number, step.among))
            ids, mask = without_some_words(ids, mask, self._recipe.dropped_words, random)
        width = int(mask.sum(axis=1).max())
        ids, mask = ids[part.captions, :width], mask[part.captions, :width]
        return self._run.put(torch.from_numpy(ids)), self._run.put(torch.from_numpy(mask))

    def images(self, part: Part) -> ImageInput:
        """What the backbone reads of the images; its image network learns from its epoch on."""
        step, rows = part.step, part.images
        learns = "image_network" in self._recipe.train and step.epoch >= self._recipe.image_network_from_epoch
        for weight in self._image_weights:
            weight.requires_grad_(learns)
        read = self._images.read(step.images[rows], step.views[rows])
        keep = None if step.keep is None else self._run.put(step.keep[rows])
        return self._model.backbone.seen(self._run.put(read), keep)

    def _encoded(self, part: Part, device: Tensor | None = None) -> Readings:
        image_states, caption_states = self.states(part)
        images, captions = self._model.encoded_images(image_states), self._model.encoded_captions(caption_states)
        counts_activity = self._recipe.loss.hidden_l1 > 0
        return Reading.of(images, counts_activity), Reading.of(captions, counts_activity)


def _read_again(encode: Callable[[Part, Tensor], Readings], part: Part, device: Tensor) -> Readings:
    found: Readings = checkpoint(encode, part, device, use_reentrant=False)
    return found
