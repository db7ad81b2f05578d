"""Training by recipe: align, distil or both, resumable to the same losses.

Everything random in a step is fixed by the recipe's seed and the step's number, so a run that was killed and resumed reads
the same batches and computes the same losses as one that was not.
"""

import functools
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from aladin.measures.run_logs import Record
from aladin.network.backbone import ImageSet
from aladin.network.minilm import minilm
from aladin.network.model import Aladin
from aladin.network.run import Run
from aladin.network.transformer import EncoderLayer
from aladin.processes import peak_memory
from aladin.training.averaging import averaged_model
from aladin.training.batches import Plan, Step
from aladin.training.caption_similarity import CaptionSimilarity
from aladin.training.checkpoint import Learning
from aladin.training.collapse import Collapse
from aladin.training.learning_set import ImagesSeen, LearningSet, Reader, captions_digest
from aladin.training.objective import Objective
from aladin.training.optimizer import optimizer_of
from aladin.training.projection import AXES_STEPS, begin_projection
from aladin.training.read_ahead import ReadAhead
from aladin.training.recipe import Recipe
from aladin.training.run_folder import RunFolder, origins_of
from aladin.training.sharing import agreed, spread
from aladin.training.start import Start
from aladin.training.state_bank import StateBank
from aladin.training.step_input import StepInput
from aladin.training.stepping import Stepping
from aladin.training.teachers import Lessons
from aladin.training.training_progress import SILENT_TRAINING, TrainingProgress
from aladin.training.validation import judged_head, validate

CHECKPOINT_SECONDS = 120  # between two checkpoints inside an epoch


def nobody_else(reader: Reader) -> ImageSet:
    """The training images for teachers of a run in which none has a reader of its own."""
    raise AssertionError(f"{reader.name} sees the images its own way; give the run those images")


def _unheard(record: Record) -> None:
    """The log of a process beside the first."""


