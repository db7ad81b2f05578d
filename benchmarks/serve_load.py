"""What the server bears: `python benchmarks/serve_load.py --rows 100000 --clients 200 --seconds 60`.

A collection of random vectors and tokens of the shipped model's shape (stage 1 and stage 2 do the work they would do on
photographs; only the text encoder sees real words) is served by `aladin serve` in a process of its own. First one client asks
alone; then all clients ask at once, each a new sentence as soon as the last is answered, and come again after 503 as told.
Meanwhile /healthz is asked twenty times a second. Printed: searches answered a second, p50 and p95 of those answered (without
the waiting that Retry-After asks for), how many were sent away, how many got no answer at all, the slowest health check, and
the server's memory at the start and the end.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aladin.collection_writer import CollectionWriter
from aladin.listing import FileState
from aladin.model_folder import ModelFolder, shipped_model
from aladin.photographs import Photograph

WORDS = ("dog", "cat", "man", "woman", "child", "snow", "beach", "red", "car", "runs", "jumps", "music", "street", "night")
BLOCK = 2000


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)  # of searches answered
    sent_away: int = 0
    lost: int = 0
    health: list[float] = field(default_factory=list)


def build(place: Path, root: Path, rows: int) -> None:
    """A collection of `rows` images without files."""
    model = ModelFolder.open(shipped_model())
    dim, token_dim, regions = model.config.backbone.dim, model.config.heads.token_dim, model.config.image.grid**2
    draws = np.random.default_rng(0)
    with CollectionWriter.create(place, root) as collection:
        collection.use_model(model)
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            vectors, tokens = draws.normal(size=(count, dim)), draws.normal(size=(count, regions, token_dim))
            vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
            tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
            names = [f"{row:07}.jpg" for row in range(start, start + count)]
            photographs = [Photograph(FileState(name, 1, 1), name.encode(), 640, 480, None) for name in names]
            with collection.transaction():
                collection.add(photographs, vectors.astype(np.float32), tokens.astype(np.float32))


async def ask(port: int, path: str, body: bytes = b"") -> tuple[int, float]:
    """Status and seconds of one request on a connection of its own; status 0 when there is no answer."""
    started = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        method = b"POST" if body else b"GET"
        head = (
            method + f" {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n".encode()
        )
        writer.write(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        return int(answer[9:12] or 0), time.perf_counter() - started
    except (OSError, ValueError):
        return 0, time.perf_counter() - started


def sentence() -> bytes:
    return json.dumps({"text": " ".join(random.choices(WORDS, k=6)), "top": 20}).encode()


async def client(port: int, until: float, tally: Tally) -> None:
    while time.perf_counter() < until:
        status, seconds = await ask(port, "/v1/search", sentence())
        if status == 200:
            tally.seconds.append(seconds)
        elif status == 503:
            tally.sent_away += 1
            await asyncio.sleep(random.uniform(0.5, 1.5))  # Retry-After: 1
        else:
            tally.lost += 1


async def watch_health(port: int, until: float, tally: Tally) -> None:
    while time.perf_counter() < until:
        status, seconds = await ask(port, "/healthz")
        tally.health.append(seconds if status == 200 else float("inf"))
        await asyncio.sleep(0.05)


async def loaded(port: int, clients: int, seconds: float) -> Tally:
    """The tally of so many clients over so long."""
    tally, until = Tally(), time.perf_counter() + seconds
    await asyncio.gather(watch_health(port, until, tally), *(client(port, until, tally) for _ in range(clients)))
    return tally


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


def report(name: str, tally: Tally, seconds: float) -> None:
    taken = np.array(tally.seconds) * 1000
    if not len(taken):
        print(f"{name}: nothing was answered; {tally.sent_away} sent away, {tally.lost} lost")
        return
    print(
        f"{name}: {len(taken) / seconds:.1f} searches/s answered, p50 {np.percentile(taken, 50):.0f} ms, "
        f"p95 {np.percentile(taken, 95):.0f} ms; {tally.sent_away:,} sent away with 503, {tally.lost} lost; "
        f"health p99 {1000 * np.percentile(tally.health, 99):.0f} ms, slowest {1000 * max(tally.health):.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--collection", type=Path, help="Keep the collection there, and use the one that is there.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = (options.collection or Path(scratch) / "c.sqlite").resolve()
        if not place.is_file():
            build(place, place.parent, options.rows)
        command = [
            sys.executable,
            "-m",
            "aladin",
            "serve",
            str(place.parent),
            "--collection",
            str(place),
            "--port",
            "0",
            "--no-index",
        ]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            port = int(server.stderr.readline().split(" at ")[1].split()[0].rstrip("/").rsplit(":", 1)[1])
            try:
                asyncio.run(loaded(port, 4, 5.0))  # caches are built, graphs are loaded
                report("one client", asyncio.run(loaded(port, 1, 10.0)), 10.0)
                before = resident_mb(server.pid)
                tally = asyncio.run(loaded(port, options.clients, options.seconds))
                report(f"{options.clients} clients", tally, options.seconds)
                print(f"memory: {before:.0f} MB before, {resident_mb(server.pid):.0f} MB after {len(tally.seconds):,} searches")
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
