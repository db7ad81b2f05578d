"""Synthetic files of the original in their true layout: checkpoints with every key, VinVL's folder, a feature folder.

The sizes of `Sizes()` are those of the released files; tests use `TINY`. What writes the feature folder here shares no code
with the package.
"""

import argparse
import base64
import json
import string
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "white", "black", "picture", "a", "above", "and", "."]
VOCABULARY += [*string.ascii_lowercase[1:], *(f"##{letter}" for letter in string.ascii_lowercase)]  # "a" is a word
CLASSES = ["red", "green", "blue", "white", "black", "red picture"]


@dataclass(frozen=True)
class Sizes:
    """Of the network; the defaults are BERT-base's and VinVL's."""

    vocabulary: int = 30522
    positions: int = 512
    dim: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072
    region: int = 2054
    matching_layers: int = 2


TINY = Sizes(vocabulary=len(VOCABULARY), positions=64, dim=16, layers=2, heads=4, feed_forward=24, region=14)


def vinvl_shapes(sizes: Sizes) -> Shapes:
    """Every key of VinVL's pytorch_model.bin with its shape (spec, section 5)."""
    dim, wide = sizes.dim, sizes.feed_forward
    shapes: Shapes = {
        "bert.embeddings.word_embeddings.weight": (sizes.vocabulary, dim),
        "bert.embeddings.position_embeddings.weight": (sizes.positions, dim),
        "bert.embeddings.token_type_embeddings.weight": (2, dim),
        **layer_norm("bert.embeddings.LayerNorm", dim),
    }
    for number in range(sizes.layers):
        layer = f"bert.encoder.layer.{number}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= linear(f"{layer}.{name}", dim, dim)
        shapes |= linear(f"{layer}.intermediate.dense", wide, dim) | linear(f"{layer}.output.dense", dim, wide)
        shapes |= layer_norm(f"{layer}.attention.output.LayerNorm", dim) | layer_norm(f"{layer}.output.LayerNorm", dim)
    shapes |= linear("bert.pooler.dense", dim, dim) | linear("bert.img_embedding", dim, sizes.region)
    return shapes | layer_norm("bert.LayerNorm", dim) | linear("classifier", 2, dim)


def aladin_shapes(sizes: Sizes) -> Shapes:
    """Every key of the `model` of an ALADIN checkpoint with its shape."""
    dim, encoder = sizes.dim, "img_txt_enc"
    shapes = {f"{encoder}.oscar_model.{name}": shape for name, shape in vinvl_shapes(sizes).items()}
    shapes |= linear(f"{encoder}.img_proj", dim, dim) | linear(f"{encoder}.cap_proj", dim, dim)
    for number in range(sizes.matching_layers):
        layer = f"{encoder}.final_projection_net.layers.{number}"
        shapes |= {f"{layer}.self_attn.in_proj_weight": (3 * dim, dim), f"{layer}.self_attn.in_proj_bias": (3 * dim,)}
        for name in ("self_attn.out_proj", "linear1", "linear2"):
            shapes |= linear(f"{layer}.{name}", dim, dim)
        shapes |= layer_norm(f"{layer}.norm1", dim) | layer_norm(f"{layer}.norm2", dim)
    return shapes


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def layer_norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def random_weights(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights that let every token matter: matrices that keep a signal's size, LayerNorms near the identity."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            weights[name] = 0.1 * drawn + (1.0 if "orm" in name and name.endswith("weight") else 0.0)
        else:
            weights[name] = drawn * (0.5 if "embeddings" in name else shape[1] ** -0.5)
    return weights


def aladin_checkpoint(weights: dict[str, Tensor]) -> dict[str, object]:
    """What the original saves beside the weights, its options as a Namespace with a device among them."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 15)
    settings = {
        "dataset": {"name": "coco", "images-path": "data"},
        "model": {"tern-layers": 2, "teran-layers": 0, "text-aggregation": "first", "depth-aggregation-alignment": None},
        "training": {"alignment-mode": "MrSw", "loss-type": "alignment-distillation", "margin": 0.2},
    }
    return {
        "epoch": 14,
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "opt": argparse.Namespace(lr=1e-5, device=torch.device("cuda:0"), data_dir="data"),
        "config": settings,
        "Eiters": 17701,
    }


def write_vinvl(folder: Path, sizes: Sizes = TINY, weights: bool = True) -> Path:
    """VinVL's checkpoint folder: config.json, vocab.txt and, if asked for, pytorch_model.bin."""
    folder.mkdir(parents=True)
    settings = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": sizes.dim,
        "img_feature_dim": sizes.region,
        "img_feature_type": "faster_r-cnn",
        "img_layer_norm_eps": 1e-12,
        "intermediate_size": sizes.feed_forward,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": sizes.positions,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "type_vocab_size": 2,
        "use_img_layernorm": 1,
        "vocab_size": sizes.vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCABULARY), encoding="utf-8")
    if weights:
        torch.save(random_weights(vinvl_shapes(sizes)), folder / "pytorch_model.bin")
    return folder


