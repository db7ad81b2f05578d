"""Routes that compare: search, similar, explain, score, embeddings, rerank."""

import base64
import secrets
import time
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from aladin.queries import Query as Asked
from aladin.queries import TextPart, encode_query
from aladin.search import alignment_by_part
from aladin.server import ids
from aladin.server.answering import answer, explanation_out, query_of
from aladin.server.responses import REFUSALS, reply
from aladin.server.schemas import (
    MAX_TOP,
    EmbeddingOut,
    EmbeddingsIn,
    EmbeddingsOut,
    ExplainIn,
    ExplanationOut,
    ImageIn,
    RerankedOut,
    RerankIn,
    RerankOut,
    ScoreIn,
    ScoreOut,
    SearchIn,
    SearchOut,
    UsageOut,
)
from aladin.server.searching import Engine
from aladin.server.security import allowed
from aladin.server.service import Served, no_image

router = APIRouter(prefix="/v1", dependencies=[allowed("search")], responses=REFUSALS, tags=["search"])
OpaqueId = Annotated[str, Path(pattern=ids.PATTERN, description="An image's id, as searches give it.")]


@router.post("/search", response_model=SearchOut)
async def search(body: SearchIn, request: Request) -> Response:
    """The images that texts and images describe, best first."""
    return await _searched(body, request.app.state.served)


@router.get("/similar/{image}", response_model=SearchOut)
async def similar(
    image: OpaqueId, request: Request, top: Annotated[int, Query(ge=1, le=MAX_TOP)] = 50, why: bool = False
) -> Response:
    """The images most like one of the collection, without itself."""
    body = SearchIn(images=[ImageIn(id=image)], top=top, why=why)
    return await _searched(body, request.app.state.served)


@router.post("/explain", response_model=ExplanationOut)
async def explain(body: ExplainIn, request: Request) -> Response:
    """Why one image has its alignment score for a query: what each word chose, and what that added."""
    served: Served = request.app.state.served

    def work(engine: Engine) -> BaseModel:
        query, _ = query_of(body, served, engine)
        row = _encoded(served, engine, [body.image])[0]
        return explanation_out(engine.searcher.explain(query, row))

    return reply(await served.searches.run(work))


@router.post("/score", response_model=ScoreOut)
async def score(body: ScoreIn, request: Request) -> Response:
    """How well each image shows each text, by alignment and by the product of vectors."""
    served: Served = request.app.state.served

    def work(engine: Engine) -> BaseModel:
        numbers = _encoded(served, engine, body.images)
        vectors = engine.collection.vectors_of(numbers).astype(np.float32)
        alignment, matching = [], []
        for text in body.texts:
            encoded = encode_query(Asked((TextPart(text),)), engine.encoder)
            alignment.append(alignment_by_part(engine.collection, encoded, np.array(numbers, dtype=np.int64))[0].tolist())
            matching.append([float(value) for value in vectors @ encoded.vector])
        return ScoreOut(alignment=alignment, matching=matching)

    return reply(await served.searches.run(work))


@router.post("/embeddings", response_model=EmbeddingsOut)
async def embeddings(body: EmbeddingsIn, request: Request) -> Response:
    """Vectors of texts, as OpenAI's API gives them."""
    served: Served = request.app.state.served
    texts = [body.input] if isinstance(body.input, str) else list(body.input)

    def work(engine: Engine) -> BaseModel:
        encoded = [encode_query(Asked((TextPart(text),)), served.encoder) for text in texts]
        data = []
        for place, query in enumerate(encoded):
            vector = query.parts[0].vector.astype("<f4")
            as_text = base64.b64encode(vector.tobytes()).decode() if body.encoding_format == "base64" else vector.tolist()
            data.append(EmbeddingOut(index=place, embedding=as_text))
        pieces = sum(len(query.parts[0].tokens) for query in encoded)
        usage = UsageOut(prompt_tokens=pieces, total_tokens=pieces)
        return EmbeddingsOut(data=data, model=served.encoder.model.name, usage=usage)

    return reply(await served.searches.run(work))


@router.post("/rerank", response_model=RerankOut)
async def rerank(body: RerankIn, request: Request) -> Response:
    """Images in the order in which they show a text, as Cohere's API gives documents."""
    served: Served = request.app.state.served

    def work(engine: Engine) -> BaseModel:
        numbers = _encoded(served, engine, body.documents)
        encoded = encode_query(Asked((TextPart(body.query),)), engine.encoder)
        scores = alignment_by_part(engine.collection, encoded, np.array(numbers, dtype=np.int64))[0]
        order = np.argsort(-scores, kind="stable")[: body.top_n].tolist()
        results = [RerankedOut(index=place, relevance_score=float(scores[place])) for place in order]
        return RerankOut(id=secrets.token_hex(8), results=results)

    return reply(await served.searches.run(work))


async def _searched(body: SearchIn, served: Served) -> Response:
    started = time.perf_counter()
    found: bytes = await served.searches.run(lambda engine: answer(body, served, engine).model_dump_json().encode())
    return reply(found, {"Server-Timing": f"total;dur={1000 * (time.perf_counter() - started):.1f}"})


def _encoded(served: Served, engine: Engine, opaque: list[str]) -> list[int]:
    """The numbers of images that have tokens; Problem 404 for the first that has none."""
    numbers = []
    for name in opaque:
        row = served.row(engine.collection, name)
        if row.status not in ("ok", "offline"):
            raise no_image(name)
        numbers.append(row.id)
    return numbers
