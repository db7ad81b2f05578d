"""How well `aladin dupes` tells copies from other photographs: what people do to pictures, and how often it is seen through.

For the first images of DATA and each way of copying them, whether the two are linked on level "same" and on level "alike"; and
of all pairs of different images, how many are linked. Pairs that look the same to a person, such as two frames of a burst,
count as different here, so the worst of them are named.

    python benchmarks/duplicates.py val.zip
    python benchmarks/duplicates.py --rows 100000

With --rows instead of DATA: seconds and memory that comparing so many images takes, once when no two are alike and once when
all are.
"""

import io
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from jaxtyping import Float32
from PIL import Image, ImageEnhance, ImageOps

from aladin.datasets import read_dataset
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model
from aladin.pictures.fitting import Fitting
from aladin.pictures.pixels import open_image, to_pixels
from aladin.progress import SILENT
from aladin.search.duplicates import ALIKE_COSINE, LEAST_SIGNS, MAX_BITS, MIN_COSINE, _joined, _near
from aladin.search.fingerprints import READ_SIZE, SIDE, fingerprint

SHOWN = 5  # pairs of different images that are most alike

Prints = list[int | None]
Vectors = Float32[np.ndarray, "images dim"]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def cut(image: Image.Image, share: float) -> Image.Image:
    """Without that share of the width and height at every edge."""
    width, height = image.size
    return image.crop((round(share * width), round(share * height), round((1 - share) * width), round((1 - share) * height)))


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG at quality 80": lambda image: jpeg(image, 80),
    "JPEG at quality 30": lambda image: jpeg(image, 30),
    "half the width and height": lambda image: image.resize((image.width // 2, image.height // 2)),
    "a quarter of the width and height": lambda image: image.resize((image.width // 4, image.height // 4)),
    "25 % more light": lambda image: ImageEnhance.Brightness(image).enhance(1.25),
    "half the colour": lambda image: ImageEnhance.Color(image).enhance(0.5),
    "black and white": lambda image: image.convert("L").convert("RGB"),
    "2.5 % cut off at every edge": lambda image: cut(image, 0.025),
    "5 % cut off at every edge": lambda image: cut(image, 0.05),
    "10 % cut off at every edge": lambda image: cut(image, 0.1),
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "mirrored": ImageOps.mirror,
}


@click.command(help=__doc__)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("--copied", default=300, show_default=True, help="Images that are copied in every way; all are compared.")
@click.option("--rows", help="Compare so many vectors and fingerprints drawn at random.", type=int)
def main(data: Path | None, copied: int, rows: int | None) -> None:
    if data is None:
        json.dump(at_size(rows or 100_000), sys.stdout, indent=2)
        return
    encoder = Encoder.load(shipped_model())
    examples = read_dataset(data).examples
    pictures = [open_image(example.source.read(), example.id) for example in examples]
    prints, vectors = described(encoder, pictures)
    report: dict[str, object] = {"copied": copied, "different": different(prints, vectors, [e.id for e in examples])}
    for name, way in WAYS.items():
        report[name] = copies(
            prints[:copied], vectors[:copied], *described(encoder, [way(picture) for picture in pictures[:copied]])
        )
        click.echo(f"{name}: {report[name]}", err=True)
    json.dump(report, sys.stdout, indent=2)
    click.echo()


def at_size(rows: int) -> dict[str, object]:
    """Seconds for each level, and the process's peak memory after it."""
    random, report = np.random.default_rng(0), dict[str, object]()
    vectors = random.standard_normal((rows, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    signs = np.where(random.random((rows, SIDE**2)) < 0.5, np.float32(-1), np.float32(1))
    for case in ("none alike", "all alike"):
        if case == "all alike":
            vectors[:], signs[:] = vectors[0], signs[0]
        likenesses = {"same": [(signs, LEAST_SIGNS), (vectors, MIN_COSINE)], "alike": [(vectors, ALIKE_COSINE)]}
        for level, likeness in likenesses.items():
            started = time.perf_counter()
            groups = len(np.unique(_joined(np.arange(rows), np.arange(rows), _near(likeness, SILENT))))
            seconds = round(time.perf_counter() - started, 1)
            peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
            report[f"{level}, {case}"] = {"groups": groups, "seconds": seconds, "peak_mb": peak}
    return report


def described(encoder: Encoder, pictures: list[Image.Image]) -> tuple[Prints, Vectors]:
    fitting, vectors = encoder.model.config.preprocessing.fitting, []
    for start in range(0, len(pictures), 32):
        pixels = np.stack([to_pixels(picture, fitting) for picture in pictures[start : start + 32]])
        vectors.append(encoder.encode_images(pixels).vectors)
    return [fingerprint(to_pixels(picture, Fitting(READ_SIZE))) for picture in pictures], np.concatenate(vectors)


def copies(prints: Prints, vectors: Vectors, of_copies: Prints, vectors_of_copies: Vectors) -> dict[str, float]:
    cosine = (vectors * vectors_of_copies).sum(axis=1)
    bits = np.array([_differing(one, other) for one, other in zip(prints, of_copies, strict=True)])
    same = (bits <= MAX_BITS) & (cosine >= MIN_COSINE)
    return {
        "same": _percent(same),
        "alike": _percent(same | (cosine >= ALIKE_COSINE)),
        "bits_p95": float(np.percentile(bits, 95)),
        "cosine_p5": round(float(np.percentile(cosine, 5)), 3),
    }


def different(prints: Prints, vectors: Vectors, names: list[str]) -> dict[str, object]:
    """All pairs of different images."""
    one, other = np.triu_indices(len(prints), 1)
    cosine = (vectors @ vectors.T)[one, other]
    bits = np.array([_differing(prints[a], prints[b]) for a, b in zip(one.tolist(), other.tolist(), strict=True)])
    same = (bits <= MAX_BITS) & (cosine >= MIN_COSINE)
    worst = np.argsort(-cosine)[:SHOWN]
    return {
        "pairs": len(one),
        "near by bits alone": int((bits <= MAX_BITS).sum()),
        "same": int(same.sum()),
        "alike": int((cosine >= ALIKE_COSINE).sum()),
        "no fingerprint": sum(value is None for value in prints),
        "most alike": [[names[one[p]], names[other[p]], round(float(cosine[p]), 3), int(bits[p])] for p in worst],
    }


def _differing(one: int | None, other: int | None) -> int:
    """Bits that differ; all where there is no fingerprint."""
    return 64 if one is None or other is None else (one ^ other).bit_count()


def _percent(found: np.ndarray) -> float:
    return round(100 * float(found.mean()), 1)


if __name__ == "__main__":
    main()
