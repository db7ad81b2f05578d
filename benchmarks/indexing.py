"""Images a second from JPEG to committed row, and where the time goes: decoding, the image network, writing.

The whole is `index_folder` itself, where decoding and network overlap; each stage is then run alone on the same files.

    python benchmarks/indexing.py --model MODEL --photos FOLDER
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from PIL import Image

from aladin.collection.indexing import index_folder
from aladin.collection.settings import IndexConfig
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import EncodedImages, Encoder
from aladin.encoder.folder import shipped_model
from aladin.pictures.decoding import Decoders
from aladin.pictures.listing import FileState, list_images
from aladin.pictures.photographs import Decoded

Value = TypeVar("Value")


@click.command(help=__doc__)
@click.option("--model", type=click.Path(path_type=Path), help="Model folder.  [default: the one that comes with aladin]")
@click.option("--photos", type=click.Path(path_type=Path), help="Folder of photographs.  [default: made of noise]")
@click.option("--made", default=256, show_default=True, help="How many photographs to make when there is no folder.")
@click.option("--side", default=500, show_default=True, help="Longer side of those made, px.")
@click.option("--batch", default=IndexConfig().batch_images, show_default=True, help="Images encoded and committed at once.")
@click.option("--threads", default=0, show_default=True, help="Of decoding (processes) and of the network each; 0: one a core.")
def main(model: Path | None, photos: Path | None, made: int, side: int, batch: int, threads: int) -> None:
    encoder = Encoder.load(model or shipped_model(), threads)
    config = IndexConfig(batch, threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = photos or _made_photographs(Path(scratch) / "photos", made, side)
        report = _measure(folder, encoder, config, Path(scratch))
    for stage, figures in report["stages"].items():
        click.echo(f"{stage:28} {figures['seconds']:8.2f} s {figures['images_per_second']:8.1f} images/s", err=True)
    json.dump(report, sys.stdout, indent=2)
    click.echo()


def _measure(folder: Path, encoder: Encoder, config: IndexConfig, scratch: Path) -> dict[str, Any]:
    fitting = encoder.model.config.preprocessing.fitting
    files = [found for found in list_images(folder) if isinstance(found, FileState)]
    blank = np.zeros((config.batch_images, fitting.size, fitting.size, 3), dtype=np.uint8)
    encoder.encode_images(blank)  # so that loading the network is no part of any figure

    def whole() -> None:
        with CollectionWriter.create(scratch / "whole.sqlite", folder) as collection:
            index_folder(collection, encoder, config)

    def decode() -> list[Decoded]:
        with Decoders(config.decoding_limits) as decoders:
            outcomes = [decoders.submit(folder, file, fitting) for file in files]
            return [found for outcome in outcomes if isinstance(found := outcome.result(), Decoded)]

    def encode(images: list[Decoded]) -> list[EncodedImages]:
        return [encoder.encode_images(np.stack([image.pixels for image in batch])) for batch in _batches(images, config)]

    def write(images: list[Decoded], encoded: list[EncodedImages]) -> None:
        with CollectionWriter.create(scratch / "write.sqlite", folder) as collection:
            collection.use_model(encoder.model)
            for batch, rows in zip(_batches(images, config), encoded, strict=True):
                photographs = [image.photograph for image, good in zip(batch, rows.usable, strict=True) if good]
                with collection.transaction():
                    collection.add(photographs, rows.vectors[rows.usable], rows.regions[rows.usable])

    seconds: dict[str, float] = {}
    _timed(seconds, "JPEG to committed row", whole)
    images = _timed(seconds, "decoding alone", decode)
    encoded = _timed(seconds, "image network alone", lambda: encode(images))
    _timed(seconds, "writing alone", lambda: write(images, encoded))
    rows = {stage: {"seconds": spent, "images_per_second": len(files) / spent} for stage, spent in seconds.items()}
    setting = {"images": len(files), "batch": config.batch_images, "workers": config.workers, "cores": os.cpu_count() or 1}
    return {"stages": rows, "setting": setting}


def _timed(seconds: dict[str, float], stage: str, run: Callable[[], Value]) -> Value:
    started = time.perf_counter()
    value = run()
    seconds[stage] = time.perf_counter() - started
    return value


def _batches(images: list[Decoded], config: IndexConfig) -> Iterator[list[Decoded]]:
    for start in range(0, len(images), config.batch_images):
        yield images[start : start + config.batch_images]


def _made_photographs(folder: Path, count: int, side: int) -> Path:
    """JPEGs of soft noise, which cost a decoder what a photograph of that size costs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 256, (side // 8, side // 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(
            folder / f"{number:05}.jpg", quality=90
        )
    return folder


if __name__ == "__main__":
    main()
