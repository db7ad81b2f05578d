"""Errors over HTTP: problem details (RFC 9457) with the sentence that the terminal would print."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"


class Problem(HTTPException):
    """A request that cannot be answered: what was found, what was expected, what to do."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers or {}))


class Busy(Problem):
    """More requests than the server takes on; the client should come again."""

    def __init__(self, seconds: int = 1) -> None:
        sentence = f"the server has as many searches waiting as it takes on; try again in {seconds} s"
        super().__init__(503, sentence, {"Retry-After": str(seconds)})


class NoCollection(Problem):
    """Nothing has been indexed yet."""

    def __init__(self) -> None:
        super().__init__(503, "there is no collection yet; make one with `aladin index FOLDER`", {"Retry-After": "2"})


class Interrupted(Problem):
    """The process that searched has ended amid it, be it that the system took its memory back; another is starting."""

    def __init__(self) -> None:
        super().__init__(503, "the process that searched has ended; try again in 1 s", {"Retry-After": "1"})


def no_image(public_id: str) -> Problem:
    """That an id means nothing."""
    return Problem(404, f"there is no image {public_id[:20]}; search again, for it may have been removed")


def problem_body(status: int, detail: str) -> dict[str, Any]:
    """The members of a problem: its title is the status in words, its detail the sentence."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
