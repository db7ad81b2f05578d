"""Bodies that arrive: counted while they stream, and not waited for for ever."""

import asyncio
import contextlib

import h11
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from aladin.server.failures import respond
from aladin.server.problems import Problem
from aladin.server.settings import Limits

UPLOADS = ("/v1/uploads", "/v1/images")  # whose bodies are pictures
LINGER = 2.0  # seconds for which a refused body is still read: who is cut off in the midst of sending never sees the answer


class BodyLimits:
    """Refuses a body that is too large, by its stated length at once, otherwise as soon as it is; and one that is too slow."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._limits.image_bytes if scope["path"] in UPLOADS else self._limits.json_bytes
        headers = Headers(scope=scope)
        stated = headers.get("content-length", "0")
        # A server closes a connection whose body it has not read, so the next request cannot be mistaken.
        if stated.isdigit() and int(stated) > most:
            if "expect" not in headers:  # with it, nothing is sent before we say so
                await _pass_over(receive)
            await respond(413, _too_large(most), {"Connection": "close"})(scope, receive, send)
            return
        loop, deadline, arrived, complete = asyncio.get_running_loop(), 0.0, 0, False

        async def receive_within_limits() -> Message:
            nonlocal deadline, arrived, complete
            if complete:
                return await receive()  # waits for the client to leave, as it may
            deadline = deadline or loop.time() + self._limits.body_seconds
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                sentence = f"the body took longer than {self._limits.body_seconds:g} s; send it faster, or less of it"
                raise Problem(408, sentence, {"Connection": "close"}) from None
            arrived += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if arrived > most:
                if not complete:
                    await _pass_over(receive)
                raise Problem(413, _too_large(most), {"Connection": "close"})
            return message

        await self._app(scope, receive_within_limits, send)


async def _pass_over(receive: Receive) -> None:
    """Read the rest of a body and keep nothing of it, for so long as we linger."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (await receive()).get("more_body", False):
                pass


def _too_large(most: int) -> str:
    return f"the body is larger than {most:,} bytes; send less"


def impatient_protocol(limits: Limits) -> type[H11Protocol]:
    """HTTP/1.1 that closes a connection whose request does not arrive: uvicorn itself would wait."""

    class Impatient(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._arrival = self.loop.call_later(limits.header_seconds, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrival.cancel()
            super().connection_lost(exc)

        def _give_up(self) -> None:
            if self.conn.their_state is h11.IDLE and self.cycle is None:
                self.transport.close()

    return Impatient
