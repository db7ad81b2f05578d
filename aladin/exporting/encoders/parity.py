"""How far an encoder's graphs are from transformers' own forward pass, on pictures and texts that are made up."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch.nn.functional import normalize

from aladin.encoder.encoder import IMAGE_GRAPH
from aladin.encoder.preprocessing import Preprocessing
from aladin.encoder.text_encoder import TEXT_GRAPH, new_session
from aladin.encoder.word_pieces import WordPieces
from aladin.exporting.encoders.graphs import ImageTower, TextTower
from aladin.exporting.encoders.source import Source
from aladin.exporting.encoders.towers import Towers

PICTURES = 6
SENTENCES = ("a dog", "Two children play football in the rain.", "un chat dort, 猫が寝ている 🐈", "red", "x " * 400)


class Example(NamedTuple):
    """Made-up pictures of the encoder's size, and texts of several lengths up to its limit."""

    pixels: UInt8[np.ndarray, "images size size 3"]
    pieces: list[Int64[np.ndarray, "1 pieces"]]
    masks: list[Bool[np.ndarray, "1 pieces"]]


class Outputs(NamedTuple):
    """Vectors and real tokens of an example, a row each, all of length 1."""

    vectors: Float32[np.ndarray, "rows dim"]
    tokens: Float32[np.ndarray, "tokens dim"]


def example_of(source: Source, preprocessing: Preprocessing) -> Example:
    """Smooth shapes with noise, the same each time, and sentences through the source's tokenizer."""
    random = np.random.default_rng(0)
    steps = np.linspace(0, 3 * np.pi, preprocessing.size)
    waves = [
        np.sin(steps[:, None] * a + b) * np.cos(steps[None, :] * c) for a, b, c in random.uniform(0.2, 2, (PICTURES * 3, 3))
    ]
    smooth = np.stack(waves).reshape(PICTURES, 3, preprocessing.size, preprocessing.size).transpose(0, 2, 3, 1)
    noisy = 127.5 + 90 * smooth + random.normal(0, 15, smooth.shape)
    tokenizer = WordPieces.of(source.path / "tokenizer.json", preprocessing)
    rows = [tokenizer.encode([sentence]) for sentence in SENTENCES]  # each at its own length
    return Example(noisy.clip(0, 255).astype(np.uint8), [row.ids for row in rows], [row.mask for row in rows])


@torch.no_grad()
def expected_of(towers: Towers, preprocessing: Preprocessing, example: Example) -> list[Outputs]:
    """What transformers gives for images and for texts: its own vectors, and our tokens from its states."""
    images, texts = ImageTower(towers, preprocessing).eval(), TextTower(towers, preprocessing).eval()
    pixels = torch.from_numpy(example.pixels)
    vectors = towers.model.get_image_features(pixel_values=images.normalised(pixels)).pooler_output
    tokens = images(pixels)[1]
    sides = [Outputs(normalize(vectors, dim=-1).numpy(), tokens.flatten(0, 1).numpy())]
    rows = [(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in zip(example.pieces, example.masks, strict=True)]
    vectors = torch.cat([towers.features(ids, mask) for ids, mask in rows])
    read = [texts(ids, mask) for ids, mask in rows]
    tokens = torch.cat([words[real] for _, words, real in read])
    return [*sides, Outputs(normalize(vectors, dim=-1).numpy(), tokens.numpy())]


def differences(folder: Path, example: Example, expected: list[Outputs]) -> tuple[float, float]:
    """The largest difference of a number that the folder's graphs give, and the least cosine of a vector or token."""
    session = new_session(folder / "image.onnx", *IMAGE_GRAPH)
    pairs = [session.run(list(IMAGE_GRAPH[1]), {"pixels": row[None]}) for row in example.pixels]
    vectors, tokens = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    found = [Outputs(vectors, tokens.reshape(-1, tokens.shape[-1]))]
    session = new_session(folder / "text.onnx", *TEXT_GRAPH)
    feeds = [{"pieces": ids, "mask": mask} for ids, mask in zip(example.pieces, example.masks, strict=True)]
    rows = [session.run(list(TEXT_GRAPH[1]), feed) for feed in feeds]
    found.append(Outputs(np.concatenate([row[0] for row in rows]), np.concatenate([words[real] for _, words, real in rows])))
    both = [(one, other) for pair in zip(found, expected, strict=True) for one, other in zip(*pair, strict=True)]
    difference = max(float(np.abs(one - other).max()) for one, other in both)
    return difference, min(float((one * other).sum(axis=1).min()) for one, other in both)
