"""Images and captions of a data set as vectors and tokens, by a trained model or an exported one, and their scores as numpy."""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from aladin.datasets import Dataset, Example, placing_undecodable
from aladin.datasets.vinvl import DetectionSource
from aladin.encoder.composition import composed
from aladin.encoder.config import HeadsConfig, Pooling
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import is_exported, model_config
from aladin.encoder.hub_terms import as_queries
from aladin.encoder.region_encoder import RegionEncoder
from aladin.encoder.text_encoder import TextEncoder
from aladin.encoder.word_pieces import Pieces, WordPieces
from aladin.errors import ModelError
from aladin.evaluation.scoring import MEMORY, alignment_matrix, alignment_of_pairs, blocks
from aladin.measures.protocols import Fold
from aladin.measures.recalls import DIRECTIONS, Direction
from aladin.network.backbone import ImageSet
from aladin.network.caption_blocks import caption_blocks
from aladin.network.checkpoints import load_model
from aladin.network.detections import check_photographs, region_sources
from aladin.network.model import Aladin
from aladin.network.run import ALONE, CPU, Run, memory_watched
from aladin.network.scores import matching_scores
from aladin.network.tensors import Tokens, concatenate, each_tensor
from aladin.pictures.pixels import Pixels, open_image, to_pixels
from aladin.progress import SILENT, Progress, Steps

BATCH = 64
Scores = Float[np.ndarray, "images captions"]


@dataclass(frozen=True)
class EncodedSet:
    """Vectors and tokens for all images or all captions of a data set, in its order."""

    vectors: Float[Tensor, "rows dim"]
    tokens: Tokens

    def __getitem__(self, rows: slice) -> "EncodedSet":
        return EncodedSet(self.vectors[rows], self.tokens[rows])


@dataclass(frozen=True)
class EncodedData:
    """A data set as scores need it: `owners` is each caption's image row, `heads` what the model's heads are.

    Scores of alignment are computed on `device`, a block after the other; all else stays with the processor.
    """

    images: EncodedSet
    captions: EncodedSet
    owners: Int[np.ndarray, " captions"]
    heads: HeadsConfig
    device: torch.device = CPU

    @property
    def pooling(self) -> Pooling:
        return self.heads.pooling

    @property
    def alike(self) -> tuple[tuple[Direction, ...], ...]:
        """The directions in groups that share their scores."""
        return tuple((direction,) for direction in DIRECTIONS) if self.heads.hub_centres else (DIRECTIONS,)

    def asked(self, direction: Direction) -> "EncodedData":
        """The same as search has it in a direction: captions by which images are searched are queries."""
        if direction == "image_to_text" or not self.heads.hub_centres:
            return self
        vectors, tokens = self.captions.vectors, self.captions.tokens
        pieces = tokens.mask.sum(dim=1).numpy()
        states = torch.from_numpy(as_queries(tokens.states.numpy(), pieces, self.heads))
        queries = EncodedSet(torch.from_numpy(as_queries(vectors.numpy(), pieces, self.heads)), Tokens(states, tokens.mask))
        return dataclasses.replace(self, captions=queries)

    def part(self, fold: Fold) -> "EncodedData":
        """The images of a fold with their captions."""
        owners = self.owners[fold.captions] - fold.images.start
        images, captions = self.images[fold.images], self.captions[fold.captions]
        return dataclasses.replace(self, images=images, captions=captions, owners=owners)

    def matching_scores(self) -> Scores:
        """The score of every image with every caption by the matching head: a cosine."""
        return matching_scores(self.images.vectors, self.captions.vectors).numpy()

    def alignment_scores(self, memory: int = MEMORY, progress: Progress = SILENT) -> Scores:
        """The score of every image with every caption by the alignment head, with about `memory` bytes beside the result."""
        tokens = self.images.tokens, self.captions.tokens
        return alignment_matrix(*tokens, self.pooling, memory, progress, self.device).numpy()

    def matching_of_pairs(
        self, images: Int[np.ndarray, " pairs"], captions: Int[np.ndarray, " pairs"]
    ) -> Float[np.ndarray, " pairs"]:
        """The matching score of each pair of an image row and a caption row."""
        return (self.images.vectors[images] * self.captions.vectors[captions]).sum(dim=1).numpy()

    def alignment_of_pairs(
        self, images: Int[np.ndarray, " pairs"], captions: Int[np.ndarray, " pairs"], memory: int = MEMORY
    ) -> Float[np.ndarray, " pairs"]:
        """The alignment score of each pair of an image row and a caption row."""
        pairs = torch.from_numpy(images), torch.from_numpy(captions)
        return alignment_of_pairs(self.images.tokens, self.captions.tokens, pairs, self.pooling, memory, self.device).numpy()


