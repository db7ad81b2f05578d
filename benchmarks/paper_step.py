"""A training step at the paper's sizes against the same step written with transformers' BertModel.

    python benchmarks/paper_step.py
    python benchmarks/paper_step.py --precision bf16 --trimmed

12 layers of 768 numbers, 32 pairs, up to 34 regions of 2,054 numbers, up to 50 pieces of tags and of captions; the hinge of
recipes/paper/alignment-triplet.toml, AdamW, clipped gradients, no dropout, so that losses can be compared. Both start from the
same random weights and read the same synthetic batches. Lengths are drawn: captions of about 13 pieces, tags of about 36, 18 to
34 regions. The plain step pads as the original does, to 50 and 84 tokens; with --trimmed to the
longest of a batch. Steps alternate, and each pair of steps gives a ratio. Needs transformers (`pip install '.[dev]'`).
"""

import dataclasses
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from aladin.encoder.config import ModelConfig
from aladin.encoder.word_pieces import Pieces
from aladin.network.backbones import new_backbone
from aladin.network.minilm import bert_name, minilm_folder
from aladin.network.model import Aladin
from aladin.network.run import Precision, Run
from aladin.network.tensors import ImageInput, Regions
from aladin.network.transformer import initialise
from aladin.training.batches import Step
from aladin.training.learning_set import LearningSet
from aladin.training.losses import hinge_loss
from aladin.training.recipe import Recipe, read_recipe
from aladin.training.start import Start
from aladin.training.trainer import Trainer

RECIPE = Path(__file__).parents[1] / "recipes" / "paper" / "alignment-triplet.toml"
CLS, SEP, UNK = 101, 102, 100


@dataclass(frozen=True)
class Images:
    """Synthetic images of a detector, all in memory."""

    tags: Tensor
    tag_mask: Tensor
    features: Tensor
    region_mask: Tensor

    def __len__(self) -> int:
        return len(self.tags)

    @property
    def views(self) -> int:
        return 1

    def read(self, rows: np.ndarray, views: int | np.ndarray = 0) -> ImageInput:
        """Some of them, no wider than their longest."""
        tags, regions = int(self.tag_mask[rows].sum(dim=1).max()), int(self.region_mask[rows].sum(dim=1).max())
        features = self.features[rows, :regions]
        found = Regions(features[..., :2048], features[..., 2048:], self.region_mask[rows, :regions])
        return ImageInput(self.tags[rows, :tags], self.tag_mask[rows, :tags], found)


