"""What the server bears: `python benchmarks/serve_load.py --rows 100000 --clients 200 --seconds 60`.

A collection of random vectors and tokens of the shipped model's shape (stage 1 and stage 2 do the work they would do on
photographs; only the text encoder sees real words) is served by `aladin serve` in a process of its own. First one client asks
alone; then all clients ask at once, each a new sentence as soon as the last is answered, and come again after 503 as told.
Meanwhile /healthz is asked twenty times a second. Printed: searches answered a second, p50 and p95 of those answered (without
the waiting that Retry-After asks for), how many were sent away, how many got no answer at all, the slowest health check, and
the server's memory after so many searches. The clients run on the same cores and take their share of them. Options that are
not known here, such as `--waiting 0`, are handed on to `aladin serve`.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aladin.collection_writer import CollectionWriter
from aladin.listing import FileState
from aladin.model_folder import ModelFolder, shipped_model
from aladin.photographs import Photograph

WORDS = ("dog", "cat", "man", "woman", "child", "snow", "beach", "red", "car", "runs", "jumps", "music", "street", "night")
BLOCK = 2000
START_SECONDS = 1.0  # within which all clients come
MEMORY_AT = (1000, 2000, 5000, 10_000, 20_000)  # searches


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)  # of searches answered
    sent_away: int = 0
    lost: int = 0
    health: list[float] = field(default_factory=list)
    memory: dict[int, float] = field(default_factory=dict)  # MB after so many searches


@dataclass(frozen=True)
class Answer:
    """What one request got, and after how long."""

    status: int
    seconds: float
    retry_after: int


def build(place: Path, root: Path, rows: int) -> None:
    """A collection of `rows` images without files. Every `BLOCK` rows the tokens are the same: to draw them takes longest."""
    model = ModelFolder.open(shipped_model())
    dim, token_dim, regions = model.config.backbone.dim, model.config.heads.token_dim, model.config.image.grid**2
    draws = np.random.default_rng(0)
    tokens = draws.normal(size=(BLOCK, regions, token_dim)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    with CollectionWriter.create(place, root) as collection:
        collection.use_model(model)
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            vectors = draws.normal(size=(count, dim)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
            names = [f"{row:07}.jpg" for row in range(start, start + count)]
            photographs = [Photograph(FileState(name, 1, 1), name.encode(), 640, 480, None) for name in names]
            with collection.transaction():
                collection.add(photographs, vectors, tokens[:count])


class Connection:
    """One client's connection, kept open between requests as browsers do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, body: bytes = b"") -> Answer:
        """The answer; of status 0 when there is none."""
        started = time.perf_counter()
        try:
            self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(_header(head, "content-length", 0))
            return Answer(int(head[9:12]), time.perf_counter() - started, _header(head, "retry-after", 1))
        except (OSError, EOFError, ValueError):
            self._streams = None
            return Answer(0, time.perf_counter() - started, 1)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def _header(head: str, name: str, default: int) -> int:
    found = head.find(f"\r\n{name}:")
    return int(head[found:].split(":", 1)[1].split("\r\n", 1)[0]) if found >= 0 else default


def sentence() -> bytes:
    return json.dumps({"text": " ".join(random.choices(WORDS, k=6)), "top": 20}).encode()


async def client(port: int, until: float, tally: Tally) -> None:
    connection = Connection(port)
    await asyncio.sleep(random.uniform(0, START_SECONDS))
    while time.perf_counter() < until:
        answer = await connection.ask("/v1/search", sentence())
        if answer.status == 200:
            tally.seconds.append(answer.seconds)
        elif answer.status == 503:
            tally.sent_away += 1
            await asyncio.sleep(answer.retry_after * random.uniform(0.5, 1.5))
        else:
            tally.lost += 1
    connection.close()


def health(port: int, seconds: float) -> list[float]:
    """The seconds that each health check took. A process does it: among the clients it would wait for them."""

    async def watch() -> list[float]:
        found, until = [], time.perf_counter() + seconds
        while time.perf_counter() < until:
            connection = Connection(port)  # a new one each time, as those who watch a server make
            answer = await connection.ask("/healthz")
            connection.close()
            found.append(answer.seconds if answer.status == 200 else float("inf"))
            await asyncio.sleep(0.05)
        return found

    return asyncio.run(watch())


async def watch_memory(pid: int, until: float, tally: Tally) -> None:
    """Notes the memory whenever so many searches have been answered."""
    for count in MEMORY_AT:
        while len(tally.seconds) < count and time.perf_counter() < until:
            await asyncio.sleep(0.1)
        if len(tally.seconds) >= count:
            tally.memory[count] = resident_mb(pid)


def loaded(port: int, pid: int, clients: int, seconds: float) -> Tally:
    """The tally of so many clients over so long."""
    with ProcessPoolExecutor(1) as apart:
        watching = apart.submit(health, port, seconds)
        tally, until = Tally(), time.perf_counter() + seconds

        async def all_clients() -> None:
            await asyncio.gather(watch_memory(pid, until, tally), *(client(port, until, tally) for _ in range(clients)))

        asyncio.run(all_clients())
        tally.health = watching.result()
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
    options, of_the_server = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = (options.collection or Path(scratch) / "c.sqlite").resolve()
        if not place.is_file():
            build(place, place.parent, options.rows)
        command = [sys.executable, "-m", "aladin", "serve", str(place.parent), "--collection", str(place)]
        command += ["--port", "0", "--no-index", *of_the_server]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            port = int(server.stderr.readline().split(" at ")[1].split()[0].rstrip("/").rsplit(":", 1)[1])
            try:
                loaded(port, server.pid, 4, 5.0)  # caches are built, graphs are loaded
                report("one client", loaded(port, server.pid, 1, 10.0), 10.0)
                tally = loaded(port, server.pid, options.clients, options.seconds)
                report(f"{options.clients} clients", tally, options.seconds)
                print("memory: " + ", ".join(f"{mb:.0f} MB after {count:,}" for count, mb in tally.memory.items()))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
