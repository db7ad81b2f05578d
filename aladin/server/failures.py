"""Every failure of the application answered with a problem."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from aladin.errors import AladinError, CollectionLocked, IndexMismatch, ModelError
from aladin.server.problems import MEDIA_TYPE, problem_body

log = logging.getLogger("aladin.server")


def respond(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(problem_body(status, detail), status, dict(headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every failure of `app` with a problem."""

    @app.exception_handler(AladinError)
    async def of_ours(request: Request, error: AladinError) -> JSONResponse:
        if isinstance(error, CollectionLocked):
            return respond(409, str(error), {"Retry-After": "5"})
        return respond(409 if isinstance(error, ModelError | IndexMismatch) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return respond(400, _sentence(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            # Starlette names the methods of one route; several routes may share a path.
            methods = ", ".join(sorted(_methods_here(request)))
            return respond(405, f"{request.method[:20]} is not possible here; expected {methods}", {"Allow": methods})
        detail = "there is nothing here; see /openapi.json" if error.detail == "Not Found" else str(error.detail)
        return respond(error.status_code, detail, error.headers)

    @app.exception_handler(Exception)
    async def our_bug(request: Request, error: Exception) -> JSONResponse:
        log.error("a bug: %s", type(error).__name__, exc_info=error)
        return respond(500, "the server met a bug of its own; its log says more")


def _methods_here(request: Request) -> set[str]:
    found: set[str] = set()
    for route in request.app.state.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found


def _sentence(error: RequestValidationError) -> str:
    """The first complaint, with its position but without the value, which may be private."""
    first = error.errors()[0]
    position = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be parsed')}; send an object"
    complaint = str(first["msg"])
    return f"{position[:80]}: {complaint[:1].lower()}{complaint[1:160]}; see /openapi.json".encode("utf-8", "replace").decode()