class Trainer:
    """One run in the folder `out`: `checkpoint.safetensors` to go on from, `best/` the model folder with the best rsum."""

    def __init__(
        self,
        recipe: Recipe,
        start: Start,
        train: LearningSet,
        val: LearningSet,
        out: Path,
        images: ImagesSeen = nobody_else,
        run: Run | None = None,
        trackers: tuple[str, ...] = (),
    ) -> None:
        """`images` gives the training images as readers of the start's teachers see them."""
        assert [teacher.kind for teacher in recipe.teacher] == list(start.teachers), "the start is that of another recipe"
        self.recipe, self.start, self.train_set, self.val_set = recipe, start, train, val
        self.process = run or Run(recipe.precision)
        self.model = _placed(start.model, recipe, self.process)
        self.folder = RunFolder(out, recipe, origins_of(start.origins, train.origin, val.origin), trackers)
        self._images = images
        self.plan = _plan(recipe, start, train)
        self.images = ReadAhead(train.images, self.process, recipe.compute.read_ahead, recipe.compute.workers)
        others = any(teacher.reads_images for teacher in start.teachers.values())
        self.reads = StepInput(recipe, self.model, train, self.process, self.images, others)
        # Several may want it: teachers, and a cross-encoder that learns.
        self._similarity = functools.cache(self._caption_similarity)
        self.objective = Objective(recipe, self.model, self.reads, start.teachers, self._similarity, self.process)
        averaged = averaged_model(self.model, recipe.averaged_steps) if recipe.averaged_steps else None
        optimizer = optimizer_of(recipe, self.model, self.objective.groups)
        scaler = torch.amp.GradScaler(self.process.device.type, enabled=recipe.precision == "fp16")
        self.learning = Learning(self.model, averaged, self.objective, optimizer, scaler)
        self.total_steps = recipe.epochs * self.plan.steps_per_epoch
        self.stepping = Stepping(recipe, self.learning, self.process, self.total_steps)
        self.next_step = 0
        self.best_rsum = -math.inf
        self.collapse = Collapse(recipe)

    @property
    def kept_model(self) -> Aladin:
        """The model that is validated and saved: the one that learns, or the mean of its weights."""
        kept = self.model if self.learning.averaged is None else self.learning.averaged.module
        assert isinstance(kept, Aladin)
        return kept

    @property
    def judged_head(self) -> str:
        return judged_head(self.recipe)

    def validate(self) -> dict[str, float]:
        """Recalls and rsum on the validation set, of each head that this recipe trains or learns from."""
        return validate(self.kept_model, self.val_set, self.recipe, self.process)

    def run(self, progress: TrainingProgress) -> None:
        """Train to the end, from the last checkpoint of the folder if there is one."""
        self._resume()
        self._meet()
        if self.process.writes:
            self.folder.begin(self.model, {"steps": self.total_steps, "judged_head": self.judged_head})
        if self.next_step < self.total_steps:
            self._prepare(progress)
        with self.folder.log(self.next_step, progress.note) if self.process.writes else nullcontext(_unheard) as log:
            while self.next_step < self.total_steps:
                self._epoch(log, progress)

    def _prepare(self, progress: TrainingProgress) -> None:
        """What no step changes."""
        frozen = not {"backbone", "image_network"} & set(self.recipe.train)
        changes = self.recipe.frozen_dropout and self.model.config.backbone.forgets
        if frozen and not changes and self.model.backbone.regions is not None:
            with progress.step("frozen states") as watched:
                self.reads.bank = StateBank.build(self.model, self.train_set, self.process, watched)
        if self.recipe.loss.needs_caption_similarity:
            self._similarity()  # not in the first step, where it would move torch's generator
        for teacher in self.start.teachers.values():
            teacher.prepare(self.process, self.lessons(progress))
        if self.start.fresh_projection and self.next_step == 0:
            steps = self.plan.steps(0, min(AXES_STEPS, self.total_steps))
            begin_projection(self.model, self.reads, steps, self.process)

    def lessons(self, progress: TrainingProgress = SILENT_TRAINING) -> Lessons:
        """What teachers prepare from."""
        return Lessons(
            self.train_set, self.plan, self._images, self._similarity, self.start.minilm, self.folder.path, self.images,
            self.next_step > 0, progress,
        )  # fmt: skip

    def _caption_similarity(self) -> CaptionSimilarity:
        backbone = minilm(self.start.minilm)
        return CaptionSimilarity.build(backbone, self.train_set.pieces, self.train_set.owners, self.process)

    def _epoch(self, log: Callable[[Record], None], progress: TrainingProgress) -> None:
        """The steps that are left of an epoch, and what follows them."""
        began = saved = time.monotonic()
        end = (self.next_step // self.plan.steps_per_epoch + 1) * self.plan.steps_per_epoch
        coming = self.plan.steps(self.next_step, end)
        with progress.step("training steps") as watched, self.images.ahead(coming, self.reads.image_parts) as steps:
            for step in steps:
                record = self.learn(step)
                self.next_step = step.number + 1
                log({"step": step.number, "epoch": step.epoch} | record)
                watched(self.next_step, self.total_steps)
                if sentence := self.collapse.noticed(record, len(step.captions) / self.stepping.part_count(step)):
                    progress.note(sentence)
                every = self.recipe.validate_steps
                due = every > 0 and self.next_step % every == 0
                if self.next_step < end and (due or time.monotonic() - saved > CHECKPOINT_SECONDS):
                    if due:
                        self._judge(step, log, progress, {})
                    self._save_checkpoint()
                    saved = time.monotonic()
        cost = {"epoch_seconds": time.monotonic() - began}
        if peaks := peak_memory():
            cost["peak_memory_gib"] = peaks[0] / 2**30
        if self.process.device.type == "cuda":
            cost["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.process.device) / 2**30
        if end == self.total_steps or (step.epoch + 1) % self.recipe.validate_every == 0:
            self._judge(step, log, progress, cost)
        self._save_checkpoint()

    def _judge(self, step: Step, log: Callable[[Record], None], progress: TrainingProgress, cost: dict[str, float]) -> None:
        """Measure the model after a step, and keep it if it is the best so far."""
        measures = self.validate()
        cost = cost | {"waited_share": self.images.share_waited()}
        log({"step": step.number, "epoch": step.epoch} | measures | cost)
        progress.validated(step.epoch, measures | cost)
        self._keep_best(step.epoch, measures[f"{self.judged_head} rsum"])

    def learn(self, step: Step) -> dict[str, float]:
        """One step of the optimizer; what the log says of it."""
        with self.images.step():
            return self.stepping.learn(step)

    def _keep_best(self, epoch: int, rsum: float) -> None:
        if rsum > self.best_rsum:
            self.best_rsum = rsum
            if self.process.writes:
                self.folder.save_best(self.kept_model, self.start.tokenizer, epoch)

    def _save_checkpoint(self) -> None:
        if self.process.writes:
            reached = {"step": str(self.next_step), "best_rsum": str(self.best_rsum), "captions": self._captions()}
            reached |= {"shards": self.plan.shards_digest}
            self.folder.save_checkpoint(self.learning.state(), self.learning.metadata | reached)

    def _captions(self) -> str:
        return captions_digest(self.train_set, self.val_set)

    def _resume(self) -> None:
        found = self.folder.read_checkpoint()
        if found is None:
            return
        state, metadata = found
        if metadata.get("captions", self._captions()) != self._captions():  # checkpoints of version 0.1's first days do not say
            raise self.folder.of_another("a run on other captions")
        if metadata.get("shards", self.plan.shards_digest) != self.plan.shards_digest:
            raise self.folder.of_another("a run on the same features in other shards")
        if not self.learning.fits(state):
            raise self.folder.of_another("a model of other sizes")
        self.learning.restore(state, metadata)
        self.next_step, self.best_rsum = int(metadata["step"]), float(metadata["best_rsum"])

    def _meet(self) -> None:
        """All processes at the same step, with the same weights."""
        agreed(self.next_step, "the step to go on from", self.process)
        spread(list(self.learning.state().values()), self.process)


def _plan(recipe: Recipe, start: Start, train: LearningSet) -> Plan:
    regions = start.model.backbone.regions or 1  # where their number differs, all are read
    return Plan(
        train.owners,
        recipe.batch_images,
        recipe.captions_per_image,
        train.views,
        regions,
        min(recipe.kept_regions, regions),
        recipe.seed,
        folds_of(start, train.image_count),
        recipe.captions == "each",
        train.shards if recipe.shuffle == "shards" else None,
        recipe.window_shards,
    )


def folds_of(start: Start, images: int) -> Int[np.ndarray, " images"] | None:
    """The fold of each training image, if a teacher wants steps of one fold; DataError for too few images."""
    found = [folds for teacher in start.teachers.values() if (folds := teacher.folds(images)) is not None]
    assert len(found) <= 1, "two teachers cannot both part the images"
    return found[0] if found else None


def _placed(model: Aladin, recipe: Recipe, run: Run) -> Aladin:
    """The model on its device, computing as the recipe says."""
    if recipe.compute.tf32:
        torch.set_float32_matmul_precision("high")
    model.backbone.recomputes = recipe.compute.recompute_layers
    if recipe.compute.compile:
        for module in model.modules():
            if isinstance(module, EncoderLayer | nn.TransformerEncoderLayer):
                module.compile(dynamic=True)
    return model.to(run.device)
