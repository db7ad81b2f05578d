"""The application: routes, and the layers that every request passes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from aladin import __version__
from aladin.server import failures, routes_images, routes_search, routes_service
from aladin.server.limits import BodyLimits
from aladin.server.page import PageFiles
from aladin.server.responses import PROBLEM_SCHEMA
from aladin.server.security import Gate
from aladin.server.service import Served
from aladin.server.settings import ServeConfig

DESCRIPTION = (
    "Search photographs by sentences and pictures, and see why each was found. Images are named by opaque ids; pictures leave "
    "the server re-encoded and without metadata. Errors are problem details (RFC 9457)."
)


def create_app(config: ServeConfig) -> FastAPI:
    """The server for one folder's collection; ModelError when the model cannot be opened."""
    served = Served(config)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        if config.index:
            served.start_indexing()
        warming = asyncio.get_running_loop().run_in_executor(None, served.warm_up)
        try:
            yield
        finally:
            await warming
            await asyncio.to_thread(served.close)

    app = FastAPI(
        title="aladin", version=__version__, description=DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.served = served
    app.state.page = PageFiles()
    app.state.routes = []
    for routes in (routes_search, routes_images, routes_service):
        app.include_router(routes.router)
        app.state.routes += [route for route in routes.router.routes if isinstance(route, APIRoute)]
    failures.install(app)
    app.add_middleware(BodyLimits, limits=config.limits)
    app.add_middleware(Gate, names=config.names, observe=served.metrics.answered)
    app.openapi = lambda: _documented(app, bool(config.tokens))  # type: ignore[method-assign]
    return app


def _documented(app: FastAPI, secured: bool) -> dict[str, Any]:
    """The OpenAPI document; without tokens no route asks for one."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, openapi_version="3.1.0"
        )
        document["components"]["schemas"]["ProblemOut"] = PROBLEM_SCHEMA
        if not secured:
            document["components"].pop("securitySchemes", None)
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation.pop("security", None)
        app.openapi_schema = document
    return app.openapi_schema
