"""How long a page takes when a collection is leafed through by date, and what a row takes to write.

The rows are written by the package's own writer, with tiny vectors and tokens: neither has a part in this. Seven of ten images
have a camera's date, the others their file's; one of fifty is offline. Each page has 60 images. The file is in memory.

    python benchmarks/leafing.py --rows 1000000
"""

import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from aladin.collection.filters import parsed, within_folder
from aladin.collection.sqlite import Collection
from aladin.collection.store import Span
from aladin.collection.writer import CollectionWriter, FileState, Photograph
from aladin.encoder.folder import ModelFolder, shipped_model

PAGE = 60
FOLDER_SIZE = 500  # images
BATCH = 1000  # rows a transaction while the collection is made
INDEXED_BATCH = 8  # rows a transaction of `aladin index`
CAMERAS = ("Canon EOS 5D", "Pixel 7", "iPhone 12", "NIKON D90")
EARLIEST, LATEST = 1_104_537_600, 1_767_225_600  # from 2005 to 2025
PAGES: dict[str, dict[str, Any]] = {
    "the first page": {},
    "a page in the middle": {"after": ("2015-07-01T12:00:00", 0)},
    "a page near the end": {"after": ("2005-02-01T12:00:00", 0)},
    "the first page of one month": {"span": Span("2012-01-01", "2012-01-31")},
    "a year without images": {"span": Span("1990-01-01", "1990-12-31")},
    "the first page of one folder": {"condition": parsed(within_folder("00007"))},
    "the first page by one camera": {"condition": parsed("camera = 'Pixel 7'")},
    "a condition that no image meets": {"condition": parsed("width = 1")},
}


@click.command(help=__doc__)
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of the collection.")
@click.option("--written", default=4000, show_default=True, help="Rows added in small transactions.")
@click.option("--repeat", default=20, show_default=True, help="How often each page is asked for.")
def main(rows: int, written: int, repeat: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "c.sqlite"
        with CollectionWriter.create(path, path.parent) as writer:
            writer.use_model(ModelFolder.open(shipped_model()))
            _add(writer, 0, rows, BATCH)
        pages, size = _pages(path, repeat), path.stat().st_size
        with CollectionWriter.create(path, path.parent) as writer:
            added = _add(writer, rows, written, INDEXED_BATCH)
    for name, page in pages.items():
        click.echo(f"{name:32} {page['p50_ms']:8.2f} ms", err=True)
    report = {"rows": rows, "cores": os.cpu_count(), "pages": pages, "bytes": size, "added": added}
    json.dump(report, sys.stdout, indent=2)
    click.echo()


def _add(writer: CollectionWriter, first: int, rows: int, batch: int) -> dict[str, float]:
    """Write rows with the numbers from `first` on; what one took, with and without waiting for the disk."""
    chance = random.Random(first)
    wall = cpu = 0.0
    for start in range(first, first + rows, batch):
        photographs = [_photograph(chance, number) for number in range(start, min(start + batch, first + rows))]
        vectors = np.ones((len(photographs), 1), dtype=np.float32)
        started, started_cpu = time.perf_counter(), time.process_time()
        with writer.transaction():
            ids = writer.add(photographs, vectors, vectors[:, None])
            gone = json.dumps([image_id for image_id in ids if image_id % 50 == 0])
            writer.change("status = 'offline'", "id IN (SELECT value FROM json_each(?))", (gone,))
        wall, cpu = wall + time.perf_counter() - started, cpu + time.process_time() - started_cpu
    return {"us_a_row": 1e6 * wall / rows, "cpu_us_a_row": 1e6 * cpu / rows}


def _photograph(chance: random.Random, number: int) -> Photograph:
    taken = chance.randrange(EARLIEST, LATEST)
    changed = (taken + chance.randrange(10**6)) * 10**9 + chance.randrange(10**9)
    file = FileState(f"{number // FOLDER_SIZE:05}/IMG_{number:07}.jpg", chance.randrange(10**7), changed)
    if chance.random() < 0.3:
        return Photograph(file, chance.randbytes(32), 4000, 3000, None)
    facts = {"camera": chance.choice(CAMERAS), "lens": "24-70mm f/2.8", "iso": 400, "f_number": 2.8, "focal_mm": 35.0}
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(taken))
    return Photograph(file, chance.randbytes(32), 4000, 3000, date, facts)


def _pages(path: Path, repeat: int) -> dict[str, dict[str, float]]:
    with Collection.open(path) as collection:

        def leaf(after: Any = None, span: Span = Span(), condition: Any = None) -> None:  # noqa: B008, it is frozen
            with collection.snapshot():
                collection.page(after, PAGE, span, condition)

        return {name: _timings(partial(leaf, **asked), repeat) for name, asked in PAGES.items()}


def _timings(step: Callable[[], None], repeat: int) -> dict[str, float]:
    seconds = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    counted = seconds[1:]  # the first one reads from the disk
    return {"p50_ms": 1000 * statistics.median(counted), "worst_ms": 1000 * max(counted)}


if __name__ == "__main__":
    main()
