"""What the learning side is tested with: a transformer of one layer, pictures of two colours, and captions that name them.

`python -m tests.tiny_learning OUT STOP` begins the run of test_training.py that is killed: after step STOP it waits for that.
"""

import dataclasses
import itertools
import json
import string
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from hypothesis import settings
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import nn

from aladin.encoder.config import BackboneConfig, HeadsConfig, ImageConfig, LimitsConfig, ModelConfig
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.word_pieces import WordPieces
from aladin.network.grid import GridNetwork, top_classes
from aladin.network.grid_features import GridFeatures, PhotographReader
from aladin.network.minilm import minilm_folder
from aladin.network.model import Aladin, new_model
from aladin.network.run import Run
from aladin.progress import Progress
from aladin.training import trainer as training
from aladin.training.learning_set import LearningSet, Reader
from aladin.training.recipe import LossConfig, OptimizerConfig, Recipe
from aladin.training.start import Start, teachers_of
from aladin.training.trainer import Trainer

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 50, 220), "white": (240, 240, 240), "black": (10, 10, 10)}
PAIRS = list(itertools.permutations(COLOURS, 2))  # 20: above, below
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *COLOURS, "above", "below", "and", "a", "picture"]
VOCABULARY += [*string.ascii_lowercase[1:], *(f"##{letter}" for letter in string.ascii_lowercase)]  # "a" is a word
SIZE = 64
TINY = ModelConfig(
    BackboneConfig(vocabulary=len(VOCABULARY), positions=16, dim=16, layers=1, heads=2, feed_forward=32),
    HeadsConfig(token_dim=16, matching_layers=1, matching_heads=2, matching_feed_forward=16),
    LimitsConfig(tags=1, tag_pieces=3),
    ImageConfig(grid=2),
    preprocessing=Preprocessing(SIZE, caption_pieces=12),
)
FAST = OptimizerConfig(learning_rate=3e-3, new_learning_rate=1e-2, image_learning_rate=1e-4, warmup_steps=2)

# Properties are checked on few examples each: one may take a while on a machine that is busy.
few_examples = settings(deadline=None, max_examples=10)


