"""The reliability targets at full size: how often, how long, and what was found. The tests run the same code for less long.

python -m benchmarks.soak --part kills --part fuzz      (from the repository's folder, with the extra `dev`)
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from aladin.collection.indexing import index_folder
from aladin.collection.repair import repair
from aladin.collection.settings import IndexConfig
from aladin.collection.sqlite import Collection
from aladin.collection.store import default_file
from aladin.collection.verify import verify
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder, shipped_model
from aladin.pictures.decoding import Decoders
from aladin.pictures.fitting import Fitting
from aladin.pictures.limits import DecodingLimits

Figures = dict[str, Any]


def kills(scratch: Path, size: float) -> Figures:
    """R1: runs of `index` killed at random moments and at every statement. Target: 5,000 cycles, nothing acknowledged lost."""
    from tests.collection.test_durability import kill_cycles
    from tests.tiny_model import build_tiny_model

    cycles = max(1, int(5000 * size))
    survey = kill_cycles(scratch, build_tiny_model(scratch / "model"), cycles, seed=1)
    return {"cycles": cycles, **survey, "acknowledged rows lost": 0}


def power(scratch: Path, size: float) -> Figures:
    """R2: power lost at random moments, unsynced writes torn and reordered. Target: 20,000 schedules, old or new state only."""
    from tests.collection.test_durability import lose_power, record_transactions
    from tests.tiny_model import build_tiny_model

    schedules = max(1, int(20_000 * size))
    notes, acknowledged = record_transactions(scratch, ModelFolder.open(build_tiny_model(scratch / "model")))
    lose_power(notes, acknowledged, scratch / "found", schedules, seed=1)
    return {"schedules": schedules, "writes noted": len(notes), "states": len(acknowledged), "other states found": 0}


def flips(scratch: Path, size: float) -> Figures:
    """R9: single bits flipped in a collection of photographs by the shipped model. Target: all that mean anything noticed."""
    from tests.flipping import flip, flips, said

    place, photos, _ = _indexed_examples(scratch)
    original, truth = place.read_bytes(), said(place)
    count, model = max(1, int(10_000 * size)), ModelFolder.open(shipped_model())
    noticed = unused = silent = repaired = kept = again = lost = 0
    for number, (position, bit) in enumerate(flips(count, len(original), seed=1)):
        place.write_bytes(flip(original, position, bit))
        if verify(place).whole:
            same = said(place) == truth
            unused, silent = unused + same, silent + (not same)
            continue
        noticed += 1
        if number % 20 == 0:
            done = repair(place, photos, model)
            assert verify(place).whole
            repaired, kept, again, lost = repaired + 1, kept + done.kept, again + done.to_read_again, lost + done.lost
            for left in place.parent.glob("*"):
                left.unlink()
    figures = {"flips": count, "noticed": noticed, "of unused bytes, nothing changed": unused, "unnoticed": silent}
    rows = len(list(photos.glob("*.jpg")))
    return figures | {"repairs": repaired, "rows each": rows, "kept": kept, "to read again": again, "lost": lost}


def resume(scratch: Path, size: float) -> Figures:
    """R6: 2,000 images, stopped ten times in the midst of a batch. Target: at most 1.05 times the work, the same result."""
    from tests.collection.test_durability import StoppedEncoder
    from tests.conftest import paint, stored
    from tests.tiny_model import build_tiny_model

    folder = scratch / "many"
    for number in range(2000):
        paint(folder / f"{number}.png", "red", "green", seed=number, size=(6, 6))
    encoder = StoppedEncoder(ModelFolder.open(build_tiny_model(scratch / "model")), threads=1)
    works = []
    for seed in range(max(1, int(10 * size))):
        encoder.encoded, place = 0, scratch / f"{seed}.sqlite"
        encoder.stops = frozenset(np.random.default_rng(seed).choice(2000, size=10, replace=False).tolist())
        while True:
            try:
                with CollectionWriter.create(place, folder) as collection:
                    index_folder(collection, encoder)
                    contents = stored(collection)
                break
            except KeyboardInterrupt:
                continue
        works.append(encoder.encoded / 2000)
        with CollectionWriter.create(scratch / "clean.sqlite", folder) as collection:
            index_folder(collection, encoder)
            assert stored(collection) == contents
    return {"trials": len(works), "work, mean": round(float(np.mean(works)), 4), "work, most": max(works)}


def memory(scratch: Path, size: float) -> Figures:
    """R11: 20,000 images indexed and 10,000 queries with --max-memory 1G. Target: 1.1 GiB at most, below 1 KB more an image."""
    images, queries = max(64, int(20_000 * size)), max(10, int(10_000 * size))
    folder = scratch / "photographs"
    _photographs(folder, images)
    script = "import sys; from benchmarks.soak import memory_child; memory_child(*sys.argv[1:])"
    command = [sys.executable, "-c", script, os.fspath(folder), str(queries)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Figures = json.loads(ended.stdout)
    return {"images": images, "queries": queries, "ceiling MB": 1024, **found}


def memory_child(folder: str, queries: str) -> None:
    """The process that is measured."""
    from aladin.search.query import Query, TextPart
    from aladin.search.search import SearchConfig, Searcher

    photos, encoder = Path(folder), Encoder.load(shipped_model())
    seen: dict[int, int] = {}
    most = [0]

    def note(done: int, total: int) -> None:
        resident = _resident_kb(os.getpid())
        most[0] = max(most[0], resident + sum(map(_resident_kb, _children())))
        seen[done] = resident

    started = time.perf_counter()
    with CollectionWriter.create(default_file(photos), photos) as collection:
        report = index_folder(collection, encoder, IndexConfig(max_memory_mb=1024), note)
    half = min(done for done in seen if done >= max(seen) / 2)
    grown = (seen[max(seen)] - seen[half]) / max(max(seen) - half, 1)
    seconds = time.perf_counter() - started
    words = ["dog", "man", "beach", "snow", "red car", "two people", "ball", "street"]
    with Collection.open(default_file(photos)) as opened:
        searcher, before = Searcher(opened, encoder), 0
        for number in range(int(queries)):
            text = f"{words[number % 8]} and {words[number // 8 % 8]}"
            searcher.search(Query((TextPart(text),)), SearchConfig(rerank=20))
            if number == int(queries) // 10:
                before = _resident_kb(os.getpid())
        after = _resident_kb(os.getpid())
    figures = {
        "images/s": round(report.images_per_second, 1),
        "seconds": round(seconds),
        "peak MB, all processes": round(most[0] / 1024),
        "KB more an image, last half": round(grown, 3),
        "KB more a query, last nine tenths": round((after - before) / max(1, int(queries) * 0.9), 3),
        "peak MB with queries, this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    json.dump(figures, sys.stdout)


def fuzz(scratch: Path, size: float) -> Figures:
    """I1: damaged files of 15 formats. Target: 20,000, no crash of ours, none over 5 s, no decoder over its memory."""
    from tests.pictures.test_decoding import fuzz as decode_damaged

    count = max(1, int(20_000 * size))
    started = time.perf_counter()
    with Decoders(DecodingLimits(1, 20.0, 400)) as decoders:
        survey = decode_damaged(decoders, scratch, count, seed=1)
    return {"files": count, **survey, "seconds": round(time.perf_counter() - started)}


def bombs(scratch: Path, size: float) -> Figures:
    """I2: small files that would be large. Target: each refused or read within 1 s, and within 64 MB more."""
    from aladin.pictures.listing import FileState
    from tests.hostile_images import bombs as hostile

    found: Figures = {}
    with Decoders(DecodingLimits(1, 20.0, 400)) as decoders:
        for name, content in {"": b"?", **hostile()}.items():
            (scratch / f"x{name}").write_bytes(content)
            started = time.perf_counter()
            outcome = decoders.submit(scratch, FileState(f"x{name}", 1, 1), Fitting(224)).result()
            seconds = round(time.perf_counter() - started, 3)
            if name:
                found[name] = {"seconds": seconds, "says": getattr(outcome, "reason", "read")}
        process = decoders.children.all[0].process
        assert process is not None
        status = Path(f"/proc/{process.pid}/status").read_text()
        found["peak MB of the decoder"] = int(status.split("VmHWM:")[1].split()[0]) >> 10
    return found


def names(scratch: Path, size: float) -> Figures:
    """F1: files named by any bytes. Target: 5,000 names, all indexed, found and removed."""
    from tests.pictures.test_listing import image_name, names_are_kept
    from tests.tiny_model import build_tiny_model

    random, tried = np.random.default_rng(1), 0
    encoder = Encoder.load(build_tiny_model(scratch / "model"), threads=1)
    for _ in range(max(1, int(20 * size))):
        raw = {image_name(random.bytes(int(random.integers(1, 120)))) for _ in range(250)}
        names_are_kept(sorted(raw), scratch, encoder)
        tried += len(raw)
    return {"names": tried, "lost": 0}


def lock(scratch: Path, size: float) -> Figures:
    """R5: how soon a second writer is told. Target: exit code 5 within 1 s."""
    place, photos, _ = _indexed_examples(scratch)
    with CollectionWriter.create(place, photos):
        started = time.perf_counter()
        ended = subprocess.run([sys.executable, "-m", "aladin", "index", photos], capture_output=True, check=False)
        return {"exit code": ended.returncode, "seconds": round(time.perf_counter() - started, 2)}


def refusal(scratch: Path, size: float) -> Figures:
    """R4: how soon `index` says that the disk is read-only, and that search works there. Target: exit code 1 within 1 s."""
    disk = scratch / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", disk], check=True)
    try:
        _, photos, _ = _indexed_examples(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        found: Figures = {}
        for name, command in {"index": ["index", str(photos)], "search": ["search", str(photos), "a dog"]}.items():
            started = time.perf_counter()
            ended = subprocess.run([sys.executable, "-m", "aladin", *command], capture_output=True, check=False)
            found |= {f"{name}, exit code": ended.returncode, f"{name}, seconds": round(time.perf_counter() - started, 2)}
            found |= {f"{name}, last line": (ended.stderr.decode().splitlines() or [""])[-1]} if ended.returncode else {}
        return found
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def queries(scratch: Path, size: float) -> Figures:
    """Q1: odd texts, asked of a server one after the other. Target: 50,000, an answer or a 4xx within 200 ms each."""
    from tests.serving import config_of, server_of

    _, photos, _ = _indexed_examples(scratch)
    statuses: Counter[int] = Counter()
    seconds: list[tuple[float, str]] = []
    with server_of(config_of(photos, shipped_model())) as running, closing(HTTPConnection("127.0.0.1", running.port)) as client:
        for text in ["a dog", *_odd_texts(max(1, int(50_000 * size)))]:
            content = json.dumps({"text": text}).encode()
            started = time.perf_counter()
            client.request("POST", "/v1/search", content, {"Content-Type": "application/json"})
            with client.getresponse() as answer:
                answer.read()
            seconds.append((time.perf_counter() - started, f"{text[:20]!a} of {len(text)}"))
            statuses[answer.status] += 1
    slowest, text = max(seconds[1:])  # the first finds the collection's background
    return {
        "texts": len(seconds) - 1, "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "p50 ms": round(1000 * float(np.median([second for second, _ in seconds])), 1),
        "slowest ms": round(1000 * slowest, 1), "slowest": text,
        "over 200 ms": sum(second > 0.2 for second, _ in seconds[1:]),
    }  # fmt: skip


def _odd_texts(count: int) -> Iterator[str]:
    """Queries that nobody means: what Q1 names, then characters of one kind or of all kinds, up to a megabyte."""
    yield from (
        "",
        "   ",
        "a",
        "\0",
        "\u202eder",
        "\ud800",
        "the of and",
        "red " * 300_000,
        "\U0001f600" * 1_000_000,
        "z" * 1_000_000,
    )
    kinds = [
        (32, 127),
        (0, 32),
        (0x4E00, 0x9FFF),
        (0x590, 0x6FF),
        (0x1F300, 0x1FAFF),
        (0x2000, 0x206F),
        (0xD800, 0xDFFF),
        (0, 0x10FFFF),
    ]
    random = np.random.default_rng(1)
    for number in range(count - 10):
        low, high = kinds[number % len(kinds)]
        length = int(10 ** random.uniform(0, 4.3 if number % 100 else 5.7))
        yield "".join(map(chr, random.integers(low, high, length)))


PARTS: dict[str, Callable[[Path, float], Figures]] = {
    part.__name__: part for part in (kills, power, flips, resume, memory, fuzz, bombs, names, lock, refusal, queries)
}


@click.command(help=__doc__)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="May be repeated.  [default: all]")
@click.option("--size", default=1.0, show_default=True, help="Share of the full targets to run.")
def main(parts: tuple[str, ...], size: float) -> None:
    for name in parts or PARTS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            figures = PARTS[name](Path(scratch), size)
        click.echo(json.dumps({"part": name, **figures, "took s": round(time.perf_counter() - started, 1)}))


def _indexed_examples(scratch: Path) -> tuple[Path, Path, Encoder]:
    photos, encoder = scratch / "photos", Encoder.load(shipped_model())
    _photographs(photos, 48)
    with CollectionWriter.create(default_file(photos), photos) as collection:
        index_folder(collection, encoder)
    return default_file(photos), photos, encoder


def _photographs(folder: Path, count: int) -> None:
    """JPEGs of soft noise, of 300 x 225, no two alike."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((300, 225), Image.Resampling.BILINEAR).save(folder / f"{number:06}.jpg", quality=80)


def _children() -> list[int]:
    return [int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()] + [
        int(child)
        for task in Path("/proc/self/task").iterdir()
        if task.name != str(os.getpid())
        for child in (task / "children").read_text().split()
    ]


def _resident_kb(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0  # it has just ended
    return int(status.split("VmRSS:")[1].split()[0]) if "VmRSS:" in status else 0


if __name__ == "__main__":
    main()
