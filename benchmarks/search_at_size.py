"""Search over many rows: each stage of a query, recall of stage 1, memory, disk, build time; beside other engines on request.

The rows have the shape of real ones. Their seeds are the vectors and region tokens that the model gives the images of DATA. A
row is a seed moved towards a random mixture of its 16 nearest neighbours, by half to all of the distance to the nearest, so
that it stays where such images lie and is as far from others as they are; its tokens are its seed's. Queries are captions of
DATA. With more rows than seeds rows lie in clumps around the seeds, more than photographs would; `--seeds-only` measures on the
seeds alone, as they are.

    python benchmarks/search_at_size.py val.zip train.zip --rows 10000 --rows 100000 --rows 1000000 --peer hnsw --peer usearch

Every size and every engine is measured in a process of its own, one query after the other, after 20 that do not count. All
queries are asked twice: first with the collection on the disk alone, as when it was just opened, then with what they need in
the operating system's memory.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from jaxtyping import Float16, Float32, Int64

import aladin.collection.nearest
from aladin.collection.cache import cache_folder
from aladin.collection.nearest import NearestImages
from aladin.collection.sqlite import Collection
from aladin.collection.writer import CollectionWriter, FileState, Photograph
from aladin.datasets import read_dataset
from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder, shipped_model
from aladin.pictures.pixels import open_image, to_pixels
from aladin.search.query import Query, TextPart
from aladin.search.search import Searcher

NEIGHBOURS = 16
PEER_NAMES = ("hnsw", "usearch", "qdrant-edge")
BATCH = 2000  # rows written at once
WARM_UP = 20
EXACT_BLOCK = 50_000
SPARE_BYTES = 10 * 2**30  # of the disk, that stay free


@dataclass(frozen=True)
class Seeds:
    """What the model makes of the data, kept in a file from one run to the next."""

    vectors: Float32[np.ndarray, "images dim"]
    tokens: Float16[np.ndarray, "images regions token_dim"]
    queries: list[str]


@click.command(help=__doc__)
@click.argument("data", nargs=-1, type=click.Path(path_type=Path))
@click.option("--rows", "sizes", multiple=True, default=[10_000, 100_000], show_default=True, help="Sizes to measure.")
@click.option("--queries", "count", default=300, show_default=True, help="How many captions are asked.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Folder to work in, where what has been made is used again.")
@click.option("--peer", "peers", multiple=True, type=click.Choice(PEER_NAMES), help="Also this engine, where it is installed.")
@click.option("--seeds-only", is_flag=True, help="The real vectors alone, by codes in spite of their small number.")
def main(
    data: tuple[Path, ...], sizes: tuple[int, ...], count: int, scratch: Path | None, peers: tuple[str, ...], seeds_only: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        # By the model, since another's rows and exact answers are not this one's.
        folder = (scratch or Path(name)) / ModelFolder.open(shipped_model()).fingerprint[:12]
        folder.mkdir(parents=True, exist_ok=True)
        seeds = _seeds(data, folder / "seeds.npz", count)
        report = []
        for rows in [len(seeds.vectors)] if seeds_only else sizes:
            place = folder / (f"{rows}-seeds" if seeds_only else f"{rows}")
            if not (place / "done").exists():
                _make(place, seeds, rows, moved=not seeds_only)
            for engine in ["aladin", *peers]:
                arguments = ["measure", str(place), str(folder / "seeds.npz"), engine, str(int(seeds_only))]
                found = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=False, text=True)
                figures = json.loads(found.stdout) if found.returncode == 0 else {"failed": found.returncode}
                report.append({"engine": engine, "rows": rows} | figures)
                click.echo(json.dumps(report[-1]), err=True)
    json.dump({"runs": report, "cores": os.cpu_count(), "queries": len(seeds.queries)}, sys.stdout, indent=2)
    click.echo()


def measure(place: Path, seeds: Path, engine: str, as_codes: bool) -> None:
    """One engine on one size, in this process; figures as JSON on stdout."""
    queries = [str(query) for query in np.load(seeds)["queries"]]
    encoder = Encoder.load(shipped_model())
    asked = encoder.encode_queries(queries).vectors
    nearest = np.load(place / "nearest.npy")
    if engine == "aladin":
        figures = _aladin(place, encoder, queries, asked, nearest, as_codes)
    else:
        figures = _peer(PEERS[engine], np.load(place / "vectors.npy", mmap_mode="r"), asked, nearest, place / engine)
    json.dump(figures, sys.stdout)


def _aladin(
    place: Path,
    encoder: Encoder,
    queries: list[str],
    asked: Float32[np.ndarray, "queries dim"],
    nearest: Int64[np.ndarray, "queries 100"],
    as_codes: bool,
) -> dict[str, Any]:
    if as_codes:
        aladin.collection.nearest.EXACT_ROWS = 0
    with Collection.open(place / "c.sqlite") as collection:
        shutil.rmtree(cache_folder(collection.path), ignore_errors=True)
        before = _resident()
        with collection.snapshot():
            build = _seconds(lambda: NearestImages(collection).refresh())
        _leave_memory(place / "c.sqlite")
        searcher = Searcher(collection, encoder)
        first = _seconds(lambda: searcher.search(Query((TextPart(queries[0]),))))
        passes = {name: _pass(searcher, queries) for name in ("ms, pages on the disk", "ms, pages in memory")}
        resident = _resident() - before
        images = NearestImages(collection)
        with collection.snapshot():
            found = [images.find(vector, 100).ids - 1 for vector in asked]
        cache = sum(file.stat().st_size for file in cache_folder(collection.path).glob("*"))
    return passes | {
        "recall@10": _recall(found, nearest, 10),
        "recall@100": _recall(found, nearest, 100),
        "build_s": round(build, 1),
        "first_query_s": round(first, 2),
        "resident_mb": round(resident / 1e6),
        "disk_mb": {"collection": round((place / "c.sqlite").stat().st_size / 1e6), "cache": round(cache / 1e6)},
    }


def _pass(searcher: Searcher, queries: list[str]) -> dict[str, dict[str, float]]:
    """All queries once; the second time their rows are in the operating system's memory."""
    seconds: dict[str, list[float]] = {stage: [] for stage in ("encode", "nearest", "gather", "align", "total")}
    for number, query in enumerate(queries):
        started = time.perf_counter()
        results = searcher.search(Query((TextPart(query),)))
        spent = asdict(results.seconds) | {"total": time.perf_counter() - started}
        if number >= WARM_UP:
            for stage, value in spent.items():
                seconds[stage].append(value)
    return {stage: _percentiles(values) for stage, values in seconds.items()}


