"""What a searching process does besides searching, texts with images: what goes in and out of each route, and its work."""

import base64
import secrets
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from aladin.search.encoding import EncodedQuery, encode_query
from aladin.search.query import Query, TextPart
from aladin.search.stage_two import align
from aladin.server.answering import Pictures, explanation_out, query_of
from aladin.server.engine import Engine
from aladin.server.schemas import ImageId, QueryIn, Strict, Text, Whole


class ExplainIn(QueryIn):
    """Why one image has its score for a query."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a dog", "image": "aaaaaaaaaaaaa"}]})
    image: ImageId


class ScoreIn(Strict):
    """Texts and images to compare, each with each."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a dog", "a cat"], "images": ["aaaaaaaaaaaaa"]}]})
    texts: Annotated[list[Text], Field(min_length=1, max_length=16)]
    images: Annotated[list[ImageId], Field(min_length=1, max_length=256)]


class ScoreOut(BaseModel):
    """A row for each text, a column for each image."""

    alignment: list[list[float]]
    matching: list[list[float]]


class EmbeddingsIn(Strict):
    """As of OpenAI's embeddings."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["a dog runs through snow"]}]})
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=64)]
    model: str = "aladin"
    encoding_format: Literal["float", "base64"] = "float"


class EmbeddingOut(BaseModel):
    """One text's vector: numbers, or little-endian fp32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class UsageOut(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(BaseModel):
    """As of OpenAI's embeddings."""

    object: Literal["list"] = "list"
    data: list[EmbeddingOut]
    model: str
    usage: UsageOut


class RerankIn(Strict):
    """As of Cohere's rerank, where documents are ids of images."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"query": "a dog", "documents": ["aaaaaaaaaaaaa"], "top_n": 3}]})
    query: Text
    documents: Annotated[list[ImageId], Field(min_length=1, max_length=1000)]
    top_n: Annotated[int, Field(ge=1, le=1000), Whole] | None = None
    model: str = "aladin"


class RerankedOut(BaseModel):
    """A document by its place in the request, and its alignment score."""

    index: int
    relevance_score: float


class RerankOut(BaseModel):
    """As of Cohere's rerank: the best first."""

    id: str
    results: list[RerankedOut]


def explanation(engine: Engine, body: ExplainIn, pictures: Pictures) -> bytes:
    """An `ExplanationOut`."""
    query, _ = query_of(engine, body, pictures)
    image_id = engine.encoded([body.image])[0]
    return _json(explanation_out(engine.searcher.explain(query, image_id)))


def scores(engine: Engine, body: ScoreIn) -> bytes:
    """A `ScoreOut`."""
    ids = engine.encoded(body.images)
    vectors = engine.collection.vectors_of(ids).astype(np.float32)
    alignment, matching = [], []
    for text in body.texts:
        encoded = _encoded(engine, text)
        alignment.append(align(engine.collection, encoded, np.array(ids, dtype=np.int64)).scores.tolist())
        matching.append([float(value) for value in vectors @ encoded.vector])
    return _json(ScoreOut(alignment=alignment, matching=matching))


def embeddings(engine: Engine, body: EmbeddingsIn) -> bytes:
    """An `EmbeddingsOut`."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    encoded = [_encoded(engine, text) for text in texts]
    data = []
    for position, query in enumerate(encoded):
        vector = query.parts[0].vector.astype("<f4")
        as_text = base64.b64encode(vector.tobytes()).decode() if body.encoding_format == "base64" else vector.tolist()
        data.append(EmbeddingOut(index=position, embedding=as_text))
    pieces = sum(len(query.parts[0].tokens) for query in encoded)
    usage = UsageOut(prompt_tokens=pieces, total_tokens=pieces)
    return _json(EmbeddingsOut(data=data, model=engine.encoder.model.name, usage=usage))


def reranked(engine: Engine, body: RerankIn) -> bytes:
    """A `RerankOut`."""
    ids = engine.encoded(body.documents)
    found = align(engine.collection, _encoded(engine, body.query), np.array(ids, dtype=np.int64)).scores
    order = np.argsort(-found, kind="stable")[: body.top_n].tolist()
    results = [RerankedOut(index=position, relevance_score=float(found[position])) for position in order]
    return _json(RerankOut(id=secrets.token_hex(8), results=results))


def _encoded(engine: Engine, text: str) -> EncodedQuery:
    return encode_query(Query((TextPart(text),)), engine.encoder)


def _json(answer: BaseModel) -> bytes:
    return answer.model_dump_json().encode()