@dataclass(frozen=True)
class Image:
    """One image of a feature folder."""

    id: str
    boxes: np.ndarray
    classes: list[str]


def random_images(counts: list[int], numbers: int = TINY.region, seed: int = 0) -> list[Image]:
    """Images with that many boxes each, of random features and sound geometry, and with one to five objects."""
    random = np.random.default_rng(seed)
    images = []
    for row, count in enumerate(counts):
        features = random.normal(size=(count, numbers - 6)).astype(np.float32)
        x = np.sort(random.uniform(0, 1, (count, 2)), axis=1)
        y = np.sort(random.uniform(0, 1, (count, 2)), axis=1)
        shares = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1], x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]], axis=1)
        classes = [CLASSES[number] for number in random.integers(0, len(CLASSES), random.integers(1, 6))]
        images.append(Image(str(100 + 7 * row), np.hstack([features, shares]).astype(np.float32), classes))
    return images


def write_features(folder: Path, images: list[Image]) -> Path:
    """A feature folder as the original's tools write it, index files included."""
    folder.mkdir(parents=True)
    rows = [f"{image.id}\t{len(image.boxes)}\t{encoded(image.boxes)}\n".encode() for image in images]
    write_table(folder / "features.tsv", rows)
    write_table(folder / "predictions.tsv", [predictions_row(image) for image in images])
    (folder / "imageid2idx.json").write_text(json.dumps({image.id: row for row, image in enumerate(images)}))
    return folder


def write_table(path: Path, rows: list[bytes]) -> None:
    """The rows, and where each of them starts."""
    path.write_bytes(b"".join(rows))
    starts = [0, *np.cumsum([len(row) for row in rows])[:-1].tolist()]
    path.with_suffix(".lineidx").write_text("\n".join(map(str, starts)) + "\n")


def encoded(boxes: np.ndarray) -> str:
    return base64.b64encode(boxes.astype("<f4").tobytes()).decode()


def predictions_row(image: Image) -> bytes:
    """Every other image as a bare list of objects, the others with the image's size."""
    objects: object = [{"class": name, "rect": [1.0, 2.0, 30.0, 40.0], "conf": 0.5} for name in image.classes]
    if int(image.id) % 2:
        objects = {"image_h": 480, "image_w": 640, "objects": objects}
    return f"{image.id}\t{json.dumps(objects)}\n".encode()


def write_detector_output(path: Path, images: list[Image], number_type: str = "<f4") -> Path:
    """A predictions.tsv as VinVL's detector writes it: of each box its class, rectangle, confidence and feature."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = 480, 640
    rows = []
    for image in images:
        objects = [
            {
                "class": image.classes[number % len(image.classes)],
                "rect": (box[-6:-2] * np.array([width, height, width, height])).tolist(),
                "conf": 0.5,
                "feature": base64.b64encode(box[:-6].astype(number_type).tobytes()).decode(),
            }
            for number, box in enumerate(image.boxes.astype(np.float64))
        ]
        value = {"image_h": height, "image_w": width, "objects": objects}
        rows.append(f"{image.id}\t{json.dumps(value)}\n".encode())
    path.write_bytes(b"".join(rows))
    return path
