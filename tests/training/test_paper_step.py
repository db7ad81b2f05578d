"""The first steps of the paper's recipes beside a slow reference, written from the specification alone.

The reference has the original's network under the original's names: transformers' BERT, torch's encoder, loops for scores and
losses, torch's Adam. It computes in double precision, so that what differs is the Trainer's. Dropout is 0 in both.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import BertModel, BertTokenizer

from aladin.datasets import read_dataset
from aladin.exporting.conversion import convert_checkpoint
from aladin.network.checkpoints import load_model
from aladin.network.model import Aladin
from aladin.training.learning_set import learning_set
from aladin.training.recipe import read_recipe
from aladin.training.start import Start
from aladin.training.trainer import Trainer
from tests import official_reference
from tests.bert import bert_config
from tests.tiny_official import (
    TINY,
    Image,
    aladin_checkpoint,
    aladin_shapes,
    random_images,
    random_weights,
    write_features,
    write_vinvl,
)

RECIPES = Path(__file__).parents[2] / "recipes" / "paper"
PIECES, REGIONS = 50, 34  # the limits of section 1.2
MARGIN, STUDENT_SCALE, CLIP, RATE = 0.2, 6.0, 2.0, 1e-5  # of sections 2, 3.2 and 4.1
STEPS, BATCH = 4, 6  # three steps an epoch, so that the last of them begins another
COUNTS = [3, 5, 1, 40, 7, 4, 36, 5, 2]  # boxes of each image: one alone, and more than the limit
CAPTIONS = [
    ["Red above green.", "a picture of red"],
    ["blue and white and black.", "a"],  # the last piece is left out, so nothing of "a" is left
    ["a picture", "white above black."],
    ["Green and blue, above red picture.", "red " * 60],  # longer than the limit
    ["black", "a black picture and a white picture."],
    ["green above white", "A white and green picture."],
    ["red and red and blue.", "blue above red"],
    ["unknown wörds!", "a b c."],
    ["black and blue.", "picture above picture"],
]


@dataclass(frozen=True)
class Loss:
    """How a recipe weighs its losses, and whether the transformer learns (section 4.1)."""

    alignment: float = 0.0
    matching: float = 0.0
    distillation: float = 0.0
    frozen: bool = False


LOSSES = {
    "alignment-triplet": Loss(alignment=1.0),
    "matching-triplet-finetune": Loss(matching=1.0, frozen=True),
    "matching-distill-finetune": Loss(distillation=1.0, frozen=True),
    "matching-triplet-e2e": Loss(matching=1.0),
    "alignment-and-matching-distill": Loss(alignment=1.0, distillation=1.0),
    "alignment-and-matching-triplet0.1-plus-distill": Loss(alignment=1.0, matching=0.1, distillation=1.0),
}


def images(counts: list[int]) -> list[Image]:
    """Of which the last has more object names than the limit allows."""
    found = random_images(counts)
    return [*found[:-1], dataclasses.replace(found[-1], classes=["red picture", "white"] * 20)]


# The reference: sections 1.3 to 1.5 (network), 2 (alignment, hinge), 3.1 and 3.2 (matching, ListNet).


class Original(nn.Module):
    """The original's network with the original's names of weights."""

    def __init__(self) -> None:
        super().__init__()
        config = bert_config(TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        bert = BertModel(config)
        bert.img_embedding = nn.Linear(TINY.region, TINY.dim)
        bert.LayerNorm = nn.LayerNorm(TINY.dim, eps=1e-12)
        oscar = nn.Module()
        oscar.bert, oscar.classifier = bert, nn.Linear(TINY.dim, 2)
        both = nn.Module()
        both.oscar_model = oscar
        both.img_proj, both.cap_proj = nn.Linear(TINY.dim, TINY.dim), nn.Linear(TINY.dim, TINY.dim)
        layer = nn.TransformerEncoderLayer(TINY.dim, 4, TINY.dim, dropout=0.0)
        both.final_projection_net = nn.TransformerEncoder(layer, TINY.matching_layers, enable_nested_tensor=False)
        self.img_txt_enc = both

    @property
    def bert(self) -> Any:
        return self.get_submodule("img_txt_enc.oscar_model.bert")

    def captions(self, texts: list[list[int]]) -> list[Tensor]:
        """Of each caption the states of [CLS], its word pieces and [SEP]."""
        ids, real = padded(texts)
        states = self.read(self.words(ids, torch.zeros_like(ids)), real)
        return [row[: len(text)] for row, text in zip(states, texts, strict=True)]

    def images(self, tags: list[list[int]], boxes: list[Tensor]) -> list[Tensor]:
        """Of each image the states of its regions alone."""
        ids, real = padded(tags)
        types = torch.zeros_like(ids)
        for row, pieces in zip(types, tags, strict=True):
            row[1 : len(pieces)] = 1
        regions, real_regions = torch.zeros(len(boxes), REGIONS, TINY.region), torch.zeros(len(boxes), REGIONS)
        for number, rows in enumerate(boxes):
            regions[number, : len(rows)], real_regions[number, : len(rows)] = rows, 1
        embedded = self.bert.LayerNorm(self.bert.img_embedding(regions.double()))
        states = self.read(torch.cat([self.words(ids, types), embedded], dim=1), torch.cat([real, real_regions], dim=1))
        return [row[PIECES : PIECES + len(rows)] for row, rows in zip(states, boxes, strict=True)]

    def words(self, ids: Tensor, types: Tensor) -> Tensor:
        embedded: Tensor = self.bert.embeddings(input_ids=ids, token_type_ids=types)
        return embedded

    def read(self, embedded: Tensor, real: Tensor) -> Tensor:
        bias = (1 - real.double())[:, None, None] * -10000
        states: Tensor = self.bert.encoder(embedded, attention_mask=bias).last_hidden_state
        return states

    def vectors(self, items: list[Tensor]) -> Tensor:
        """Of each item the matching head's output at its first token: [CLS], or the first region."""
        matching = self.get_submodule("img_txt_enc.final_projection_net")
        tokens = nn.utils.rnn.pad_sequence(items)
        padding = torch.tensor([[place >= len(states) for place in range(len(tokens))] for states in items])
        first = matching(tokens, src_key_padding_mask=padding)[0]
        unit: Tensor = first / first.norm(dim=1, keepdim=True)
        return unit


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """To the full limit, as the original reads everything; which pieces are real."""
    ids = torch.tensor([row + [0] * (PIECES - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (PIECES - len(row)) for row in rows])


def alignment(image: Tensor, caption: Tensor, slots: int) -> Tensor:
    """MrSw without region 0, [CLS], [SEP] and the last word piece; cells of the image's padding up to `slots` regions are 0."""
    score = torch.zeros((), dtype=torch.float64)
    for word in caption[1:-2]:
        cells = [torch.zeros((), dtype=torch.float64)] * (slots - len(image))
        cells += [region @ word / (region.norm() * word.norm()) for region in image[1:]]
        if cells:
            score = score + torch.stack(cells).max()
    return score


def hinge(scores: Tensor) -> Tensor:
    """Each image's hardest other caption and each caption's hardest other image, added."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(scores)):
        others = [j for j in range(len(scores)) if j != i]
        total = total + torch.stack([(MARGIN + scores[i, j] - scores[i, i]).relu() for j in others]).max()
        total = total + torch.stack([(MARGIN + scores[j, i] - scores[i, i]).relu() for j in others]).max()
    return total


def listnet(student: Tensor, teacher: Tensor) -> Tensor:
    """Rows and columns, each with the mean over its lists; without the original's 1e-10 inside the logarithm."""
    total = torch.zeros((), dtype=torch.float64)
    for ours, theirs in ((student, teacher.detach()), (student.T, teacher.detach().T)):
        for a, b in zip(ours, theirs, strict=True):
            total = total - (b.softmax(dim=0) * (STUDENT_SCALE * a).log_softmax(dim=0)).sum() / len(ours)
    return total


class Reference:
    """Learns as a recipe says, from rows of images and captions."""

    def __init__(self, files: "Files", loss: Loss, shown: list[Image], more_slots: int = 0) -> None:
        """`more_slots` of padding behind the longest image of a batch; the original has none in training."""
        self.network, self.loss, self.more_slots = Original(), loss, more_slots
        self.network.load_state_dict(files.weights)
        self.network.double()
        tokenizer = BertTokenizer(str(files.vinvl / "vocab.txt"), do_lower_case=True)
        ids = tokenizer.get_vocab()

        def pieces(first: str, text: str) -> list[int]:
            return [ids[piece] for piece in (first, *tokenizer.tokenize(text)[: PIECES - 2], "[SEP]")]

        self.captions = [pieces("[CLS]", text) for texts in CAPTIONS for text in texts]
        # The original puts an integer where its tokenizer takes [CLS], and gets [UNK].
        self.tags = [pieces("[UNK]", " ".join(image.classes)) for image in shown]
        self.boxes = [torch.from_numpy(image.boxes[:REGIONS]) for image in shown]
        self.network.get_submodule("img_txt_enc.oscar_model").requires_grad_(not loss.frozen)
        self.weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.adam = torch.optim.Adam(self.weights, lr=RATE)

    def learn(self, image_rows: list[int], caption_rows: list[int]) -> dict[str, float]:
        """One step on pairs; each loss before it is weighed, and the gradient's norm before it is clipped."""
        losses = self.losses(image_rows, caption_rows)
        self.adam.zero_grad()
        torch.autograd.backward(sum(getattr(self.loss, name) * value for name, value in losses.items()))
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        norm = sum(gradient.square().sum().item() for gradient in gradients) ** 0.5
        for gradient in gradients:
            gradient *= min(1.0, CLIP / norm)
        self.adam.step()
        return {f"unweighed loss {name}": value.item() for name, value in losses.items()} | {"gradient norm": norm}

    def losses(self, image_rows: list[int], caption_rows: list[int]) -> dict[str, Tensor]:
        shown = self.network.images([self.tags[row] for row in image_rows], [self.boxes[row] for row in image_rows])
        said = self.network.captions([self.captions[row] for row in caption_rows])
        slots = max(map(len, shown)) + self.more_slots
        aligned = torch.stack([torch.stack([alignment(image, caption, slots) for caption in said]) for image in shown])
        matched = self.network.vectors(shown) @ self.network.vectors(said).T
        losses = {"alignment": hinge(aligned), "matching": hinge(matched), "distillation": listnet(matched, aligned)}
        return {name: value for name, value in losses.items() if getattr(self.loss, name)}


# The package beside it.


@dataclass(frozen=True)
class Files:
    """The original's, and a model converted from them."""

    weights: dict[str, Tensor]
    vinvl: Path
    model: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("original")
    weights = random_weights(aladin_shapes(TINY))
    vinvl = write_vinvl(folder / "vinvl", weights=False)
    return Files(weights, vinvl, converted(weights, vinvl, folder))


def converted(weights: dict[str, Tensor], vinvl: Path, folder: Path) -> Path:
    torch.save(aladin_checkpoint(weights), folder / "model_best_rsum.pth.tar")
    convert_checkpoint(folder / "model_best_rsum.pth.tar", vinvl, folder / "model")
    return folder / "model"


def without_dropout(model: Aladin) -> Aladin:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def trainer(name: str, model: Path, shown: list[Image], folder: Path) -> Trainer:
    """A run by the recipe as it stands, but for its batches, from a converted model."""
    features = write_features(folder / "features", shown)
    rows = [{"image": image.id, "captions": texts} for image, texts in zip(shown, CAPTIONS, strict=True)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = dataclasses.replace(read_recipe(RECIPES / f"{name}.toml"), batch_images=BATCH)
    network, tokenizer = without_dropout(load_model(model)), model / "tokenizer.json"
    dataset = read_dataset(folder / "captions.jsonl", images=features)
    data = learning_set(dataset, network, tokenizer, folder / "cache", recipe.views)
    return Trainer(recipe, Start(network, tokenizer), data, data, folder / "run")


def learned(run: Trainer, reference: Reference) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Each loss and the gradient's norm, step by step."""
    ours, theirs = [], []
    for step in run.plan.steps(0, STEPS):
        record = run.learn(step)
        ours.append({key: value for key, value in record.items() if key.startswith("unweighed loss") or key == "gradient norm"})
        theirs.append(reference.learn(step.images.tolist(), step.captions.tolist()))
    return ours, theirs


def agree(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> bool:
    return ours == [pytest.approx(expected, rel=1e-5) for expected in theirs]


def with_a_gradient(name: str, weight: Tensor) -> Tensor:
    """Without biases of keys: no loss depends on them, so that Adam makes steps of their gradient's rounding error."""
    if name.endswith("in_proj_bias"):
        query, _, value = weight.chunk(3)
        return torch.cat([query, value])
    return weight[:0] if name.endswith("key.bias") else weight


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_the_first_steps_of_a_recipe_are_those_of_a_slow_reference(name: str, files: Files, tmp_path: Path) -> None:
    shown = images(COUNTS)
    run, reference = trainer(name, files.model, shown, tmp_path), Reference(files, LOSSES[name], shown)
    ours, theirs = learned(run, reference)
    for step, (actual, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert actual == pytest.approx(expected, rel=1e-5), f"step {step}"
    assert min(expected["gradient norm"] for expected in theirs) > CLIP, "every step's gradient is clipped"
    weights = {key: weight.float() for key, weight in reference.network.state_dict().items()}
    expected_weights = load_model(converted(weights, files.vinvl, tmp_path)).state_dict()
    before = load_model(files.model).state_dict()
    moved = max((weight - before[key]).abs().max().item() for key, weight in expected_weights.items())
    assert moved == pytest.approx(STEPS * RATE, rel=0.05)
    for key, weight in run.model.state_dict().items():
        # A weight moves by up to 4e-5; what differs is the rounding of it, so that even another beta2 is seen.
        found, wanted = with_a_gradient(key, weight), with_a_gradient(key, expected_weights[key])
        assert_close(found, wanted, atol=8e-8, rtol=1.2e-7, msg=key)


def test_batches_hold_an_image_twice_with_two_captions_that_are_each_others_negatives(files: Files, tmp_path: Path) -> None:
    steps = list(trainer("alignment-triplet", files.model, images(COUNTS), tmp_path).plan.steps(0, STEPS))
    assert any(len(set(step.images.tolist())) < len(step.images) for step in steps)
    assert all(torch.equal(step.positives, torch.eye(BATCH, dtype=torch.bool)) for step in steps)
    assert [step.epoch for step in steps] == [0, 0, 0, 1]


def test_padding_acts_on_the_longest_image_of_a_batch_too_which_is_all_that_differs(files: Files, tmp_path: Path) -> None:
    """The one point of training in which docs/official.md says that the package differs from the original."""
    shown = images([2, 3, 3, 2, 3, 2, 3, 3, 2])  # few regions, so that a word's best one is often below 0
    found = []
    for more_slots in (0, 1):
        folder = tmp_path / str(more_slots)
        folder.mkdir()
        run = trainer("alignment-triplet", files.model, shown, folder)
        found.append(agree(*learned(run, Reference(files, LOSSES["alignment-triplet"], shown, more_slots))))
    assert found == [False, True]


def test_both_slow_references_of_the_alignment_score_agree() -> None:
    random = np.random.default_rng(0)
    for regions, words in ((1, 5), (2, 3), (4, 2), (6, 9), (34, 50)):
        image, caption = random.normal(size=(regions, TINY.dim)), random.normal(size=(words, TINY.dim))
        expected = official_reference.alignment(image, caption, "MrSw")
        found = alignment(torch.from_numpy(image), torch.from_numpy(caption), official_reference.SLOTS)
        assert found.item() == pytest.approx(expected, abs=1e-12)
