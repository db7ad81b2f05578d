"""Answers of the API, and what every route may answer instead."""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel

from aladin.server.problems import MEDIA_TYPE
from aladin.server.schemas import ProblemOut

REASONS = {
    400: "The request is malformed, or addressed to another host.",
    401: "A token is wanted.",
    403: "The token's scope is too narrow, or the request comes from another site's page.",
    404: "There is no such image.",
    408: "The body took too long.",
    409: "Somebody else is writing the collection, or it belongs to another model.",
    413: "The body is too large.",
    415: "The body is no image.",
    422: "The request is well formed, but cannot be answered.",
    500: "A bug of the server.",
    503: "Too many searches wait, or there is no collection yet.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of these answers."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    return {status: {"description": REASONS[status], "content": content} for status in statuses}


REFUSALS = problems(400, 401, 403, 404, 408, 409, 413, 422, 500, 503)
PROBLEM_SCHEMA = ProblemOut.model_json_schema()


def reply(content: BaseModel | bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """JSON of a model, or of bytes that are JSON already."""
    body = content if isinstance(content, bytes) else content.model_dump_json().encode()
    return Response(body, status, dict(headers or {}), "application/json")
