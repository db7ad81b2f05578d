"""Routes that compare: search, similar, explain, score, embeddings, rerank."""

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from aladin.server import comparing, ids
from aladin.server.answering import answer
from aladin.server.comparing import EmbeddingsIn, EmbeddingsOut, ExplainIn, RerankIn, RerankOut, ScoreIn, ScoreOut
from aladin.server.responses import REFUSALS, reply
from aladin.server.schemas import MAX_TOP, ExplanationOut, ImageIn, SearchIn, SearchOut
from aladin.server.searching import SearchPool
from aladin.server.security import allowed
from aladin.server.service import Served

router = APIRouter(prefix="/v1", dependencies=[allowed("search")], responses=REFUSALS, tags=["search"])
PublicId = Annotated[str, Path(pattern=ids.PATTERN, description="An image's id, as searches give it.")]


@router.post("/search", response_model=SearchOut)
async def search(body: SearchIn, request: Request) -> Response:
    """The images that texts and images describe, best first."""
    return await _searched(body, request.app.state.served)


@router.get("/similar/{image}", response_model=SearchOut)
async def similar(
    image: PublicId, request: Request, top: Annotated[int, Query(ge=1, le=MAX_TOP)] = 50, why: bool = False
) -> Response:
    """The images most like one of the collection, without itself."""
    body = SearchIn(images=[ImageIn(id=image)], top=top, why=why)
    return await _searched(body, request.app.state.served)


@router.post("/explain", response_model=ExplanationOut)
async def explain(body: ExplainIn, request: Request) -> Response:
    """Why one image has its alignment score for a query: what each word chose, and what that added."""
    served: Served = request.app.state.served
    return reply(await served.searches.run(comparing.explanation, body, await served.query_pictures(body.images)))


@router.post("/score", response_model=ScoreOut)
async def score(body: ScoreIn, request: Request) -> Response:
    """How well each image shows each text, by alignment and by the product of vectors."""
    return reply(await _pool(request).run(comparing.scores, body))


@router.post("/embeddings", response_model=EmbeddingsOut)
async def embeddings(body: EmbeddingsIn, request: Request) -> Response:
    """Vectors of texts, as OpenAI's API gives them."""
    return reply(await _pool(request).run(comparing.embeddings, body))


@router.post("/rerank", response_model=RerankOut)
async def rerank(body: RerankIn, request: Request) -> Response:
    """Images in the order in which they show a text, as Cohere's API gives documents."""
    return reply(await _pool(request).run(comparing.reranked, body))


def _pool(request: Request) -> SearchPool:
    pool: SearchPool = request.app.state.served.searches
    return pool


async def _searched(body: SearchIn, served: Served) -> Response:
    started = time.perf_counter()
    found, seconds = await served.searches.run(answer, body, await served.query_pictures(body.images))
    served.metrics.searched(seconds)
    return reply(found, {"Server-Timing": f"total;dur={1000 * (time.perf_counter() - started):.1f}"})
