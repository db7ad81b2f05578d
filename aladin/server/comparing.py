"""Texts with images, each with each, in the shapes of others' APIs: what a searching process does besides searching."""

import base64
import secrets

import numpy as np
from pydantic import BaseModel

from aladin.search.encoding import EncodedQuery, encode_query
from aladin.search.query import Query, TextPart
from aladin.search.stage_two import align
from aladin.server.answering import Pictures, explanation_out, query_of
from aladin.server.engine import Engine
from aladin.server.schemas import (
    EmbeddingOut,
    EmbeddingsIn,
    EmbeddingsOut,
    ExplainIn,
    RerankedOut,
    RerankIn,
    RerankOut,
    ScoreIn,
    ScoreOut,
    UsageOut,
)


def explanation(engine: Engine, body: ExplainIn, pictures: Pictures) -> bytes:
    """An `ExplanationOut`."""
    query, _ = query_of(engine, body, pictures)
    number = engine.encoded([body.image])[0]
    return _json(explanation_out(engine.searcher.explain(query, number)))


def scores(engine: Engine, body: ScoreIn) -> bytes:
    """A `ScoreOut`."""
    numbers = engine.encoded(body.images)
    vectors = engine.collection.vectors_of(numbers).astype(np.float32)
    alignment, matching = [], []
    for text in body.texts:
        encoded = _encoded(engine, text)
        alignment.append(align(engine.collection, encoded, np.array(numbers, dtype=np.int64)).scores.tolist())
        matching.append([float(value) for value in vectors @ encoded.vector])
    return _json(ScoreOut(alignment=alignment, matching=matching))


def embeddings(engine: Engine, body: EmbeddingsIn) -> bytes:
    """An `EmbeddingsOut`."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    encoded = [_encoded(engine, text) for text in texts]
    data = []
    for place, query in enumerate(encoded):
        vector = query.parts[0].vector.astype("<f4")
        as_text = base64.b64encode(vector.tobytes()).decode() if body.encoding_format == "base64" else vector.tolist()
        data.append(EmbeddingOut(index=place, embedding=as_text))
    pieces = sum(len(query.parts[0].tokens) for query in encoded)
    usage = UsageOut(prompt_tokens=pieces, total_tokens=pieces)
    return _json(EmbeddingsOut(data=data, model=engine.encoder.model.name, usage=usage))


def reranked(engine: Engine, body: RerankIn) -> bytes:
    """A `RerankOut`."""
    numbers = engine.encoded(body.documents)
    found = align(engine.collection, _encoded(engine, body.query), np.array(numbers, dtype=np.int64)).scores
    order = np.argsort(-found, kind="stable")[: body.top_n].tolist()
    results = [RerankedOut(index=place, relevance_score=float(found[place])) for place in order]
    return _json(RerankOut(id=secrets.token_hex(8), results=results))


def _encoded(engine: Engine, text: str) -> EncodedQuery:
    return encode_query(Query((TextPart(text),)), engine.encoder)


def _json(answer: BaseModel) -> bytes:
    return answer.model_dump_json().encode()