class HnswPeer:
    """Plain FAISS HNSW, in its own form in memory."""

    def __init__(self, vectors: Any, folder: Path) -> None:
        import faiss

        self.index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 80
        for start in range(0, len(vectors), EXACT_BLOCK):
            self.index.add(np.ascontiguousarray(vectors[start : start + EXACT_BLOCK], dtype=np.float32))
        self.index.hnsw.efSearch = 128
        faiss.write_index(self.index, str(folder / "index"))

    def search(self, vector: Float32[np.ndarray, " dim"], count: int) -> Int64[np.ndarray, " found"]:
        found: Int64[np.ndarray, " found"] = self.index.search(vector[None], count)[1][0]
        return found


class UsearchPeer:
    """usearch with half-precision vectors."""

    def __init__(self, vectors: Any, folder: Path) -> None:
        from usearch.index import Index

        self.index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=16, expansion_search=128)
        for start in range(0, len(vectors), EXACT_BLOCK):
            block = np.ascontiguousarray(vectors[start : start + EXACT_BLOCK], dtype=np.float32)
            self.index.add(np.arange(start, start + len(block)), block)
        self.index.save(str(folder / "index"))

    def search(self, vector: Float32[np.ndarray, " dim"], count: int) -> Int64[np.ndarray, " found"]:
        return np.asarray(self.index.search(vector, count).keys, dtype=np.int64)


