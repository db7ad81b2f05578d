"""The losses of a training step: those of [loss], and those of the teachers."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aladin.network.model import Aladin
from aladin.network.pairs import drawn_pairs
from aladin.network.run import Run
from aladin.network.scores import alignment_scores, matching_scores
from aladin.training.batches import PAIRS, Step, seed_for, shares
from aladin.training.caption_similarity import CaptionSimilarity
from aladin.training.losses import (
    Positives,
    Scores,
    activity_loss,
    contrastive_distillation_loss,
    hinge_loss,
    infonce_loss,
    listnet_loss,
    mse_loss,
    order_scores,
    ordinal_loss,
    original_contrastive_loss,
    pair_loss,
    spread_loss,
    weighed_losses,
)
from aladin.training.optimizer import Group
from aladin.training.recipe import Recipe
from aladin.training.sharing import gathered
from aladin.training.step_input import Reading, StepInput
from aladin.training.teachers import Teacher

FIRST_LOG_VARIANCE = -2.3  # the original's
Loss = Float[Tensor, ""]


class Objective:
    """What a recipe minimises. Two of its forms learn constants of their own."""

    def __init__(
        self,
        recipe: Recipe,
        model: Aladin,
        reads: StepInput,
        teachers: Mapping[str, Teacher],
        similarity: Callable[[], CaptionSimilarity],
        run: Run,
    ) -> None:
        self._recipe, self._model, self._reads, self._run = recipe, model, reads, run
        self._teachers, self._similarity = teachers, similarity
        self.names = tuple(recipe.weights)
        # Learned by the distillation form "mse" only: scale and shift from matching scores to alignment scores.
        self.score_fit = nn.Parameter(torch.tensor([0.5, 0.5], device=run.device))
        # Learned with `learned_weights` only: the logarithm of each loss's variance.
        self.log_variances = nn.Parameter(torch.full((len(self.names),), FIRST_LOG_VARIANCE, device=run.device))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Its constants as an optimizer has them."""
        rate, loss = self._recipe.optimizer.new_learning_rate, self._recipe.loss
        return (
            Group(loss.distillation_form == "mse", rate, (self.score_fit,)),
            Group(loss.learned_weights, rate, (self.log_variances,)),
        )

    def losses(self, step: Step) -> dict[str, Loss]:
        """The losses of a step by name, not weighed."""
        losses: dict[str, Loss] = {}
        if self._recipe.teaches_alignment or self._recipe.teaches_matching:
            losses |= self._losses_apart(step)
        if self._recipe.loss.cross_encoder:
            losses["cross_encoder"] = self._loss_together(step)
        return losses

    def weighed(self, losses: dict[str, Loss]) -> dict[str, Loss]:
        """The losses by their weights: what is minimised is their sum."""
        if not self._recipe.loss.learned_weights:
            return {name: self._recipe.weights[name] * loss for name, loss in losses.items()}
        rows = [self.names.index(name) for name in losses]
        weighed = weighed_losses(torch.stack(list(losses.values())), self.log_variances[rows])
        return dict(zip(losses, weighed.unbind(), strict=True))

    def _losses_apart(self, step: Step) -> dict[str, Loss]:
        """Of images and captions that are read apart."""
        weights = self._recipe.loss
        with self._run.context():
            images, captions = self._reads.readings(step)
            with torch.set_grad_enabled(self._recipe.teaches_alignment):
                alignment = alignment_scores(images.tokens, captions.tokens, self._model.config.heads.pooling).float()
        matching = matching_scores(images.vectors, captions.vectors)
        losses: dict[str, Loss] = {}
        positives = self._run.put(step.positives)
        if weights.alignment:
            losses["alignment"] = self._contrast(alignment, positives, weights.alignment_form, weights.alignment_scale)
        if weights.matching:
            scores = matching if weights.measure == "dot" else order_scores(images.vectors, captions.vectors)
            losses["matching"] = self._contrast(scores, positives, weights.matching_form, weights.matching_scale)
        for kind, teacher in self._teachers.items():
            found = teacher.losses(step, matching, alignment)
            losses |= {f"{kind}_{student}": loss for student, loss in found.items()}
        if weights.distillation and (step.epoch >= weights.distillation_from_epoch or not losses):
            losses["distillation"] = self.distillation(matching, alignment, positives)
        return losses | self._regularising(images, captions)

    def _regularising(self, images: Reading, captions: Reading) -> dict[str, Loss]:
        """Of vectors and states whatever belongs to what."""
        losses: dict[str, Loss] = {}
        if self._recipe.loss.entropy:
            losses["entropy"] = spread_loss(torch.cat([images.vectors, captions.vectors]))
        if self._recipe.loss.hidden_l1:
            losses["hidden_l1"] = torch.stack([activity_loss(side.activity) for side in (images, captions)]).mean()
        return losses

    def _loss_together(self, step: Step) -> Loss:
        """Of images and captions that are read together, by the cross-encoder."""
        weights, similarity = self._recipe.loss, torch.zeros(step.positives.shape)
        if weights.needs_caption_similarity:
            similarity = self._similarity().scores(step.images, step.captions)
        # All processes draw the same pairs, and each reads its share of them.
        generator = torch.Generator().manual_seed(seed_for(self._recipe.seed, PAIRS, step.number, step.among))
        pairs = drawn_pairs(step.positives, similarity, weights.cross_encoder_scale, generator)
        own = self._run.put(pairs[shares(len(pairs.positives), self._run.world)[self._run.rank]])
        ids, mask = self._reads.captions(step.whole)
        with self._run.context():
            images = self._reads.images(step.whole)[own.images]
            scores = self._model.pair_scores(ids[own.captions], mask[own.captions], images)
        return pair_loss(gathered(scores, self._run), self._run.put(pairs.positives))

    def _contrast(self, scores: Scores, positives: Positives, form: str, scale: float) -> Loss:
        if form == "hinge":
            return hinge_loss(scores, positives, self._recipe.loss.margin, self._recipe.loss.hardest_negatives)
        return infonce_loss(scores, positives, scale)

    def distillation(self, student: Scores, teacher: Scores, positives: Positives) -> Loss:
        """Of matching scores that learn from the alignment scores of the same model."""
        loss = self._recipe.loss
        match loss.distillation_form:
            case "listnet":
                return listnet_loss(student, teacher, loss.student_scale, loss.teacher_scale)
            case "mse":
                return mse_loss(student, teacher, self.score_fit)
            case "ordinal":
                return ordinal_loss(student, teacher, loss.margin, loss.ordinal_threshold, loss.ordinal_stride)
            case "contrastive":
                return contrastive_distillation_loss(student, teacher, positives, loss.margin)
            case "contrastive_original":
                return original_contrastive_loss(student, teacher, positives, loss.margin)