def write_tokenizer(folder: Path) -> Path:
    """tokenizer.json, which knows the colours and spells everything else."""
    tokenizer = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def write_minilm(folder: Path) -> Path:
    """A folder with MiniLM's weights that spells captions as the tests do."""
    write_tokenizer(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        weights.symlink_to(minilm_folder() / "model.safetensors")
    return folder


def tiny_model(tokenizer: Path, config: ModelConfig = TINY, seed: int = 0) -> Aladin:
    torch.manual_seed(seed)
    model = new_model(config, WordPieces.of(tokenizer, config.preprocessing), pretrained=False)
    assert model.backbone.image_network is not None
    revive(model.backbone.image_network)
    return model


def revive(network: nn.Module) -> None:
    """Random convolutions that keep a signal's size; PyTorch's own shrink it to nothing over so many layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)


def picture(number: int) -> np.ndarray:
    """Picture `number`: one colour above another, as its captions say, with some noise."""
    above, below = (COLOURS[name] for name in PAIRS[number])
    pixels = np.empty((SIZE, SIZE, 3))
    pixels[: SIZE // 2], pixels[SIZE // 2 :] = above, below
    noise = np.random.default_rng(number).normal(0, 5, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def captions(number: int) -> list[str]:
    above, below = PAIRS[number]
    return [f"{above} above {below}", f"a picture: {below} below {above}"]


def write_pictures(folder: Path, count: int, first: int = 0) -> Path:
    """A data set in a folder: pictures as PNG and captions.jsonl."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(first, first + count):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "captions": captions(number)}) + "\n")
    (folder / "captions.jsonl").write_text("".join(rows))
    return folder


@torch.no_grad()
def learning_set(model: Aladin, tokenizer: Path, count: int, views: int = 1) -> LearningSet:
    """The first `count` pictures, every view of them alike up to noise, without files and without ONNX."""
    texts = [text for number in range(count) for text in captions(number)]
    pieces = WordPieces.of(tokenizer, model.config.preprocessing).encode(texts)
    return LearningSet(
        seen_by(Reader(model.backbone.image_reader(tokenizer), views), count), pieces, np.repeat(np.arange(count), 2)
    )


def seen_by(reader: Reader, count: int) -> GridFeatures:
    """The first `count` pictures as a reader sees them."""
    assert isinstance(reader.reads, PhotographReader)
    random = np.random.default_rng(0)
    maps, tags = [], []
    for _ in range(reader.views):
        pixels = np.stack([picture(number) for number in range(count)])
        noisy = np.clip(pixels + random.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)
        found, classes = trunk(reader.reads.network, noisy, reader.reads.tags)
        maps.append(found)
        tags.append(classes)
    return GridFeatures(np.stack(maps), np.stack(tags))


@torch.no_grad()
def trunk(network: GridNetwork, pixels: np.ndarray, tags: int) -> tuple[np.ndarray, np.ndarray]:
    maps = network.maps(torch.from_numpy(pixels))
    classes = top_classes(network.class_logits(maps), tags)
    return maps.numpy().astype(np.float16), classes.numpy().astype(np.int16)


class Recorder:
    """Watches a run and remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.epochs: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Progress]:
        yield lambda done, total: self.progress(name, done, total)

    def progress(self, what: str, done: int, total: int) -> None:
        self.seen.append((what, done, total))

    def validated(self, epoch: int, measures: dict[str, float]) -> None:
        self.epochs.append((epoch, measures))

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def trainer(
    recipe: Recipe,
    folder: Path,
    model: Aladin | None = None,
    pictures: int = 8,
    fresh_projection: bool = False,
    trackers: tuple[str, ...] = (),
    run: Run | None = None,
) -> Trainer:
    """A run in `folder`/run on the first pictures, from `model` or from random weights."""
    tokenizer, minilm = write_tokenizer(folder), write_minilm(folder / "minilm")
    model = model or tiny_model(tokenizer)
    train, val = (learning_set(model, tokenizer, pictures, views) for views in (recipe.views, 1))
    teachers = teachers_of(recipe, model, tokenizer, minilm)
    start = Start(model, tokenizer, teachers, fresh_projection, minilm=minilm)

    def seen(reader: Reader) -> GridFeatures:
        return seen_by(reader, pictures)

    return Trainer(recipe, start, train, val, folder / "run", seen, run, trackers)


def losses(out: Path) -> dict[int, dict[str, float]]:
    """The losses of every step in a run's log.jsonl; no step may stand there twice."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    assert len({record["step"] for record in steps}) == len(steps)
    return {record["step"]: {name: value for name, value in record.items() if name.startswith("loss")} for record in steps}


# Everything that could differ between a run and its continuation: several views, drawn regions, a tail that learns later.
INTERRUPTED = Recipe(
    train=("backbone", "image_network", "matching_head"),
    epochs=4,
    batch_images=3,
    captions_per_image=1,
    views=2,
    kept_regions=3,
    dropped_words=0.3,
    image_network_from_epoch=1,
    averaged_steps=3,
    loss=LossConfig(alignment=1.0, matching=0.5, distillation=1.0, distillation_form="mse"),
    optimizer=dataclasses.replace(FAST, warmup_steps=4),
)


class Waiting(Recorder):
    """Says so once step `stop` is done, and then waits to be killed."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def progress(self, what: str, done: int, total: int) -> None:
        if what == "training steps" and done == self.stop:
            print("waiting", flush=True)
            time.sleep(600)


if __name__ == "__main__":
    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = 0
    trainer(INTERRUPTED, Path(sys.argv[1])).run(Waiting(int(sys.argv[2])))