class QdrantPeer:
    """qdrant-edge: a shard in this process, its HNSW finished by `optimize`."""

    def __init__(self, vectors: Any, folder: Path) -> None:
        import qdrant_edge as qdrant

        self.qdrant = qdrant
        parameters = qdrant.EdgeVectorParams(size=vectors.shape[1], distance=qdrant.Distance.Dot)
        self.shard = qdrant.EdgeShard.create(str(folder), qdrant.EdgeConfig(vectors=parameters))
        for start in range(0, len(vectors), BATCH):
            block = np.asarray(vectors[start : start + BATCH], dtype=np.float32).tolist()
            points = [qdrant.Point(start + row, vector, {}) for row, vector in enumerate(block)]
            self.shard.update(qdrant.UpdateOperation.upsert_points(points))
        while self.shard.optimize():
            pass
        self.shard.flush()

    def search(self, vector: Float32[np.ndarray, " dim"], count: int) -> Int64[np.ndarray, " found"]:
        parameters = self.qdrant.SearchParams(hnsw_ef=128)
        request = self.qdrant.QueryRequest(query=self.qdrant.Query.Nearest(vector.tolist()), limit=count, params=parameters)
        return np.array([point.id for point in self.shard.query(request)], dtype=np.int64)


PEERS: dict[str, Callable[[Any, Path], Any]] = {"hnsw": HnswPeer, "usearch": UsearchPeer, "qdrant-edge": QdrantPeer}


