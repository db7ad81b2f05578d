"""Training by recipe: align, distil or both, resumable to the same losses.

Everything random in a step is fixed by the recipe's seed and the step's number, so a run that was killed and resumed reads
the same batches and computes the same losses as one that was not.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from aladin.config import from_table, to_table
from aladin.datasets import DataOrigin, Dataset, placing_undecodable
from aladin.encoder.config import HeadsConfig
from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import ConfigError, DataError, ModelError, TrainingError
from aladin.evaluation.encoding import encode_captions, encode_images, precision_context
from aladin.evaluation.scoring import alignment_matrix
from aladin.exporting.restoring import model_that_learns
from aladin.measures.recalls import DIRECTIONS, RECALLS, right_answer_ranks
from aladin.network import official
from aladin.network.caption_blocks import caption_blocks
from aladin.network.checkpoints import named_model, save_model
from aladin.network.detections import RegionSet, check_photographs, region_set
from aladin.network.features import Features, cached_features
from aladin.network.grid import SHRINKAGE, GridNetwork, grid_network
from aladin.network.minilm import check_minilm_sizes, minilm, minilm_folder
from aladin.network.model import Aladin, new_model
from aladin.network.pairs import drawn_pairs, pair_matrix
from aladin.network.principal_axes import principal_axes
from aladin.network.scores import alignment_scores, matching_scores
from aladin.network.tensors import ImageInput, Tokens
from aladin.network.variants import (
    as_trained,
    widened,
    with_cross_encoder,
    with_depth,
    with_dropout,
    with_fresh_matching_head,
    with_projection,
)
from aladin.network.weights import save_weights, weights_fingerprint
from aladin.progress import Progress
from aladin.training.averaging import averaged_model
from aladin.training.batches import WORDS, Plan, Step, without_some_words
from aladin.training.caption_teacher import CaptionTeacher
from aladin.training.cross_fitted_teacher import CrossFittedTeacher, CrossFitting, fold_of_each
from aladin.training.ensemble_teacher import EnsembleTeacher, ensemble_members
from aladin.training.losses import (
    activity_loss,
    contrastive_distillation_loss,
    hinge_loss,
    infonce_loss,
    listed_listnet_loss,
    listnet_loss,
    mse_loss,
    ordinal_loss,
    pair_loss,
    spread_loss,
    weighed_losses,
)
from aladin.training.pair_teacher import listed_pairs, pair_teacher, taught_scores
from aladin.training.recipe import Recipe

# Names in [loss]; a new one comes last, so that the learned weights of older checkpoints keep their places.
WEIGHED = (
    "alignment",
    "caption_teacher",
    "matching",
    "distillation",
    "cross_encoder",
    "entropy",
    "hidden_l1",
    "pair_teacher",
    "ensemble_alignment",
    "ensemble_matching",
    "cross_fitted_alignment",
    "cross_fitted_matching",
)
FIRST_LOG_VARIANCE = -2.3  # the original's
PAIR_IMAGES = 40  # on which the cross-encoder is judged
AXES_STEPS = 8  # whose tokens a fresh projection begins with
WHOLE_TAGS = 1  # of an image that a cross-fitted teacher sees; it reads none, but features are kept with their tags
CHECKPOINT_SECONDS = 120  # between two checkpoints inside an epoch
Record = Mapping[str, int | float]  # one line of the log


@dataclass(frozen=True)
class LearningSet:
    """A data set as the network reads it: cached maps of photographs or a detector's regions, and all captions' word pieces."""

    images: Features | RegionSet
    pieces: Pieces
    owners: Int[np.ndarray, " captions"]  # the image row of each caption
    origin: DataOrigin | None = None  # what is recorded of it

    @property
    def views(self) -> int:
        return self.images.views if isinstance(self.images, Features) else 1


@runtime_checkable
class Reporter(Protocol):
    """What a run tells while it goes on; the command line shows it, tests collect it."""

    def progress(self, what: str, done: int, total: int) -> None:
        """`what` stands at `done` of `total`."""

    def validated(self, epoch: int, record: dict[str, float]) -> None:
        """An epoch is over and its model was measured on the validation set."""


def learning_set(dataset: Dataset, model: Aladin, tokenizer: Path, views: int, cache: Path, report: Progress) -> LearningSet:
    """Images (photographs' features from `cache` where they are there) and word pieces of `dataset`, for `model`."""
    images = images_read(dataset, model, tokenizer, views, cache, report)
    pieces = WordPieces.load(tokenizer, model.config.limits.caption_pieces).encode(list(dataset.captions))
    return LearningSet(images, pieces, dataset.owners, DataOrigin.of(dataset))


def images_read(
    dataset: Dataset, model: Aladin, tokenizer: Path, views: int, cache: Path, report: Progress
) -> Features | RegionSet:
    """The images of `dataset` as `model` reads them: the half of a `learning_set` that differs from model to model."""
    config = model.config
    if model.image_network is None:
        return region_set(dataset, tokenizer, config)
    check_photographs(dataset)
    with placing_undecodable(dataset):
        return cached_features(dataset, model.image_network, config.image.size, config.limits.tags, views, cache, report)


def whole_images(dataset: Dataset, network: GridNetwork, recipe: Recipe, cache: Path, report: Progress) -> Features:
    """The photographs of `dataset`, uncut, as the network of a cross-fitted teacher sees them."""
    with placing_undecodable(dataset):
        return cached_features(dataset, network, recipe.cross_fitted.size, WHOLE_TAGS, 1, cache, report)


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    model: Aladin
    tokenizer: Path  # a tokenizer.json
    pair_teacher: Aladin | None = None  # the one that the recipe names
    ensemble: tuple[Aladin, ...] = ()  # those that it names
    fresh_projection: bool = False  # it is to become the principal axes of the tokens
    # "start", "teacher" -> name and fingerprint; "ensemble" -> its models, each so
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    whole_network: GridNetwork | None = None  # what a cross-fitted teacher sees photographs through


def start_model(recipe: Recipe, start: Path | None) -> Start:
    """The model of the folder `start`, or MiniLM-L6 with fresh heads; and the teachers, if the recipe names any.

    ConfigError if the one or the others are not what the recipe needs: it is said before an hour goes into features.
    """
    if recipe.model.heads.added_dim:
        raise ConfigError(
            "global_dim and hub_centres in [model.heads] are no settings of training; leave them out, and add both to the "
            "trained model by `aladin add-global-head` and `aladin correct-hubs`"
        )
    torch.manual_seed(recipe.seed)
    fresh_projection = False
    if start is not None:
        shares = recipe.model.backbone.dropout, recipe.model.heads.matching_dropout
        model = with_dropout(as_trained(model_that_learns(start)), *shares)
        if len(recipe.model.image.networks) > len(model.config.image.networks):
            model = widened(model, recipe.model.image)
        if recipe.fresh_matching_head:
            model = with_fresh_matching_head(model)
        if "cross_encoder" in recipe.train and model.cross_encoder is None:
            model = with_cross_encoder(model)
        if recipe.model.heads.depth != HeadsConfig().depth:
            model = with_depth(model, recipe.model.heads)
        if "projection" in recipe.train:
            fresh_projection = recipe.model.heads.token_dim != model.config.heads.token_dim
            model = with_projection(model, recipe.model.heads.token_dim)
        path = start / "tokenizer.json"
        origins: dict[str, Mapping[str, Any]] = {"start": named_model(start)}
    else:
        _check_beginning(recipe)
        path = minilm_folder() / "tokenizer.json"
        model = new_model(recipe.model, WordPieces.load(path, recipe.model.limits.caption_pieces))
        weights = minilm_folder() / "model.safetensors"
        origins = {"start": {"name": "MiniLM-L6", "fingerprint": weights_fingerprint(weights)}}
    teacher = pair_teacher(recipe, model, path)
    if teacher is not None:
        origins["teacher"] = named_model(Path(recipe.teacher))
    ensemble = ensemble_members(recipe, model, path)
    if ensemble:
        origins["ensemble"] = {"models": [named_model(Path(folder)) for folder in recipe.ensemble]}
    if recipe.loss.needs_minilm:
        check_minilm_pieces(path)
    whole = None
    if recipe.loss.needs_cross_fitted and model.image_network is not None:
        if recipe.cross_fitted.size % SHRINKAGE:
            raise ConfigError(f"size in [cross_fitted] is {recipe.cross_fitted.size}; expected a multiple of {SHRINKAGE}")
        whole = grid_network(recipe.cross_fitted.networks)
    return Start(model, path, teacher, ensemble, fresh_projection, origins, whole)


def _check_beginning(recipe: Recipe) -> None:
    """ConfigError unless a run by this recipe can begin with MiniLM-L6 and fresh heads."""
    if "backbone" not in recipe.train:
        raise ConfigError(
            f"train is {list(recipe.train)}, so the transformer stays as it is, and without --start its embedding of "
            "regions is random; give --start a model folder whose backbone was trained, such as recipes/align.toml makes"
        )
    check_minilm_sizes(recipe.model.backbone)


class Trainer:
    """One run in the folder `out`: `checkpoint.safetensors` to go on from, `best/` the model folder with the best rsum."""

    def __init__(
        self,
        recipe: Recipe,
        start: Start,
        train: LearningSet,
        val: LearningSet,
        out: Path,
        ensemble_images: Sequence[Features | RegionSet] = (),
        whole_images: Features | None = None,
    ) -> None:
        """`ensemble_images`: the training images as each member of the start's ensemble reads them; `whole_images`: as its
        `whole_network` sees them, if it has one.
        """
        self.recipe, self.train_set, self.val_set, self.out = recipe, train, val, out
        self.model, self.tokenizer, self._pair_teacher = start.model, start.tokenizer, start.pair_teacher
        self._fresh_projection, self._models = start.fresh_projection, start.origins
        self._members, self._ensemble_images = start.ensemble, ensemble_images
        self._whole_network, self._whole_images = start.whole_network, whole_images or train.images
        assert (start.whole_network is None) == (whole_images is None), "a network without its features, or these without it"
        assert (start.pair_teacher is None) == (not recipe.teacher), "the start is that of another recipe"
        assert len(start.ensemble) == len(recipe.ensemble) == len(ensemble_images), "each member reads the images its own way"
        # Of a detector's regions, whose number differs, all are read.
        regions = self.model.config.image.grid**2 if isinstance(train.images, Features) else 1
        self.plan = Plan(
            train.owners,
            recipe.batch_images,
            recipe.captions_per_image,
            train.views,
            regions,
            min(recipe.kept_regions, regions),
            recipe.seed,
            self._folds(),
        )
        # Learned by the distillation form "mse" only: scale and shift from matching scores to alignment scores.
        self.score_fit = nn.Parameter(torch.tensor([0.5, 0.5]))
        # Learned with `learned_weights` only: the logarithm of each loss's variance.
        self.log_variances = nn.Parameter(torch.full((len(WEIGHED),), FIRST_LOG_VARIANCE))
        self.optimizer = _optimizer(recipe, self.model, self.score_fit, self.log_variances)
        self.averaged = averaged_model(self.model, recipe.averaged_steps) if recipe.averaged_steps else None
        self.total_steps = recipe.epochs * self.plan.steps_per_epoch
        self.next_step = 0
        self.best_rsum = -math.inf
        self.frozen = "backbone" not in recipe.train and "image_network" not in recipe.train
        self._bank: StateBank | None = None
        self._caption_teacher: CaptionTeacher | None = None
        self._ensemble: EnsembleTeacher | None = None
        self._cross_fitted: CrossFittedTeacher | None = None

    def run(self, reporter: Reporter) -> None:
        """Train to the end, from the last checkpoint of the folder if there is one."""
        self._resume()
        self.out.mkdir(parents=True, exist_ok=True)
        self._write_settings()
        if self.frozen and isinstance(self.train_set.images, Features) and self.next_step < self.total_steps:
            self._bank = StateBank.build(self.model, self.train_set, self.recipe.precision, reporter)
        if self.recipe.loss.needs_minilm and self.next_step < self.total_steps:
            check_minilm_pieces(self.tokenizer)
            with precision_context(self.recipe.precision):
                self._caption_teacher = CaptionTeacher.build(minilm(), self.train_set.pieces, self.train_set.owners)
        if self._members and self.next_step < self.total_steps:
            self._ensemble = EnsembleTeacher.build(
                self._members,
                self._ensemble_images,
                self.train_set.pieces,
                self.recipe.precision,
                lambda done, total: reporter.progress("the ensemble's images", done, total),
            )
        if self.recipe.loss.needs_cross_fitted and self.next_step < self.total_steps:
            self._cross_fitted = self._cross_fitted_teacher(reporter)
        if self._fresh_projection and self.next_step == 0:
            self._begin_projection()
        epoch_start, saved = time.monotonic(), time.monotonic()
        with self._log() as log:
            for step in self.plan.steps(self.next_step, self.total_steps):
                record = self._learn(step)
                self.next_step = step.number + 1
                log({"step": step.number, "epoch": step.epoch} | record)
                reporter.progress("training steps", self.next_step, self.total_steps)
                if self.next_step % self.plan.steps_per_epoch == 0:
                    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                    cost = {"epoch_seconds": time.monotonic() - epoch_start, "peak_memory_gib": peak}
                    self._end_epoch(step.epoch, cost, log, reporter)
                    epoch_start = saved = time.monotonic()
                elif time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save_checkpoint()
                    saved = time.monotonic()

    def _folds(self) -> Int[np.ndarray, " images"] | None:
        """The fold of each image, if the steps are to read one fold each."""
        if not self.recipe.loss.needs_cross_fitted:
            return None
        return fold_of_each(int(self.train_set.owners[-1]) + 1, self.recipe.cross_fitted.folds, self.recipe.seed)

    def _cross_fitted_teacher(self, reporter: Reporter) -> CrossFittedTeacher:
        """The one that this run has heard before, or a new one."""
        path = self.out / "cross_fitted.safetensors"
        if self.next_step > 0:
            return CrossFittedTeacher.load(path)
        assert self._caption_teacher is not None, "who hears this teacher hears MiniLM"

        def progress(what: str) -> Progress:
            return lambda done, total: reporter.progress(f"the cross-fitted teacher's {what}", done, total)

        images, network = self._whole_images, self._whole_network
        texts = (self.train_set.pieces, self._caption_teacher)
        fitting = CrossFitting.of(images, network, minilm(), *texts, self.plan, self.recipe, progress("images"))
        teacher = fitting.teacher(progress("models"))
        teacher.save(path)
        return teacher

    @torch.no_grad()
    def _begin_projection(self) -> None:
        """The projection as what loses least without learning: the principal axes of what the first steps read."""
        self.model.eval()
        (projection,) = self.model.alignment_head.parameters()
        projection.copy_(principal_axes(self._whole_tokens(), len(projection)))

    def _whole_tokens(self) -> Iterator[Tokens]:
        """The regions and words of the first steps, not projected."""
        config = self.model.config
        heads = dataclasses.replace(config.heads, token_dim=config.backbone.dim)
        head = official.alignment_head(dataclasses.replace(config, heads=heads))
        for step in self.plan.steps(0, min(AXES_STEPS, self.total_steps)):
            with precision_context(self.recipe.precision):
                images, captions = self._states(step)
                tokens = head.regions(self.model.alignment_depth(images)), head.words(self.model.alignment_depth(captions))
            yield from tokens

    @property
    def kept_model(self) -> Aladin:
        """The model that is validated and saved: the one that learns, or the mean of its weights."""
        kept = self.model if self.averaged is None else self.averaged.module
        assert isinstance(kept, Aladin)
        return kept

    def validate(self) -> dict[str, float]:
        """Recalls and rsum on the validation set, of each head that this recipe trains or learns from."""
        model = self.kept_model.eval()
        matrices = self._apart_scores(model) if self.judged_head != "pair" else {}
        if self.recipe.loss.cross_encoder:
            matrices["pair"] = self._pair_scores(model)
        record: dict[str, float] = {}
        for head, scores in matrices.items():
            for direction in DIRECTIONS:
                ranks = right_answer_ranks(scores.numpy(), self.val_set.owners[: scores.shape[1]], direction)
                record |= {f"{head} {direction} {recall}": recall(ranks) for recall in RECALLS}
            record[f"{head} rsum"] = sum(value for name, value in record.items() if name.startswith(f"{head} "))
        return record

    def _apart_scores(self, model: Aladin) -> dict[str, Float[Tensor, "images captions"]]:
        images = encode_images(model, self.val_set.images, self.recipe.precision)
        captions = encode_captions(model, self.val_set.pieces, self.recipe.precision)
        matrices = {"matching": matching_scores(images.vectors, captions.vectors)}
        if not self.frozen or self.judged_head == "alignment":
            matrices["alignment"] = alignment_matrix(images.tokens, captions.tokens, model.config.heads.pooling)
        return matrices

    def _pair_scores(self, model: Aladin) -> Float[Tensor, "images captions"]:
        """Of the first validation images with their captions: every pair costs a run of the transformer."""
        data = self.val_set
        images = min(PAIR_IMAGES, int(data.owners[-1]) + 1)
        captions = int(np.searchsorted(data.owners, images))
        with torch.inference_mode(), precision_context(self.recipe.precision):
            found = model.backbone.batch(data.images, np.arange(images))
            return pair_matrix(model, found, data.pieces[:captions]).float()

    @property
    def judged_head(self) -> str:
        """The head whose validation rsum decides which epoch is best: alignment where it learns and does not teach,
        pair where nothing else learns.
        """
        loss = self.recipe.loss
        if loss.cross_encoder and not (loss.teaches_alignment or loss.teaches_matching):
            return "pair"
        return "alignment" if loss.teaches_alignment and loss.distillation == 0 else "matching"

    def _learn(self, step: Step) -> dict[str, float]:
        rate = self._rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * rate
        # Dropout and drawn_pairs draw from torch's own generator, which so is the same at this step of a resumed run.
        torch.manual_seed(hash((self.recipe.seed, step.number)) % 2**63)
        self.model.train()
        # What does not learn gets no dropout, so that a frozen teacher says the same of the same words and regions.
        self.model.backbone.train("backbone" in self.recipe.train)
        self.model.matching_head.train("matching_head" in self.recipe.train)
        if self.model.post_layers is not None:
            self.model.post_layers.train("backbone" in self.recipe.train)
        losses = self._losses(step)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise _cannot_go_on("loss", total.item(), step, losses)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip_norm)
        if not torch.isfinite(norm):  # a step by it would make every weight a NaN, and the next checkpoint worthless
            raise _cannot_go_on("gradient's norm", norm.item(), step, losses)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return {f"loss {name}": value.item() for name, value in losses.items()} | {
            "loss": total.item(),
            "gradient norm": norm.item(),
            "rate": rate,
        }

    def _losses(self, step: Step) -> dict[str, Float[Tensor, ""]]:
        weights = self.recipe.loss
        likeness = self._caption_teacher.scores(step.images, step.captions) if self._caption_teacher is not None else None
        losses: dict[str, Float[Tensor, ""]] = {}
        if weights.teaches_alignment or weights.teaches_matching:
            losses |= self._apart_losses(step, likeness)
        if weights.cross_encoder:
            losses["cross_encoder"] = self._pair_loss(step, likeness)
        return self._weighed(losses)

    def _apart_losses(self, step: Step, likeness: Float[Tensor, "images captions"] | None) -> dict[str, Float[Tensor, ""]]:
        """Of images and captions that are read apart."""
        weights = self.recipe.loss
        with precision_context(self.recipe.precision):
            image_states, caption_states = self._states(step)
            images, captions = self.model.encoded_images(image_states), self.model.encoded_captions(caption_states)
            with torch.set_grad_enabled(weights.teaches_alignment):
                alignment = alignment_scores(images.tokens, captions.tokens, self.model.config.heads.pooling).float()
        matching = matching_scores(images.vectors, captions.vectors)
        losses = {}
        if weights.alignment:
            losses["alignment"] = self._contrast(alignment, step.own, weights.alignment_form, weights.alignment_scale)
        if weights.caption_teacher and likeness is not None:
            losses["caption_teacher"] = listnet_loss(
                alignment, likeness, weights.alignment_scale, weights.caption_teacher_scale
            )
        if weights.matching:
            losses["matching"] = self._contrast(matching, step.own, weights.matching_form, weights.matching_scale)
        if weights.distillation and (step.epoch >= weights.distillation_from_epoch or not losses):
            losses["distillation"] = self._imitation(matching, alignment, step.own)
        if self._pair_teacher is not None:
            losses["pair_teacher"] = self._pair_imitation(self._pair_teacher, step, matching, alignment)
        if self._ensemble is not None:
            said = self._ensemble.scores(step.images, step.captions)
            losses |= self._imitations("ensemble", said, weights.ensemble_scale, matching, alignment)
        if self._cross_fitted is not None:
            said = self._cross_fitted.scores(step.images, step.captions)
            losses |= self._imitations("cross_fitted", said, self._cross_fitted.scale, matching, alignment)
        if weights.entropy:
            losses["entropy"] = spread_loss(images.vectors) + spread_loss(captions.vectors)
        if weights.hidden_l1:
            both = (images.states, captions.states)
            losses["hidden_l1"] = torch.stack([activity_loss(states.states.float(), states.mask) for states in both]).mean()
        return losses

    def _pair_loss(self, step: Step, likeness: Float[Tensor, "images captions"] | None) -> Float[Tensor, ""]:
        """Of images and captions that are read together."""
        if likeness is None:
            likeness = torch.zeros(step.own.shape)
        pairs = drawn_pairs(step.own, likeness, self.recipe.loss.cross_encoder_scale)
        ids, mask = self._caption_input(step)
        with precision_context(self.recipe.precision):
            images = self._image_input(step)[pairs.images]
            scores = self.model.pair_scores(ids[pairs.captions], mask[pairs.captions], images)
        return pair_loss(scores, pairs.own)

    def _pair_imitation(
        self,
        teacher: Aladin,
        step: Step,
        matching: Float[Tensor, "images captions"],
        alignment: Float[Tensor, "images captions"],
    ) -> Float[Tensor, ""]:
        """Of scores that imitate a cross-encoder on the pairs which alignment finds hardest."""
        loss, data = self.recipe.loss, self.train_set
        listed = listed_pairs(alignment, step.own, loss.pair_teacher_list)
        with torch.inference_mode(), precision_context(self.recipe.precision):
            images = teacher.backbone.batch(data.images, step.images, step.views, step.keep)
            said = taught_scores(teacher, images, data.pieces, step.captions, listed)
        if loss.pair_teacher_of == "alignment":
            student, scale = alignment, loss.alignment_scale
        else:
            student, scale = matching, loss.student_scale
        return listed_listnet_loss(student, said.clone(), listed, scale, loss.pair_teacher_scale)

    def _imitations(
        self,
        teacher: Literal["ensemble", "cross_fitted"],
        said: Float[Tensor, "images captions"],
        scale: float,
        matching: Float[Tensor, "images captions"],
        alignment: Float[Tensor, "images captions"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Of scores that imitate what a teacher says of the whole images and all words, `scale` its inverse temperature."""
        loss = self.recipe.loss
        students = {"alignment": (alignment, loss.alignment_scale), "matching": (matching, loss.student_scale)}
        return {
            f"{teacher}_{name}": listnet_loss(student, said, student_scale, scale)
            for name, (student, student_scale) in students.items()
            if getattr(loss, f"{teacher}_{name}")
        }

    def _weighed(self, losses: dict[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        """The losses as they are added: by the recipe's weights, or by learned ones."""
        if not self.recipe.loss.learned_weights:
            return {name: getattr(self.recipe.loss, name) * loss for name, loss in losses.items()}
        rows = [WEIGHED.index(name) for name in losses]
        weighed = weighed_losses(torch.stack(list(losses.values())), self.log_variances[rows])
        return dict(zip(losses, weighed.unbind(), strict=True))

    def _rate(self, step: Step) -> float:
        """The share of the full learning rates at a step."""
        rates = self.recipe.optimizer
        if rates.step_epochs:
            return min(1.0, (step.number + 1) / max(1, rates.warmup_steps)) * 0.1 ** (step.epoch // rates.step_epochs)
        return _schedule(step.number, self.total_steps, rates.warmup_steps)

    def _contrast(
        self, scores: Float[Tensor, "images captions"], own: Bool[Tensor, "images captions"], form: str, scale: float
    ) -> Float[Tensor, ""]:
        if form == "hinge":
            return hinge_loss(scores, own, self.recipe.loss.margin, self.recipe.loss.hardest_negatives)
        return infonce_loss(scores, own, scale)

    def _imitation(
        self,
        student: Float[Tensor, "images captions"],
        teacher: Float[Tensor, "images captions"],
        own: Bool[Tensor, "images captions"],
    ) -> Float[Tensor, ""]:
        loss = self.recipe.loss
        match loss.distillation_form:
            case "listnet":
                return listnet_loss(student, teacher, loss.student_scale, loss.teacher_scale)
            case "mse":
                return mse_loss(student, teacher, self.score_fit)
            case "ordinal":
                return ordinal_loss(student, teacher, loss.margin, loss.ordinal_threshold, loss.ordinal_stride)
            case "contrastive":
                return contrastive_distillation_loss(student, teacher, own, loss.margin)

    def _states(self, step: Step) -> tuple[Tokens, Tokens]:
        if self._bank is not None:
            return self._bank.images(step), self._bank.captions(step)
        return self.model.image_states(self._image_input(step)), self.model.caption_states(*self._caption_input(step))

    def _caption_input(self, step: Step) -> tuple[Int[Tensor, "captions words"], Bool[Tensor, "captions words"]]:
        ids, mask = self.train_set.pieces.ids[step.captions], self.train_set.pieces.mask[step.captions]
        if self.recipe.dropped_words:
            random = np.random.default_rng((self.recipe.seed, WORDS, step.number))
            ids, mask = without_some_words(ids, mask, self.recipe.dropped_words, random)
        width = int(mask.sum(axis=1).max())
        return torch.from_numpy(ids[:, :width]), torch.from_numpy(mask[:, :width])

    def _image_input(self, step: Step) -> ImageInput:
        if self.model.image_network is not None:
            tail_learns = "image_network" in self.recipe.train and step.epoch >= self.recipe.image_network_from_epoch
            self.model.image_network.region_tails.requires_grad_(tail_learns)
        return self.model.backbone.batch(self.train_set.images, step.images, step.views, step.keep)

    def _end_epoch(self, epoch: int, cost: dict[str, float], log: Callable[[Record], None], reporter: Reporter) -> None:
        last = self.next_step == self.total_steps
        if last or (epoch + 1) % self.recipe.validate_every == 0:
            record = self.validate()
            log({"step": self.next_step - 1, "epoch": epoch} | record | cost)
            reporter.validated(epoch, record | cost)
            if record[f"{self.judged_head} rsum"] > self.best_rsum:
                self.best_rsum = record[f"{self.judged_head} rsum"]
                # The teachers' paths are this machine's; their names and fingerprints are among the origins.
                ensemble = [Path(folder).name for folder in self.recipe.ensemble]
                recipe = to_table(self.recipe) | {"teacher": Path(self.recipe.teacher).name, "ensemble": ensemble}
                details = {"epoch": epoch, "commit": _commit(), "recipe": recipe} | self._origins()
                save_model(self.kept_model, self.tokenizer, self.out / "best", {"training": details})
        self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.averaged is not None:
            state |= {f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        state |= {"score_fit": self.score_fit.detach(), "log_variances": self.log_variances.detach()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
        metadata = {
            "step": str(self.next_step),
            "best_rsum": str(self.best_rsum),
            "recipe": json.dumps(to_table(self.recipe)),
            "captions": _digest(self.train_set, self.val_set),
            "origins": json.dumps(self._origins()),
        }
        contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
        save_weights(contiguous, self.out / "checkpoint.safetensors", metadata)

    def _origins(self) -> dict[str, Any]:
        return origins(self._models, self.train_set.origin, self.val_set.origin)

    def _resume(self) -> None:
        path = self.out / "checkpoint.safetensors"
        if not path.exists():
            return
        check_same_run(self.out, self.recipe, self._origins())
        metadata, state = _checkpoint_metadata(path), load_file(path)
        captions = _digest(self.train_set, self.val_set)
        if metadata.get("captions", captions) != captions:  # checkpoints of version 0.1's first days do not say
            raise ConfigError(f"{path} belongs to a run on other captions; {_anew(self.out)}")
        shapes = {f"model.{name}": weight.shape for name, weight in self.model.state_dict().items()}
        if {n: t.shape for n, t in state.items() if n.startswith("model.")} != shapes:
            raise ConfigError(f"{path} belongs to a model of other sizes; {_anew(self.out)}")
        self.model.load_state_dict(_part(state, "model."))
        if self.averaged is not None:
            self.averaged.load_state_dict(_part(state, "averaged."))
        with torch.no_grad():
            self.score_fit.copy_(state["score_fit"])
            self.log_variances[: len(state["log_variances"])].copy_(state["log_variances"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("optimizer."):
                _, number, moment = name.split(".")
                moments.setdefault(int(number), {})[moment] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        self.next_step, self.best_rsum = int(metadata["step"]), float(metadata["best_rsum"])

    def _write_settings(self) -> None:
        import tomli_w

        settings = {"commit": _commit()} | to_table(self.recipe) | {"model": to_table(self.model.config)}
        settings["training"] = self._origins()
        (self.out / "settings.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")

    @contextlib.contextmanager
    def _log(self) -> Iterator[Callable[[Record], None]]:
        """Writes one record a line to log.jsonl, and its numbers to TensorBoard's event file."""
        from torch.utils.tensorboard import SummaryWriter

        path = self.out / "log.jsonl"
        _forget_steps(path, self.next_step)
        board_writer = SummaryWriter(str(self.out), purge_step=self.next_step)
        with path.open("a", encoding="utf-8") as file, board_writer as board:

            def write(record: Record) -> None:
                _append(file, record)
                for name in record.keys() - {"step", "epoch"}:
                    board.add_scalar(name.replace(" ", "_"), record[name], int(record["step"]))

            yield write


@dataclass(frozen=True)
class StateBank:
    """The frozen backbone's states of a whole training set, read once: the teacher then costs nothing.

    It is deterministic, without dropout (a departure from the original, whose frozen teacher has some), but with `kept_regions`
    it scores each image by the regions that the student reads at that step, so not the same at every step.
    """

    image_states: Float[Tensor, "views images tokens dim"]
    caption_states: Float[Tensor, "captions words dim"]
    caption_mask: Bool[Tensor, "captions words"]

    @classmethod
    @torch.no_grad()
    def build(cls, model: Aladin, data: LearningSet, precision: str, reporter: Reporter) -> "StateBank":
        """The states of every view of every image and of every caption, in bfloat16 to halve the memory."""
        model.eval()
        features = data.images
        assert isinstance(features, Features), "states are only kept for photographs"
        views, images = features.maps.shape[:2]
        tokens, dim, size = 1 + model.config.image.grid**2, model.state_dim, 64
        image_states = torch.empty(views, images, tokens, dim, dtype=torch.bfloat16)
        caption_states = torch.zeros(*data.pieces.ids.shape, dim, dtype=torch.bfloat16)
        total = views * images + len(caption_states)
        with precision_context(precision):
            for view in range(views):
                for start in range(0, images, size):
                    rows = np.arange(start, min(start + size, images))
                    states = model.image_states(model.backbone.batch(features, rows, view)).states
                    image_states[view, start : start + size] = states.bfloat16()
                    reporter.progress("frozen states", view * images + start, total)
            done = views * images
            for block in caption_blocks(data.pieces, 2 * size):
                caption_states[block.rows, : block.ids.shape[1]] = model.caption_states(block.ids, block.mask).states.bfloat16()
                done += len(block.rows)
                reporter.progress("frozen states", done, total)
        return cls(image_states, caption_states, torch.from_numpy(data.pieces.mask))

    def images(self, step: Step) -> Tokens:
        states = self.image_states[torch.from_numpy(step.views), torch.from_numpy(step.images)].float()
        if step.keep is not None:
            every = torch.cat([torch.zeros_like(step.keep[:, :1]), step.keep + 1], dim=1)
            states = states.gather(1, every[:, :, None].expand(-1, -1, states.shape[-1]))
        return Tokens(states, torch.ones(states.shape[:2], dtype=torch.bool))

    def captions(self, step: Step) -> Tokens:
        rows = torch.from_numpy(step.captions)
        mask = self.caption_mask[rows]
        width = int(mask.sum(dim=1).max())
        return Tokens(self.caption_states[rows, :width].float(), mask[:, :width])


def check_minilm_pieces(tokenizer: Path) -> None:
    """ConfigError unless a model's tokenizer.json is MiniLM's, whose numbers for word pieces some teachers read."""
    if tokenizer.read_bytes() != (minilm_folder() / "tokenizer.json").read_bytes():
        raise ConfigError(
            f"{tokenizer} is not MiniLM's, and the teachers of captions and of [cross_fitted] read captions in MiniLM's word "
            "pieces; set caption_teacher, cross_encoder_scale, cross_fitted_alignment and cross_fitted_matching in [loss] to 0"
        )


def _optimizer(recipe: Recipe, model: Aladin, score_fit: nn.Parameter, log_variances: nn.Parameter) -> torch.optim.Optimizer:
    """Parameter groups by learning rate; parts that the recipe does not name get no gradient."""
    rates = recipe.optimizer
    groups = model.backbone.parameter_groups()
    fresh, tails = ([p for group in groups if group.pace == pace for p in group.parameters] for pace in ("new", "image"))
    pretrained = [group for group in groups if group.pace == "pretrained"]
    # Both are read by what the backbone is trained for; none of these modules has weights unless the settings ask for it.
    after = [*(model.post_layers.parameters() if model.post_layers else ()), *model.alignment_depth.parameters()]
    matching = [*model.matching_depth.parameters(), *model.matching_head.parameters()]
    parts: list[tuple[bool, float, list[nn.Parameter]]] = [
        ("backbone" in recipe.train, rates.new_learning_rate, [*fresh, *after]),
        *(
            ("backbone" in recipe.train, rates.learning_rate * rates.layer_decay**group.below_top, list(group.parameters))
            for group in pretrained
        ),
        ("projection" in recipe.train, rates.new_learning_rate, list(model.alignment_head.parameters())),
        ("matching_head" in recipe.train, rates.new_learning_rate, matching),
        (
            "cross_encoder" in recipe.train,
            rates.new_learning_rate,
            list(model.cross_encoder.parameters()) if model.cross_encoder else [],
        ),
        ("image_network" in recipe.train, rates.image_learning_rate, tails),
        (recipe.loss.distillation_form == "mse", rates.new_learning_rate, [score_fit]),
        (recipe.loss.learned_weights, rates.new_learning_rate, [log_variances]),
    ]
    if "projection" in recipe.train and not any(True for _ in model.alignment_head.parameters()):
        raise ConfigError('train names "projection", but token_dim is that of the backbone, so there is none; leave it out')
    if "image_network" in recipe.train and not tails:
        raise ConfigError('train names "image_network", but this model reads a detector\'s regions; leave it out')
    model.requires_grad_(False)
    learned = []
    for learns, rate, parameters in parts:
        for parameter in parameters:
            parameter.requires_grad_(learns)
        if learns and parameters:
            matrices = [p for p in parameters if p.ndim >= 2]
            others = [p for p in parameters if p.ndim < 2]
            learned += [{"params": matrices, "full_rate": rate, "weight_decay": rates.weight_decay}]
            learned += [{"params": others, "full_rate": rate, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in learned if g["params"]], betas=(0.9, rates.beta2), fused=True)


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _cannot_go_on(what: str, value: float, step: Step, losses: dict[str, Float[Tensor, ""]]) -> TrainingError:
    parts = ", ".join(f"{name} loss {loss.item():.4g}" for name, loss in losses.items())
    return TrainingError(
        f"the {what} is {value} at step {step.number} (epoch {step.epoch}; {parts}); expected a finite number; lower the "
        "learning rates or set precision to fp32, and start anew with another --out"
    )


def _schedule(step: int, total: int, warmup: int) -> float:
    """The share of the full learning rate at a step: a line up over `warmup` steps, then a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def check_captions(dataset: Dataset, name: str) -> None:
    """Training needs at least two images, since the others of a batch are the negatives."""
    if len(dataset.examples) < 2:
        raise DataError(f"{name} has fewer than 2 images with captions; the others of a batch are the negatives: add some")


def _forget_steps(log: Path, start: int) -> None:
    """Cut the log before step `start`: what a killed run did after its last checkpoint is done again."""
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < start]
    partial = log.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(log)


def _digest(*sets: LearningSet) -> str:
    """A hash of which images own which captions."""
    digest = hashlib.sha256()
    for data in sets:
        for array in (data.owners, data.pieces.ids):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def origins(models: Mapping[str, Mapping[str, Any]], train: DataOrigin | None, val: DataOrigin | None) -> dict[str, Any]:
    """What a run is made of, as tables and as far as it is known: "start", "teacher", "ensemble" and "data"."""
    return {**models, "data": {name: data.table() for name, data in (("train", train), ("val", val)) if data is not None}}


def check_same_run(out: Path, recipe: Recipe, made_of: Mapping[str, Any]) -> None:
    """ConfigError if the folder `out` holds a run by another recipe, from another start or on other images.

    The command asks before it computes features, for hours perhaps.
    """
    path = out / "checkpoint.safetensors"
    if not path.exists():
        return
    metadata = _checkpoint_metadata(path)
    # Compared as recipes, so that a setting which a later version adds does not end a run that stands at its default.
    if from_table(Recipe, json.loads(metadata["recipe"]), str(path)) != recipe:
        raise ConfigError(f"{path} belongs to another recipe; {_anew(out)}")
    # Checkpoints of version 0.1's first days do not say.
    if other := _difference(json.loads(metadata.get("origins", "{}")), made_of):
        raise ConfigError(f"{path} belongs to a run {other}; {_anew(out)}")


def _checkpoint_metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata()
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}; delete it to start the run anew") from None
    return metadata


def _anew(out: Path) -> str:
    return f"give another --out, or delete {out} to start anew"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What of a run's origins is not what it was, as far as both say; "" if nothing."""
    for what in ("start", "teacher", "ensemble"):
        if what in before and what in now:
            was, found = (origin[what].get("models", [origin[what]]) for origin in (before, now))
            if [model["fingerprint"] for model in was] != [model["fingerprint"] for model in found]:
                return f"with another {what}, {_named_with_weights(was)}, not {_named_with_weights(found)}"
    for what, images in (("train", "training images"), ("val", "validation images")):
        if what in before.get("data", {}) and what in now["data"]:
            was, found = before["data"][what], now["data"][what]
            if was["digest"] != found["digest"]:
                before_and_now = f"{was['images']:,} of {was['name']}, not these {found['images']:,} of {found['name']}"
                return f"on other {images}, {before_and_now}"
    return ""


def _named_with_weights(models: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(f"{model['name']} (weights {model['fingerprint'][:12]})" for model in models)


def _append(file: TextIO, record: Record) -> None:
    file.write(json.dumps(record) + "\n")
    file.flush()


@functools.cache
def _commit() -> str:
    """The commit of the code that runs, with "+" if files were changed since; "unknown" outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.returncode else "")
