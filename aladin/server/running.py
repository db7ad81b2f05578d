"""A server from its start to its end."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from aladin.errors import ConfigError
from aladin.processes import check_system
from aladin.server.app import create_app
from aladin.server.limits import impatient_protocol
from aladin.server.settings import ServeConfig

CONNECTIONS = 1000  # at once; more are answered 503
SWITCH_SECONDS = 0.0005  # that another thread goes on while the one that answers waits for its turn


class Server(uvicorn.Server):
    """uvicorn's, which says when it listens and remembers what stopped it instead of raising it again."""

    def __init__(self, config: uvicorn.Config, started: Callable[[str], None]) -> None:
        super().__init__(config)
        self._tell = started
        self.stopped_by: int | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._tell(f"http://{host}:{port}/")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal lets requests end, a second one does not."""
        loop = asyncio.get_running_loop()
        caught = (signal.SIGINT, signal.SIGTERM)
        for number in caught:
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in caught:
                loop.remove_signal_handler(number)

    def _stop(self, number: int) -> None:
        self.force_exit = self.stopped_by is not None
        self.should_exit = True
        self.stopped_by = self.stopped_by or number


def uvicorn_config(app: FastAPI, config: ServeConfig) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app, host=config.host, port=config.port, http=impatient_protocol(config.limits), ws="none", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS, backlog=512,
        timeout_graceful_shutdown=config.limits.stop_seconds,
    )  # fmt: skip


def serve(config: ServeConfig, started: Callable[[str], None], access_log: bool = False) -> int:
    """Serve until a signal; 0 after SIGTERM, 130 after Ctrl-C. `started` is told the address. ConfigError when it is taken."""
    check_system("serving")
    logging.getLogger("aladin.access").setLevel(logging.INFO if access_log else logging.WARNING)
    server = Server(uvicorn_config(create_app(config), config), started)
    # A request takes the interpreter's lock several times, after each wait for its socket. With Python's own 5 ms a health
    # check would take 50 ms or more beside threads that read new files.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        asyncio.run(server.serve())
    except SystemExit:  # uvicorn's answer when it cannot listen
        raise ConfigError(f"{config.host}:{config.port} cannot be served on, it may be in use; give another --port") from None
    return 130 if server.stopped_by == signal.SIGINT else 0