def _peer(make: Any, vectors: Any, asked: Float32[np.ndarray, "queries dim"], nearest: Any, folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    before, started = _resident(), time.perf_counter()
    peer = make(vectors, folder)
    build = time.perf_counter() - started
    spent, found = [], []
    for number, vector in enumerate(asked):
        started = time.perf_counter()
        found.append(peer.search(vector, 100))
        if number >= WARM_UP:
            spent.append(time.perf_counter() - started)
    disk = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    figures = {
        "ms": {"nearest": _percentiles(spent)},
        "recall@10": _recall(found, nearest, 10),
        "recall@100": _recall(found, nearest, 100),
        "build_s": round(build, 1),
        "resident_mb": round((_resident() - before) / 1e6),
        "disk_mb": round(disk / 1e6),
    }
    shutil.rmtree(folder)
    return figures


def _seeds(data: tuple[Path, ...], file: Path, count: int) -> Seeds:
    """The vectors and tokens of all images of `data`, and some captions as queries."""
    if not file.exists():
        encoder, vectors, tokens = Encoder.load(shipped_model()), [], []
        captions: list[str] = []
        fitting = encoder.model.config.preprocessing.fitting
        for path in data:
            dataset = read_dataset(path)
            captions += dataset.captions
            for start in range(0, len(dataset), 32):
                some = dataset.examples[start : start + 32]
                pixels = [
                    to_pixels(open_image(example.source.read(), example.id, fitting.draft_size), fitting) for example in some
                ]
                encoded = encoder.encode_images(np.stack(pixels))
                vectors.append(encoded.vectors)
                tokens.append(encoded.regions.astype(np.float16))
        chosen = captions[:: max(len(captions) // (count + WARM_UP), 1)][: count + WARM_UP]
        np.savez(file, vectors=np.concatenate(vectors), tokens=np.concatenate(tokens), queries=np.array(chosen))
    stored = np.load(file)
    return Seeds(stored["vectors"], stored["tokens"], [str(query) for query in stored["queries"]])


def _make(place: Path, seeds: Seeds, rows: int, moved: bool) -> None:
    """A collection of so many rows, its vectors beside it for the other engines, and the exact answers."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    needed = rows * (seeds.tokens.shape[1] * (seeds.tokens.shape[2] + 4) * 1.1 + seeds.vectors.shape[1] * 2 + 600)
    if shutil.disk_usage(place).free < needed + SPARE_BYTES:
        raise click.ClickException(f"{rows:,} rows need {needed / 1e9:.0f} GB on {place}, and {SPARE_BYTES / 1e9:.0f} to spare")
    random = np.random.default_rng(0)
    neighbours = _neighbours(seeds.vectors)
    encoder = Encoder.load(shipped_model())
    every = np.lib.format.open_memmap(place / "vectors.npy", "w+", np.float16, (rows, seeds.vectors.shape[1]))
    with CollectionWriter.create(place / "c.sqlite", place) as collection:
        collection.use_model(encoder.model)
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            chosen = random.integers(0, len(seeds.vectors), count) if moved else np.arange(start, start + count)
            vectors = _moved(seeds.vectors, neighbours, chosen, random) if moved else seeds.vectors[chosen]
            every[start : start + count] = vectors
            photographs = [
                Photograph(FileState(f"{number // 1000:04}/{number:07}.jpg", 100_000, number), b"%32d" % number, 640, 480, None)
                for number in range(start, start + count)
            ]
            with collection.transaction():
                collection.add(photographs, vectors, seeds.tokens[chosen].astype(np.float32))
    queries = encoder.encode_queries(seeds.queries).vectors
    np.save(place / "nearest.npy", _exact(every, queries))
    (place / "done").touch()


def _neighbours(vectors: Float32[np.ndarray, "images dim"]) -> Int64[np.ndarray, "images neighbours"]:
    found = []
    for start in range(0, len(vectors), 1000):
        likeness = vectors[start : start + 1000] @ vectors.T
        likeness[np.arange(len(likeness)), np.arange(start, start + len(likeness))] = -np.inf
        found.append(np.argsort(-likeness, axis=1)[:, :NEIGHBOURS])
    return np.concatenate(found)


def _moved(
    seeds: Float32[np.ndarray, "images dim"],
    neighbours: Int64[np.ndarray, "images neighbours"],
    chosen: Int64[np.ndarray, " rows"],
    random: np.random.Generator,
) -> Float32[np.ndarray, "rows dim"]:
    start, around = seeds[chosen], seeds[neighbours[chosen]]
    mixture = random.standard_normal((len(chosen), NEIGHBOURS), dtype=np.float32)
    direction = np.einsum("rn,rnd->rd", mixture, around - start[:, None])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    nearest = np.linalg.norm(around[:, 0] - start, axis=1)
    rows = start + direction * (nearest * random.uniform(0.5, 1.0, len(chosen)).astype(np.float32))[:, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows, dtype=np.float32)


def _exact(vectors: Any, queries: Float32[np.ndarray, "queries dim"]) -> Int64[np.ndarray, "queries 100"]:
    """Rows of the 100 nearest vectors, as they are stored, to each query."""
    best = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), EXACT_BLOCK):
        block = queries @ np.asarray(vectors[start : start + EXACT_BLOCK], dtype=np.float32).T
        rows = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, best = np.concatenate([scores, block], axis=1), np.concatenate([best, rows], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :100]
        scores, best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(best, order, axis=1)
    return best


def _recall(found: list[Int64[np.ndarray, " _"]], nearest: Int64[np.ndarray, "queries 100"], count: int) -> float:
    shared = [len(set(ids[:count].tolist()) & set(right[:count].tolist())) for ids, right in zip(found, nearest, strict=True)]
    return round(float(np.mean(shared)) / count, 4)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{share}": round(1000 * float(np.percentile(seconds, share)), 2) for share in (50, 95)}


def _resident() -> int:
    """Bytes of this process in memory; files that are mapped or cached are not counted."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _leave_memory(file: Path) -> None:
    """Let the operating system forget a file's content, which it then reads from the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5] == "1")
    else:
        main()
