"""A server to test: the tiny model's colours in a folder, asked in this process or over a real socket."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from aladin.collection.indexing import index_folder
from aladin.collection.store import default_file
from aladin.collection.writer import CollectionWriter
from aladin.encoder.encoder import Encoder
from aladin.server.app import create_app
from aladin.server.running import uvicorn_config
from aladin.server.settings import Limits, ServeConfig, Tokens
from tests.conftest import paint
from tests.tiny_model import COLOURS

SEARCH, WRITE, ADMIN = "search-0123456789abcdef", "write-0123456789abcdef", "admin-0123456789abcdef"
TOKENS = Tokens.parse([f"search {SEARCH}", f"write {WRITE}", f"admin {ADMIN}"], "the test")
ORIGIN = "http://localhost:8321"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def painted_folder(folder: Path, model: Path) -> Path:
    """A folder with a picture of each colour, of which red and blue lie in folders below, and its collection."""
    for seed, name in enumerate(COLOURS):
        below = {"red": "warm/", "blue": "cold/deep/"}.get(name, "")
        paint(folder / f"{below}{name}.png", name, seed=seed, size=(96, 64))
    paint(folder / "flag.png", "red", "white", "blue", seed=99, size=(96, 64))
    with CollectionWriter.create(default_file(folder), folder) as collection:
        index_folder(collection, Encoder.load(model, threads=1))
    return folder


def config_of(folder: Path, model: Path, **settings: Any) -> ServeConfig:
    limits = settings.pop("limits", Limits(workers=1, waiting=8))
    return ServeConfig(folder, default_file(folder), model, index=False, limits=limits, **settings)


@contextmanager
def client_of(config: ServeConfig) -> Iterator[TestClient]:
    """Asks the application in this process, ready to search."""
    app = create_app(config)
    with TestClient(app, base_url=ORIGIN, raise_server_exceptions=False) as client:
        wait_until(lambda: app.state.served.ready)
        yield client


@dataclass(frozen=True)
class Running:
    """A server on a port of its own."""

    address: str
    port: int
    app: FastAPI


@contextmanager
def server_of(config: ServeConfig) -> Iterator[Running]:
    """Serves over a socket, in a thread."""
    app = create_app(config)
    server = uvicorn.Server(uvicorn_config(app, config))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started and app.state.served.ready)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Running(f"http://127.0.0.1:{port}", port, app)
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def wait_until(true: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def ids_by_name(client: TestClient, **headers: str) -> dict[str, str]:
    """The opaque id of each image, by file name."""
    return {image["name"]: image["id"] for image in client.get("/v1/images", headers=headers).json()["images"]}
