"""Who may ask: only clients that mean this server, from pages of its own, with the token that a route wants.

A browser lends its position to every page it shows. A page from elsewhere must neither read this server's answers nor make it
do anything, even if its name has been pointed at this machine (DNS rebinding). So the Host must be one of ours, an Origin must
be that host, and what the browser itself calls cross-site is refused, but for a person who follows a link to the page.
"""

import logging
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aladin.server.failures import respond
from aladin.server.problems import Problem
from aladin.server.settings import RANK, Tokens
from aladin.server.settings import Scope as TokenScope

POLICY = "; ".join(
    (
        "default-src 'none'", "img-src 'self' data: blob:", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
        "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Frame-Options": "DENY",
}
log = logging.getLogger("aladin.access")
Observer = Callable[[str, str, int, float], None]
bearer = HTTPBearer(auto_error=False, description="A token of the scope that the route wants: search, write or admin.")


class Gate:
    """The outermost layer: refuses what comes from elsewhere, names every request, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, names: frozenset[str], observe: Observer) -> None:
        self._app = app
        self._names = names
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, request_id, status = time.perf_counter(), secrets.token_hex(8), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers.setdefault("Cache-Control", "no-store")
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = foreign(scope["method"], scope["path"], Headers(scope=scope), self._names)
        try:
            if refusal is not None:
                await respond(refusal.status_code, refusal.detail)(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            # The route's pattern, never the URL: what somebody looks for is theirs.
            route = getattr(scope.get("route"), "path", "unmatched")
            seconds = time.perf_counter() - started
            self._observe(scope["method"], route, status, seconds)
            log.info("%s %s %s %d %.0f ms", request_id, scope["method"], route, status, 1000 * seconds)


def foreign(method: str, path: str, headers: Headers, names: frozenset[str]) -> Problem | None:
    """Why a request comes from elsewhere; None when it does not."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or _name(f"//{hosts[0]}") not in names:
        return Problem(400, "the Host is none of this server's; allow a further name with --allow-host")
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != hosts[0].lower():
        return Problem(403, "the request comes from a page of another origin; open the page that this server serves")
    site = headers.get("sec-fetch-site", "none")
    followed_link = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
    if site not in ("same-origin", "none") and not followed_link:
        return Problem(403, "the request comes from a page of another site; open the page that this server serves")
    return None


def _name(url: str) -> str | None:
    """The host's name in lower case, without port and brackets; None where there is none."""
    try:
        parts = urlsplit(url)
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return None
        _ = parts.port  # raises when it is no number
        return parts.hostname.rstrip(".") if parts.hostname else None
    except ValueError:
        return None


def allowed(scope: TokenScope) -> Any:
    """A dependency that lets a request pass only with a token of that scope. Without any tokens everybody may search."""

    # A coroutine: FastAPI would send a plain function to a thread and back, which under load takes longer than the check.
    async def check(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        tokens: Tokens = request.app.state.served.config.tokens
        if not tokens and scope == "search":
            return
        if not tokens:
            raise Problem(403, f"this server has no {scope} token, so nobody may do that; start it with --tokens FILE")
        found = tokens.scope_of(credentials.credentials) if credentials else None
        if found is None:
            raise Problem(401, "a token is wanted; send Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        if RANK[found] < RANK[scope]:
            raise Problem(403, f"the token is of scope {found}; this needs one of scope {scope}")

    return Depends(check)
