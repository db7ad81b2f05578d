"""`torchrun -m tests.shared_training RECIPE FOLDER [STOP]`: one process of a run of test_sharing.py, on tiny pictures.

With STOP the process of the highest rank kills itself after that many steps, as a machine that fails.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import torch

from aladin.network.checkpoints import save_model
from aladin.network.model import Aladin
from aladin.network.run import Run
from aladin.training import trainer as training
from aladin.training.recipe import LossConfig, Recipe
from aladin.training.sharing import one_of_several
from aladin.training.teachers.caption_similarity import CaptionSimilaritySettings
from aladin.training.teachers.cross_encoder import CrossEncoderSettings
from aladin.training.teachers.ensemble import EnsembleSettings
from aladin.training.trainer import Trainer
from tests.tiny_learning import FAST, TINY, Recorder, tiny_model, trainer, write_tokenizer
from tests.training import test_paper_recipes as paper

BOTH = {"alignment": 1.0, "matching": 1.0}
SLOW = dataclasses.replace(FAST, learning_rate=3e-4, new_learning_rate=1e-3)
RECIPES = {
    "both": Recipe(
        train=("backbone", "image_network", "matching_head"),
        dropped_words=0.3,
        kept_regions=3,
        captions_per_image=1,
        averaged_steps=5,
        loss=LossConfig(matching=1.0, distillation=1.0, entropy=0.1, hidden_l1=0.01, learned_weights=False),
        teacher=(CaptionSimilaritySettings(alignment=1.0),),
    ),
    "losses that weigh themselves, in chunks": Recipe(
        train=("backbone", "matching_head"),
        loss=LossConfig(matching=1.0, distillation=1.0, distillation_form="mse", learned_weights=True),
    ),
    "the cross-encoder": Recipe(train=("backbone", "cross_encoder"), loss=LossConfig(alignment=0.0, cross_encoder=1.0)),
    "the frozen": Recipe(train=("matching_head",), loss=LossConfig(alignment=0.0, distillation=1.0)),
    "teachers": Recipe(train=("backbone", "matching_head"), loss=LossConfig(matching=1.0)),  # which are models of the folder
}


def recipe_of(name: str, folder: Path) -> Recipe:
    """The recipe: 50 steps of three images, of two for every third."""
    if name in paper.NAMES:
        short = dataclasses.replace(paper.recipe(name), epochs=13, batch_images=4, validate_every=13, optimizer=SLOW)
        return dataclasses.replace(short, precision="fp32", frozen_dropout=False)
    recipe = dataclasses.replace(
        RECIPES[name], epochs=17, batch_images=3, views=1, validate_every=17, precision="fp32", optimizer=SLOW
    )
    if name == "teachers":
        models = (str(folder / "teacher"),)
        taught = (EnsembleSettings(**BOTH, models=models), CrossEncoderSettings(**BOTH, models=models, list_length=3))
        return dataclasses.replace(recipe, teacher=taught)
    if "chunks" in name:
        return dataclasses.replace(recipe, compute=dataclasses.replace(recipe.compute, chunk_images=1))
    return recipe


def run_of(name: str, folder: Path, process: Run) -> Trainer:
    """The run of one process; without dropout, which draws otherwise for another share of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"rank {process.rank}"  # what every host has for itself
    recipe = recipe_of(name, own)
    if name in paper.NAMES:
        run = paper.run_of(recipe, own, process)
    else:
        tokenizer = write_tokenizer(own)
        heads = dataclasses.replace(TINY.heads, cross_encoder=True, matching_dropout=0.0)
        model = tiny_model(tokenizer, dataclasses.replace(TINY, heads=heads))
        save_model(model, tokenizer, own / "teacher")
        run = trainer(recipe, own, model, run=process)
    run.folder = dataclasses.replace(run.folder, path=folder / "run")
    return without_dropout(run)


def without_dropout(run: Trainer) -> Trainer:
    for module in run.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    return run


def weights(model: Aladin) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.state_dict().items() if weight.is_floating_point()}


class Failing(Recorder):
    """Kills its process once step `stop` is done."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def progress(self, what: str, done: int, total: int) -> None:
        if what == "training steps" and done == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, folder, stop = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    training.CHECKPOINT_SECONDS = 0 if stop else 120
    with one_of_several("cpu", "fp32") as process:
        last = process.rank == process.world - 1
        run = run_of(name, folder, process)
        run.run(Failing(stop) if stop and last else Recorder())
        sums = {name: weight.double().sum().item() for name, weight in weights(run.model).items()}
        (folder / f"weights {process.rank}.json").write_text(json.dumps(sums))
