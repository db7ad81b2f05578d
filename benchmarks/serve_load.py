"""What the server bears: `python benchmarks/serve_load.py --rows 100000 --clients 200 --seconds 60`.

A collection of random vectors and tokens of the shipped model's shape (stage 1 and stage 2 do the work they would do on
photographs; only the text encoder sees real words) is served by `aladin serve` in a process of its own. First one client asks
alone; then all clients ask at once, each a new sentence as soon as the last is answered, and come again after 503 as told.
Meanwhile another process asks /healthz twenty times a second, over a new connection each time.

Printed: requests and searches answered a second, p50 and p95 of those searches (without the waiting that Retry-After asks for),
how many were sent away and how many got no answer at all; the health checks, and how late the process that makes them was
itself, which is part of what it measures; which share of the cores the clients took from the server; and the memory of the
server and its processes together, shared pages counted once. With `--searches 20000` it goes on until so many are answered.
Options that are not known here, such as `--waiting 0`, are handed on to `aladin serve`.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import numpy as np

from aladin.collection.sqlite import Collection
from aladin.collection.writer import CollectionWriter
from aladin.encoder.folder import ModelFolder, shipped_model
from aladin.pictures.listing import FileState
from aladin.pictures.photographs import Photograph

WORDS = ("dog", "cat", "man", "woman", "child", "snow", "beach", "red", "car", "runs", "jumps", "music", "street", "night")
BLOCK = 2000
HEALTH_SECONDS = 0.05  # between two health checks
START_SECONDS = 1.0  # within which all clients come
MEMORY_AT = (1000, 2000, 5000, 10_000, 20_000)  # searches


@dataclass(frozen=True)
class Load:
    """How many clients ask, and until when."""

    clients: int
    seconds: float
    searches: float = math.inf  # answered


@dataclass
class Tally:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)  # of searches answered
    sent_away: int = 0
    lost: int = 0
    health: list[float] = field(default_factory=list)  # seconds of each check
    late: list[float] = field(default_factory=list)  # by which the process that checks went on late
    memory: dict[int, float] = field(default_factory=dict)  # MB after so many searches
    took: float = 0.0  # seconds, all in all
    client_share: float = 0.0  # of all cores


@dataclass(frozen=True)
class Answer:
    """What one request got, and after how long."""

    status: int
    seconds: float
    retry_after: int


def build(place: Path, root: Path, rows: int) -> None:
    """A collection of `rows` images without files. Every `BLOCK` rows the tokens are the same: to draw them takes longest."""
    model = ModelFolder.open(shipped_model())
    config = model.config
    dim, token_dim, regions = config.vector_dim, config.heads.encoded_token_dim, config.regions
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


async def client(port: int, over: Callable[[], bool], tally: Tally) -> None:
    connection = Connection(port)
    await asyncio.sleep(random.uniform(0, START_SECONDS))
    while not over():
        answer = await connection.ask("/v1/search", sentence())
        if answer.status == 200:
            tally.seconds.append(answer.seconds)
        elif answer.status == 503:
            tally.sent_away += 1
            await asyncio.sleep(answer.retry_after * random.uniform(0.5, 1.5))
        else:
            tally.lost += 1
    connection.close()


def watch_health(port: int, end: Pipe) -> None:
    """Check until told to end, then tell the seconds of each check, and by how many each began late. A process of its own with
    plain sockets does it: among the clients it would wait for them.
    """
    checks, late = [], []
    while True:
        rested = time.perf_counter()
        if end.poll(HEALTH_SECONDS):
            break
        started = time.perf_counter()
        late.append(started - rested - HEALTH_SECONDS)
        checks.append(time.perf_counter() - started if healthy(port) else math.inf)
    end.send((checks, late))


def healthy(port: int) -> bool:
    """Over a new connection, as those who watch a server make."""
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200")


async def watch_memory(pid: int, over: Callable[[], bool], tally: Tally) -> None:
    """Notes the memory at the start, and whenever so many searches have been answered."""
    for count in (0, *MEMORY_AT):
        while len(tally.seconds) < count and not over():
            await asyncio.sleep(0.1)
        if len(tally.seconds) >= count:
            tally.memory[count] = memory_mb(pid)


def loaded(port: int, pid: int, load: Load) -> Tally:
    """The tally of so many clients over so long."""
    ours, theirs = multiprocessing.Pipe()
    watch = multiprocessing.Process(target=watch_health, args=(port, theirs))
    watch.start()
    tally, started, busy = Tally(), time.perf_counter(), time.process_time()

    def over() -> bool:
        return time.perf_counter() - started > load.seconds or len(tally.seconds) >= load.searches

    async def all_clients() -> None:
        await asyncio.gather(watch_memory(pid, over, tally), *(client(port, over, tally) for _ in range(load.clients)))

    asyncio.run(all_clients())
    tally.took = time.perf_counter() - started
    tally.client_share = (time.process_time() - busy) / tally.took / (os.cpu_count() or 1)
    ours.send("end")
    tally.health, tally.late = ours.recv()
    watch.join()
    return tally


def memory_mb(pid: int) -> float:
    """Of a process and those it has started; pages that they share are counted once."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    below = [int(child) for file in children for child in file.read_text().split()]
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = int(next(line.split()[1] for line in lines if line.startswith("Pss:"))) / 1024
    return own + sum(memory_mb(child) for child in below)


def report(name: str, tally: Tally) -> None:
    taken = np.array(tally.seconds) * 1000
    if not len(taken):
        print(f"{name}: nothing was answered; {tally.sent_away} sent away, {tally.lost} lost")
        return
    requests = len(taken) + tally.sent_away + tally.lost
    print(
        f"{name}, {tally.took:.0f} s: {requests / tally.took:.1f} requests/s, {len(taken) / tally.took:.1f} searches/s, "
        f"p50 {np.percentile(taken, 50):.0f}, p95 {np.percentile(taken, 95):.0f} ms; "
        f"of {requests:,} requests {tally.sent_away:,} were sent away with 503, {tally.lost} lost"
    )
    print(f"  health: {spread(tally.health)}; of which the process that checks was late itself: {spread(tally.late)}")
    print(f"  the clients took {100 * tally.client_share:.0f} % of the {os.cpu_count()} cores")


def spread(seconds: list[float]) -> str:
    p50, p99, slowest = 1000 * np.percentile(seconds, (50, 99, 100))
    return f"p50 {p50:.0f}, p99 {p99:.0f}, slowest {slowest:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--searches", type=int, help="Go on until so many are answered, however long that takes.")
    parser.add_argument("--collection", type=Path, help="Keep the collection there, and use the one that is there.")
    options, of_the_server = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = (options.collection or Path(scratch) / "c.sqlite").resolve()
        if not place.is_file():
            build(place, place.parent, options.rows)
        with Collection.open(place) as kept:
            kept.check_model(ModelFolder.open(shipped_model()))
        command = [sys.executable, "-m", "aladin", "serve", str(place.parent), "--collection", str(place)]
        command += ["--port", "0", "--no-index", *of_the_server]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            port = int(server.stderr.readline().split(" at ")[1].split()[0].rstrip("/").rsplit(":", 1)[1])
            try:
                loaded(port, server.pid, Load(4, 5.0))  # caches are built, graphs are loaded
                report("one client", loaded(port, server.pid, Load(1, 10.0)))
                seconds = math.inf if options.searches else options.seconds
                tally = loaded(port, server.pid, Load(options.clients, seconds, options.searches or math.inf))
                report(f"{options.clients} clients", tally)
                print("  memory: " + ", ".join(f"{mb:.0f} MB after {count:,}" for count, mb in tally.memory.items()))
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
