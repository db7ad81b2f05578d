"""How good the model of an epoch is on the validation set, and by which head epochs are compared."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from aladin.evaluation.encoding import encode_captions, encode_images
from aladin.evaluation.scoring import alignment_matrix
from aladin.measures.recalls import DIRECTIONS, RECALLS, right_answer_ranks
from aladin.network.model import Aladin
from aladin.network.pairs import pair_matrix
from aladin.network.run import Run
from aladin.network.scores import matching_scores
from aladin.training.learning_set import LearningSet
from aladin.training.recipe import Recipe

CROSS_ENCODER_IMAGES = 40  # on which the cross-encoder is judged
BOTH = "matching and alignment"  # whose rsum is the sum of theirs


def judged_head(recipe: Recipe) -> str:
    """The head whose validation rsum decides which model of a run is best: alignment where it learns and does not teach, the
    cross-encoder where nothing else learns. With `best_by = "both"` as in the original (spec, section 12): alignment and
    matching together where alignment learns, else matching.
    """
    if recipe.best_by == "both":
        return BOTH if recipe.loss.alignment else "matching"
    if recipe.loss.cross_encoder and not (recipe.teaches_alignment or recipe.teaches_matching):
        return "cross_encoder"
    return "alignment" if recipe.teaches_alignment and recipe.loss.distillation == 0 else "matching"


def validate(model: Aladin, data: LearningSet, recipe: Recipe, run: Run) -> dict[str, float]:
    """Recalls and rsum of each head that the recipe trains or learns from, by names such as "matching rsum"."""
    model.eval()
    judged = judged_head(recipe)
    matrices = {}
    if judged != "cross_encoder":
        alignment = judged in ("alignment", BOTH) or bool({"backbone", "image_network"} & set(recipe.train))
        matrices = _scores_apart(model, data, run, alignment)
    if recipe.loss.cross_encoder:
        matrices["cross_encoder"] = _scores_together(model, data, run)
    record: dict[str, float] = {}
    for head, scores in matrices.items():
        for direction in DIRECTIONS:
            ranks = right_answer_ranks(scores.numpy(), data.owners[: scores.shape[1]], direction)
            record |= {f"{head} {direction} {recall}": recall(ranks) for recall in RECALLS}
        record[f"{head} rsum"] = sum(value for name, value in record.items() if name.startswith(f"{head} "))
    if judged == BOTH:
        record[f"{BOTH} rsum"] = record["matching rsum"] + record["alignment rsum"]
    return record


def _scores_apart(model: Aladin, data: LearningSet, run: Run, alignment: bool) -> dict[str, Float[Tensor, "images captions"]]:
    images = encode_images(model, data.images, run)
    captions = encode_captions(model, data.pieces, run)
    matrices = {"matching": matching_scores(images.vectors, captions.vectors)}
    if alignment:
        matrices["alignment"] = alignment_matrix(images.tokens, captions.tokens, model.config.heads.pooling, device=run.device)
    return matrices


def _scores_together(model: Aladin, data: LearningSet, run: Run) -> Float[Tensor, "images captions"]:
    """The cross-encoder's, of the first images with their captions: every pair costs a run of the transformer."""
    images = min(CROSS_ENCODER_IMAGES, data.image_count)
    captions = int(np.searchsorted(data.owners, images))
    with torch.inference_mode(), run.context():
        found = model.backbone.batch(data.images, np.arange(images))
        return pair_matrix(model, found, data.pieces[:captions]).float().cpu()
