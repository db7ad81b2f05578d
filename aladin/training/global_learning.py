"""How perceptrons of whole pictures and whole sentences learn: the global head's, and those of a cross-fitted teacher.

They learn from large lists, which cost them little: InfoNCE over nearly a thousand pairs, half of the weight on soft targets
(caption_similarity.py). Forty epochs of 6,000 images take some twenty seconds on two cores.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.optim.lr_scheduler import OneCycleLR

from aladin.encoder.config import HeadsConfig
from aladin.encoder.word_pieces import Pieces
from aladin.errors import DataError
from aladin.network.backbone import ImageSet
from aladin.network.caption_blocks import caption_blocks
from aladin.network.global_head import GlobalReader, Perceptron, pooled_mean, standardised
from aladin.network.model import Aladin
from aladin.network.principal_axes import principal_axes
from aladin.network.run import ALONE, Precision, Run
from aladin.network.tensors import Tokens
from aladin.network.variants import with_global_head
from aladin.progress import SILENT, Progress
from aladin.training.averaging import averaged_model
from aladin.training.batches import Plan
from aladin.training.losses import infonce_loss, listnet_loss

BATCH = 64  # images read at once, and four times as many captions
HIDDEN, DIM = HeadsConfig.global_hidden, 384
MAX_DIM = DIM  # of a global head, whose vectors are cut from those that are learned
STEP_IMAGES = 960  # large lists are what these models learn best from
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05
DROPPED_FEATURES = {"pictures": 0.3, "sentences": 0.1}
AVERAGED_STEPS = 40  # over which their weights are averaged, and at most a fifth of all
SCALE = 25.0  # inverse temperature of their own cosines while they learn
SOFT = 0.5  # the share of soft targets: the similarity of captions
SIMILARITY_SCALE = 10.0  # inverse temperature of that similarity
PRECISION: Precision = "bf16"  # of the products of the global head's learning

Pool = Callable[[Tokens], Float[Tensor, "batch features"]]


class PerceptronPair(nn.Module):
    """Pictures and captions to vectors of one space."""

    def __init__(self, axes: int, features: int) -> None:
        super().__init__()
        self.pictures = Perceptron(axes, HIDDEN, DIM, DROPPED_FEATURES["pictures"])
        self.sentences = Perceptron(features, HIDDEN, DIM, DROPPED_FEATURES["sentences"])


@dataclass(frozen=True)
class Lesson:
    """Whole pictures with their captions, what a pair of perceptrons learns from."""

    pictures: Float[Tensor, "images axes"]
    sentences: Float[Tensor, "captions features"]
    owners: Int[np.ndarray, " captions"]  # the picture of each caption, rising
    similarity: Callable[[Int[np.ndarray, " images"], Int[np.ndarray, " captions"]], Float[Tensor, "images captions"]]

    def learned(self, epochs: int, seed: int, run: Run, progress: Progress = SILENT) -> PerceptronPair:
        """A pair that has learned from all of it; the same for one seed, and the processor's. `progress` counts steps."""
        torch.manual_seed(seed)
        plan = Plan(self.owners, STEP_IMAGES, captions_per_image=1, views=1, regions=1, kept_regions=1, seed=seed)
        steps = epochs * plan.steps_per_epoch
        pair = PerceptronPair(self.pictures.shape[1], self.sentences.shape[1]).to(run.device)
        pictures, sentences = run.put(self.pictures), run.put(self.sentences)
        averaged = averaged_model(pair, min(AVERAGED_STEPS, max(1, steps // 5)))
        optimizer = torch.optim.AdamW(pair.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
        # It divides by the length of its first tenth, less one step.
        total = max(steps + 1, 20)
        schedule = OneCycleLR(optimizer, LEARNING_RATE, total_steps=total, pct_start=0.1, cycle_momentum=False)
        for number, step in enumerate(plan.steps(0, steps)):
            with run.context():
                images = pair.pictures(pictures[torch.from_numpy(step.images)])
                captions = pair.sentences(sentences[torch.from_numpy(step.captions)])
                found = normalize(images, dim=1) @ normalize(captions, dim=1).T
            similarity = run.put(self.similarity(step.images, step.captions))
            soft = listnet_loss(found.float(), similarity, SCALE, SIMILARITY_SCALE) / 2  # it is the sum of both directions
            loss = (1 - SOFT) * infonce_loss(found.float(), run.put(step.positives), SCALE) + SOFT * soft
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(pair)
            progress(number + 1, steps)
        kept = averaged.module.cpu().eval()
        assert isinstance(kept, PerceptronPair)
        return kept


def pooled_pictures(model: Aladin, images: ImageSet, progress: Progress = SILENT) -> Float[Tensor, "images features"]:
    """What the global head reads of each image; of a photograph its first view, the whole picture."""
    return pooled_images(len(images), lambda rows: model.backbone.batch(images, rows).regions.tokens, pooled_mean, progress)


def pooled_sentences(model: Aladin, pieces: Pieces, progress: Progress = SILENT) -> Float[Tensor, "captions features"]:
    """What the global head reads of each caption."""
    return pooled_captions(pieces, model.caption_states, pooled_mean, model.backbone.device, progress)


@torch.inference_mode()
def pooled_images(
    count: int, regions: Callable[[Int[np.ndarray, " rows"]], Tokens], pool: Pool, progress: Progress = SILENT
) -> Float[Tensor, "images features"]:
    """What `pool` makes of the regions of every image."""
    parts = []
    for start in range(0, count, BATCH):
        rows = np.arange(start, min(start + BATCH, count))
        parts.append(pool(regions(rows)).cpu())
        progress(start + len(rows), count)
    return torch.cat(parts)


@torch.inference_mode()
def pooled_captions(
    pieces: Pieces, states: Callable[[Tensor, Tensor], Tokens], pool: Pool, device: torch.device, progress: Progress = SILENT
) -> Float[Tensor, "captions features"]:
    """What `pool` makes of the states of every caption's word pieces, special ones among them; `states` is on `device`."""
    done, rows, parts = 0, list[Tensor](), list[Tensor]()
    for block in caption_blocks(pieces, 4 * BATCH):
        rows.append(block.rows)
        parts.append(pool(states(block.ids.to(device), block.mask.to(device))).cpu())
        done += len(block.rows)
        progress(done, len(pieces.ids))
    return torch.cat(parts)[torch.cat(rows).argsort()]


def with_learned_global_head(
    model: Aladin,
    lesson: Lesson,
    dim: int,
    share: float,
    epochs: int,
    seed: int,
    progress: Progress = SILENT,
    run: Run = ALONE,
) -> Aladin:
    """The same model with a global head that has learned from `lesson`: of pooled pictures and sentences as they are.

    The pair learns vectors of `DIM` numbers, which are then cut to their `dim` principal axes: so they lose far less than if
    they had been learned as short as that. ConfigError for what `check_addable` refuses, DataError for
    images that all look alike. `progress` counts steps.
    """
    axes = min(HeadsConfig.global_axes, *lesson.pictures.shape)
    heads = dataclasses.replace(model.config.heads, global_dim=dim, global_share=share, global_axes=axes, global_hidden=HIDDEN)
    result = with_global_head(model, heads)
    head = result.global_head
    assert head is not None, "it was just given"
    _standardise(head.pictures, lesson.pictures, seed)
    _standardise(head.sentences, lesson.sentences, seed)
    with torch.no_grad():
        pictures, sentences = head.pictures.read(lesson.pictures), head.sentences.read(lesson.sentences)
    ready = dataclasses.replace(lesson, pictures=pictures, sentences=sentences)
    pair = ready.learned(epochs, seed, dataclasses.replace(run, precision=PRECISION), progress)
    cut = _principal_axes(pair, ready, dim)
    _fill(head.pictures.perceptron, pair.pictures, cut)
    _fill(head.sentences.perceptron, pair.sentences, cut)
    return result.eval()


@torch.no_grad()
def _principal_axes(pair: PerceptronPair, lesson: Lesson, dim: int) -> Float[Tensor, "dim longer"]:
    """Of the vectors of a lesson, both sides counting alike."""
    sides = normalize(pair.pictures(lesson.pictures), dim=1), normalize(pair.sentences(lesson.sentences), dim=1)
    every = torch.cat([vectors / len(vectors) ** 0.5 for vectors in sides])[:, None]
    return principal_axes([Tokens(every, torch.ones(every.shape[:2], dtype=torch.bool))], dim)


@torch.no_grad()
def _standardise(reader: GlobalReader, rows: Float[Tensor, "rows features"], seed: int) -> None:
    """Give a reader the mean and deviation of `rows` and, if it reads principal axes, these."""
    deviation, mean = torch.std_mean(rows, dim=0)
    reader.mean.copy_(mean)
    reader.deviation.copy_(deviation)
    if isinstance(reader.axes, nn.Linear):
        reader.axes.weight.copy_(picture_axes(standardised(rows, mean, deviation), reader.axes.out_features, seed).T)


@torch.no_grad()
def picture_axes(pictures: Float[Tensor, "images features"], count: int, seed: int) -> Float[Tensor, "features count"]:
    """The first principal axes of standardised pictures, most important first, as long as makes what is read of them have a
    deviation of 1. DataError where all pictures are alike.
    """
    torch.manual_seed(seed)
    principal: Tensor = torch.pca_lowrank(pictures, count, center=False, niter=4)[2]
    spread = (pictures @ principal).std()
    if not spread > 0:
        raise DataError("all images look alike to the image network, so there is nothing to learn; give other images")
    return principal / spread


@torch.no_grad()
def _fill(perceptron: Perceptron, learned: Perceptron, cut: Float[Tensor, "dim longer"]) -> None:
    """The learned weights, whose last layers give vectors along `cut` alone."""
    state = learned.state_dict()
    for name in ("hidden.3.weight", "hidden.3.bias", "straight.weight"):
        state[name] = cut @ state[name]
    perceptron.load_state_dict(state)
