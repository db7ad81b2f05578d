"""What the model reads of the rows of a training step."""

import dataclasses

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

    def without_rows(self) -> "Reading":
        """Nothing, of the same shape."""
        return Reading(self.tokens[:0], self.vectors[:0], torch.zeros_like(self.activity))

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
        encode = self._encoded_again if self._recipe.compute.chunk_images else self._encoded
        parts = [encode(part) for part in self._own_parts(step)]
        images, captions = (Reading.joined(list(side)) for side in zip(*parts, strict=True))
        if not len(self._share(step)):  # the image that was read all the same is another process's
            images, captions = images.without_rows(), captions.without_rows()
        return images.of_all(self._run), captions.of_all(self._run)

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
        """The process's share of a step, as it is read. Where there are more processes than images, one that is read all the
        same, so that there is something of the right shape.
        """
        share, most = self._share(step), self._recipe.compute.chunk_images
        if not len(share):
            return [step.part(slice(0, 1))]
        return share.parts(most) if most else [share]

    def _share(self, step: Step) -> Part:
        return step.parts(self._run.world)[self._run.rank]

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

    def _encoded_again(self, part: Part) -> Readings:
        """The same, computed once more in the backward pass."""

        # The tensor tells checkpoint() whose random numbers to remember: it looks for devices among the arguments.
        def encoded(part: Part, device: Tensor) -> Readings:
            return self._encoded(part)

        found: Readings = checkpoint(encoded, part, torch.empty(0, device=self._run.device), use_reentrant=False)
        return found

    def _encoded(self, part: Part) -> Readings:
        image_states, caption_states = self.states(part)
        images, captions = self._model.encoded_images(image_states), self._model.encoded_captions(caption_states)
        counts_activity = self._recipe.loss.hidden_l1 > 0
        return Reading.of(images, counts_activity), Reading.of(captions, counts_activity)
