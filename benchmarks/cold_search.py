"""How long `aladin search` takes from the shell, in a process of its own, on a collection of many rows.

The collection is made through the Collection API: random vectors and tokens of the model's shapes, and a file of one byte for
each row, so that the walk over the folder is part of the figure. The files' pages are in memory, as after a first search.

    python benchmarks/cold_search.py --model MODEL --rows 10000
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter, FileState, Photograph
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import shipped_model

BATCH = 1000  # rows a transaction


@click.command(help=__doc__)
@click.option("--model", type=click.Path(path_type=Path), help="Model folder.  [default: the one that comes with aladin]")
@click.option("--rows", default=10_000, show_default=True, help="Rows of the collection.")
@click.option("--repeat", default=7, show_default=True, help="Runs of each command; the median counts.")
@click.option("--query", default="two dogs run through snow", show_default=True, help="What is searched.")
def main(model: Path | None, rows: int, repeat: int, query: str) -> None:
    path = (model or shipped_model()).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        writing = make_collection(folder, Encoder.load(path), rows)
        search = ("search", folder, query, "--model", path, "--json")
        commands = {
            "python -c 'import numpy'": ("-c", "import numpy"),
            "aladin --help": ("-m", "aladin", "--help"),
            "aladin search": ("-m", "aladin", *search),
            "aladin search --no-index": ("-m", "aladin", *search, "--no-index"),
            "aladin search --no-index --rerank 0": ("-m", "aladin", *search, "--no-index", "--rerank", "0"),
            "aladin search --no-index --rerank 1000": ("-m", "aladin", *search, "--no-index", "--rerank", "1000"),
        }
        timings = {name: _seconds_of(arguments, repeat) for name, arguments in commands.items()}
        size = default_file(folder).stat().st_size
    table = {
        name: {"median_ms": 1000 * statistics.median(runs), "worst_ms": 1000 * max(runs)} for name, runs in timings.items()
    }
    for name, figures in table.items():
        click.echo(f"{name:40} median {figures['median_ms']:7.0f} ms, worst {figures['worst_ms']:7.0f} ms", err=True)
    setting = {
        "rows": rows,
        "repeat": repeat,
        "cores": os.cpu_count(),
        "bytes": size,
        "rows_written_per_second": rows / writing,
    }
    json.dump({"commands": table, "setting": setting}, sys.stdout, indent=2)
    click.echo()


def make_collection(folder: Path, encoder: Encoder, rows: int) -> float:
    """Fill a folder and its collection; the seconds that the rows took."""
    folder.mkdir()
    dim = encoder.encode_texts(["a"]).vectors.shape[1]
    regions, token_dim = encoder.model.config.regions, encoder.model.config.heads.encoded_token_dim
    random = np.random.default_rng(0)
    seconds = 0.0
    with CollectionWriter.create(default_file(folder), folder) as collection:
        collection.use_model(encoder.model)
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            photographs = [_one_byte_file(folder, f"{number:07}.jpg") for number in range(start, start + count)]
            vectors = _directions(random, (count, dim))
            tokens = _directions(random, (count, regions, token_dim))
            started = time.perf_counter()
            with collection.transaction():
                collection.add(photographs, vectors, tokens)
            seconds += time.perf_counter() - started
    return seconds


def _one_byte_file(folder: Path, name: str) -> Photograph:
    (folder / name).write_bytes(b"x")
    status = (folder / name).stat()
    return Photograph(FileState(name, status.st_size, status.st_mtime_ns), name.encode(), 640, 480, None)


def _directions(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    rows = random.standard_normal(shape, dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows


def _seconds_of(arguments: tuple[str | Path, ...], repeat: int) -> list[float]:
    seconds = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]  # the first one reads files from the disk


if __name__ == "__main__":
    main()