@torch.inference_mode()
def encode_images(model: Aladin, images: ImageSet, run: Run = ALONE, progress: Progress = SILENT) -> EncodedSet:
    """Every image, of photographs the whole picture, by a model on the run's device; what comes of it is the processor's."""
    parts = []
    for rows in blocks(len(images), BATCH):
        with run.context():
            encoded = model.images(model.backbone.batch(images, np.arange(rows.start, rows.stop)))
        parts.append(each_tensor(EncodedSet(encoded.vectors, encoded.tokens), Tensor.cpu))  # and not its states
        progress(rows.stop, len(images))
    return EncodedSet(torch.cat([part.vectors for part in parts]), concatenate([part.tokens for part in parts]))


@torch.inference_mode()
def encode_captions(model: Aladin, pieces: Pieces, run: Run = ALONE) -> EncodedSet:
    """Every caption, likewise; those of like length are encoded together, so that little padding is computed."""
    whole: EncodedSet | None = None
    for block in caption_blocks(pieces, 2 * BATCH):
        with run.context():
            on_device = model.captions(run.put(block.ids), run.put(block.mask))
        encoded = each_tensor(EncodedSet(on_device.vectors, on_device.tokens), Tensor.cpu)
        if whole is None:
            # Written in place: COCO's test captions take 4 GB at BERT-base sizes, and parts to be joined would take that twice.
            width = encoded.tokens.mask.shape[1] - block.ids.shape[1] + int(pieces.mask.sum(axis=1).max())
            whole = _nothing_yet(encoded, len(pieces.ids), width)
        whole.vectors[block.rows] = encoded.vectors
        whole.tokens.states[block.rows, : encoded.tokens.mask.shape[1]] = encoded.tokens.states
        whole.tokens.mask[block.rows, : encoded.tokens.mask.shape[1]] = encoded.tokens.mask
    assert whole is not None, "a data set has captions"
    return whole


def _nothing_yet(like: EncodedSet, rows: int, width: int) -> EncodedSet:
    """Zeros for so many rows of so many tokens."""
    states, vectors = like.tokens.states, like.vectors
    tokens = Tokens(states.new_zeros(rows, width, states.shape[2]), like.tokens.mask.new_zeros(rows, width))
    return EncodedSet(vectors.new_zeros(rows, vectors.shape[1]), tokens)


def read_images(model: Aladin, tokenizer: Path, dataset: Dataset, cache: Path, steps: Steps) -> ImageSet:
    """A data set's images as the model's backbone reads them; photographs' features are kept in `cache`."""
    with steps.step("image features") if model.backbone.reads_photographs else nullcontext(SILENT) as progress:
        return model.backbone.image_reader(tokenizer).read(dataset, 1, cache, progress)


def encode_dataset(folder: Path, dataset: Dataset, run: Run, cache: Path, steps: Steps) -> EncodedData:
    """The data set by the model of a folder, which is a trained one or, without model.safetensors, an exported one.

    A trained model's image features are kept in `cache`. An exported one has the precision that it was exported with, and
    encodes as search does, on the processor; its scores are those of the run's device.
    """
    if (folder / "model.safetensors").is_file():
        with memory_watched("give --device cpu", "give fewer images at a time, such as a split"):
            return _by_trained_model(folder, dataset, run, cache, steps)
    if is_exported(folder):
        if model_config(folder).image.source == "detector":
            return _by_exported_detector(folder, dataset, run, steps)
        return encode_by(Encoder.load(folder), dataset, run, steps)
    found = "has neither model.safetensors nor text.onnx" if folder.is_dir() else "is not a folder"
    raise ModelError(f"{folder} {found}; give a model folder that `aladin train` or `aladin export` wrote")


