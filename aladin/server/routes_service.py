"""Routes about the server itself: status, health, readiness, metrics, indexing; and the page."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from aladin import __version__
from aladin.collection.store import Facets
from aladin.errors import AladinError
from aladin.server.browsing import shown
from aladin.server.page import PageFiles
from aladin.server.problems import NoCollection, Problem
from aladin.server.responses import problems
from aladin.server.schemas import FolderOut, IndexingOut, StateOut, StatusOut
from aladin.server.security import allowed
from aladin.server.service import Counts, Indexing, Served

router = APIRouter()


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page."""
    return _static(request, "index.html")


@router.get("/static/{name}", include_in_schema=False)
async def static(name: str, request: Request) -> Response:
    """A file of the page: one of a fixed list, held in memory."""
    return _static(request, name)


@router.get("/healthz", tags=["service"])
@router.get("/livez", include_in_schema=False)
async def alive() -> StateOut:
    """Whether the server is alive."""
    return StateOut(status="ok")


@router.get(
    "/readyz", tags=["service"], responses={503: {"model": StateOut, "description": "Not yet."}}, response_model=StateOut
)
async def ready(request: Request) -> Response:
    """Whether the model is loaded, so that searches are answered at once."""
    is_ready = request.app.state.served.ready
    return JSONResponse({"status": "ok" if is_ready else "starting"}, 200 if is_ready else 503)


@router.get(
    "/metrics", tags=["service"], dependencies=[allowed("admin")], response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(400, 401, 403, 500)},
)  # fmt: skip
async def metrics(request: Request) -> Response:
    """Figures for Prometheus. A server with tokens wants one of scope admin, one without only a client on its machine."""
    served: Served = request.app.state.served
    try:
        counts = await served.aside(served.counts)
    except (NoCollection, AladinError):
        counts = Counts({}, {}, 0, Facets((), None, None), 0.0)
    served.metrics.generation.set(counts.generation)
    for gauge, values in ((served.metrics.rows, counts.images), (served.metrics.failed, counts.reasons)):
        gauge.clear()
        for label, value in values.items():
            gauge.labels(label).set(value)
    return Response(served.metrics.as_text(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/status", tags=["service"], dependencies=[allowed("search")], responses=problems(400, 401, 403, 500, 503))
async def status(request: Request) -> StatusOut:
    """What is served: how many images, from which folders and days, by which model, and whether the folder is being read."""
    served: Served = request.app.state.served
    try:
        counts: Counts | None = await served.aside(served.counts)
    except NoCollection:
        counts = None
    facets = counts.facets if counts else Facets((), None, None)
    return StatusOut(
        name=served.config.folder.resolve().name.encode("utf-8", "backslashreplace").decode(),
        images=counts.images if counts else {},
        model=served.encoder.model.name,
        fingerprint=served.encoder.model.fingerprint[:16],
        generation=counts.generation if counts else None,
        folders=[FolderOut(name=shown(path), images=count) for path, count in facets.folders],
        first_date=facets.first_date,
        last_date=facets.last_date,
        indexing=_indexing(served.indexing),
        version=__version__,
        may_write=bool(served.config.tokens),
    )


@router.post(
    "/v1/index",
    tags=["service"],
    status_code=202,
    dependencies=[allowed("write")],
    responses=problems(400, 401, 403, 409, 413, 500),
)
async def index(request: Request) -> IndexingOut:
    """Look for new and changed files in the folder, in the background; /v1/status tells how far that is."""
    served: Served = request.app.state.served
    served.start_indexing()
    return _indexing(served.indexing)


def _indexing(state: Indexing) -> IndexingOut:
    return IndexingOut(state=state.state, done=state.done, total=state.total, message=state.message)


def _static(request: Request, name: str) -> Response:
    files: PageFiles = request.app.state.page
    found = files.get(name)
    if found is None:
        raise Problem(404, "there is nothing here; see /openapi.json")
    headers = {"ETag": found.tag, "Cache-Control": "no-cache"}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers | {"Content-Type": found.kind})