def synthetic(recipe: Recipe, steps: int) -> LearningSet:
    """As many images, with a caption each, as so many steps read."""
    random, limits = np.random.default_rng(0), recipe.model.limits
    count = steps * recipe.batch_images
    counts = np.minimum(random.integers(18, 46, count), limits.regions)
    tag_lengths = np.clip(np.round(counts * 1.2), 3, limits.object_pieces).astype(int)
    caption_lengths = np.clip(np.round(random.normal(13, 2.5, count)), 8, 50).astype(int)

    def pieces(lengths: np.ndarray, width: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        mask = np.arange(width) < lengths[:, None]
        ids = random.integers(1996, 20000, (count, width))
        ids[:, 0], ids[np.arange(count), lengths - 1] = first, SEP
        return np.where(mask, ids, 0), mask

    tags, tag_mask = pieces(tag_lengths, limits.object_pieces, UNK)
    ids, mask = pieces(caption_lengths, 50, CLS)
    features = torch.from_numpy(random.random((count, limits.regions, 2054), dtype=np.float32))
    region_mask = torch.from_numpy(np.arange(limits.regions) < counts[:, None])
    images = Images(torch.from_numpy(tags), torch.from_numpy(tag_mask), features, region_mask)
    return LearningSet(images, Pieces(ids, mask, (False,) * count, ((),) * count), np.arange(count))


class PlainStep:
    """The same step as a researcher would write it: BertModel, everything padded, AdamW as it comes."""

    def __init__(self, model: Aladin, recipe: Recipe, data: LearningSet, trimmed: bool) -> None:
        sizes, self.recipe, self.data, self.trimmed = model.config.backbone, recipe, data, trimmed
        config = BertConfig(
            vocab_size=sizes.vocabulary, hidden_size=sizes.dim, num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads, intermediate_size=sizes.feed_forward, layer_norm_eps=sizes.layer_norm_eps,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.bert = BertModel(config, add_pooling_layer=False)
        self.region = nn.Sequential(nn.Linear(2054, sizes.dim), nn.LayerNorm(sizes.dim, sizes.layer_norm_eps))
        state = model.backbone.state_dict()
        self.bert.load_state_dict({bert_name(key): weight for key, weight in state.items() if not key.startswith("region")})
        regions = [weight for key, weight in state.items() if key.startswith("region")]
        self.region.load_state_dict(dict(zip(self.region.state_dict(), regions, strict=True)))
        self.weights = [*self.bert.parameters(), *self.region.parameters()]
        rates = recipe.optimizer
        self.optimizer = torch.optim.AdamW(self.weights, rates.learning_rate, (0.9, rates.beta2), weight_decay=0.0)
        self.run = Run(recipe.precision)

    def learn(self, step: Step) -> float:
        images, pieces = self.data.images, self.data.pieces
        assert isinstance(images, Images)
        tags, regions = 50, 34
        words = int(pieces.mask[step.captions].sum(axis=1).max()) if self.trimmed else 50
        if self.trimmed:
            read = images.read(step.images)
            tags, regions = read.tags.shape[1], len(read.regions.mask[0])
        with self.run.context():
            ids, mask = (torch.from_numpy(part[step.captions, :words]) for part in (pieces.ids, pieces.mask))
            captions = self.bert(ids, mask.long()).last_hidden_state
            seen = self._images(images, step.images, tags, regions)
            scores = self._scores(seen[:, tags + 1 :], images.region_mask[step.images, 1:regions], captions, mask)
        loss = hinge_loss(scores.float(), step.positives, self.recipe.loss.margin)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.weights, self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        return loss.item()

    def _images(self, images: Images, rows: np.ndarray, tags: int, regions: int) -> Tensor:
        mask = torch.cat([images.tag_mask[rows, :tags], images.region_mask[rows, :regions]], dim=1)
        types = torch.ones(len(rows), tags, dtype=torch.long)
        types[:, 0] = 0
        # BertModel would give regions positions of their own, so words are embedded apart and everything is put in afterwards.
        words = self.bert.embeddings(images.tags[rows, :tags], types)
        joined = torch.cat([words, self.region(images.features[rows, :regions]).to(words.dtype)], dim=1)
        bias = torch.zeros(mask.shape, dtype=joined.dtype).masked_fill(~mask, torch.finfo(joined.dtype).min)
        found: Tensor = self.bert.encoder(joined, attention_mask=bias[:, None, None, :]).last_hidden_state
        return found

    def _scores(self, regions: Tensor, region_mask: Tensor, captions: Tensor, mask: Tensor) -> Tensor:
        """MrSw with the original's quirks: [CLS], the last piece and the first region left out, padded cells 0."""
        inner = mask[:, 1:] & functional.pad(mask[:, 3:], (0, 2))
        one, other = functional.normalize(regions.float(), dim=2), functional.normalize(captions[:, 1:].float(), dim=2)
        similarity = torch.einsum("ird,cwd->icrw", one, other)
        similarity = similarity.masked_fill(~(region_mask[:, None, :, None] & inner[None, :, None, :]), 0.0)
        return similarity.amax(dim=2).clamp(min=0).sum(dim=2)


@click.command(help=__doc__)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--steps", default=6, show_default=True, help="That count, after one that does not.")
@click.option("--trimmed", is_flag=True, help="The plain step pads to the longest of a batch.")
@click.option("--json", "as_json", is_flag=True)
def main(precision: Precision, steps: int, trimmed: bool, as_json: bool) -> None:
    full = read_recipe(RECIPE)
    sizes = dataclasses.replace(full.model.backbone, dropout=0.0, attention_dropout=0.0)
    config: ModelConfig = dataclasses.replace(full.model, backbone=sizes)
    recipe = dataclasses.replace(full, precision=precision, model=config, captions="drawn")
    data = synthetic(recipe, steps + 1)
    torch.manual_seed(0)
    model = Aladin(config, new_backbone(config))
    model.apply(initialise)
    with tempfile.TemporaryDirectory() as name:
        ours = Trainer(recipe, Start(model, minilm_folder() / "tokenizer.json"), data, data, Path(name))
        plain = PlainStep(model, recipe, data, trimmed)
        rows = []
        for step in ours.plan.steps(0, steps + 1):
            began = time.perf_counter()
            expected = plain.learn(step)
            between = time.perf_counter()
            found = ours.learn(step)["loss"]
            rows.append((between - began, time.perf_counter() - between, expected, found))
    rows = rows[1:]
    ratios = [before / after for before, after, _, _ in rows]
    result = {
        "precision": precision, "steps": steps, "plain": "trimmed" if trimmed else "padded as the original",
        "plain_seconds": statistics.median(row[0] for row in rows), "aladin_seconds": statistics.median(row[1] for row in rows),
        "times_faster": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
        "largest_difference_of_losses": max(abs(found / expected - 1) for _, _, expected, found in rows),
    }  # fmt: skip
    if as_json:
        click.echo(json.dumps(result))
        return
    for key, value in result.items():
        click.echo(f"{key.replace('_', ' ')}: {value:.4g}" if isinstance(value, float) else f"{key.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    main()