def _by_trained_model(folder: Path, dataset: Dataset, run: Run, cache: Path, steps: Steps) -> EncodedData:
    model = load_model(folder).to(run.device)
    config = model.config
    tokenizer = WordPieces.of(folder / "tokenizer.json", config.preprocessing)
    read = read_images(model, folder / "tokenizer.json", dataset, cache, steps)
    with steps.step("images") as progress:
        images = encode_images(model, read, run, progress)
    with steps.step("captions"):
        captions = encode_captions(model, tokenizer.encode(list(dataset.captions)), run)
    return EncodedData(images, captions, dataset.owners, config.heads, run.device)


def encode_by(encoder: Encoder, dataset: Dataset, run: Run, steps: Steps) -> EncodedData:
    """The data set as search encodes it by an exported model of photographs, its regions as they are compared."""
    check_photographs(dataset)
    with steps.step("images") as progress, placing_undecodable(dataset):
        images = _exported_images(encoder, dataset.examples, progress)
    with steps.step("captions") as progress:
        captions = _exported_captions(encoder, dataset.captions, progress)
    return EncodedData(images, captions, dataset.owners, encoder.model.config.heads, run.device)


def _by_exported_detector(folder: Path, dataset: Dataset, run: Run, steps: Steps) -> EncodedData:
    encoder, sources = RegionEncoder.load(folder), region_sources(dataset)
    with steps.step("images") as progress:
        images = _exported_regions(encoder, sources, progress)
    with steps.step("captions") as progress:
        captions = _exported_captions(encoder, dataset.captions, progress)
    return EncodedData(images, captions, dataset.owners, encoder.model.config.heads, run.device)


def _exported_regions(encoder: RegionEncoder, sources: Sequence[DetectionSource], progress: Progress) -> EncodedSet:
    config, parts = encoder.model.config, []
    numbers = config.backbone.region_features + config.backbone.region_geometry
    for rows in blocks(len(sources), BATCH // 2):
        images = [source.detections(numbers, config.limits.regions) for source in sources[rows]]
        encoded = encoder.encode_regions([image.objects.names for image in images], [image.boxes for image in images])
        tokens = Tokens(torch.from_numpy(encoded.regions), torch.from_numpy(encoded.mask))
        parts.append(EncodedSet(torch.from_numpy(encoded.vectors), tokens))
        progress(rows.stop, len(sources))
    return EncodedSet(torch.cat([part.vectors for part in parts]), concatenate([part.tokens for part in parts]))


def _exported_images(encoder: Encoder, examples: tuple[Example, ...], progress: Progress) -> EncodedSet:
    fitting = encoder.model.config.preprocessing.fitting

    def decode(example: Example) -> Pixels:
        return to_pixels(open_image(example.source.read(), name=example.id, draft_size=fitting.draft_size), fitting)

    parts = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in blocks(len(examples), BATCH // 2):
            parts.append(encoder.encode_images(np.stack(list(pool.map(decode, examples[rows])))))
            progress(rows.stop, len(examples))
    ours = encoder.model.config.encoder
    regions = torch.from_numpy(np.concatenate([composed(part.regions, part.vectors, ours) for part in parts]))
    vectors = torch.from_numpy(np.concatenate([part.vectors for part in parts]))
    return EncodedSet(vectors, Tokens(regions, torch.ones(regions.shape[:2], dtype=torch.bool)))


def _exported_captions(encoder: TextEncoder, captions: tuple[str, ...], progress: Progress) -> EncodedSet:
    vectors, tokens = [], []
    for done, caption in enumerate(captions, 1):
        # One by one, as a search does.
        encoded = encoder.encode_texts([caption])
        vectors.append(torch.from_numpy(encoded.vectors))
        tokens.append(Tokens(torch.from_numpy(encoded.words), torch.from_numpy(encoded.word_mask)))
        progress(done, len(captions))
    return EncodedSet(torch.cat(vectors), concatenate(tokens))
