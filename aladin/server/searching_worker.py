"""What runs inside a process that searches: it opens the collection, and answers one question after another."""

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aladin.errors import AladinError
from aladin.search.query import Query, TextPart
from aladin.server.engine import CurrentEngine
from aladin.server.problems import Problem


@dataclass(frozen=True)
class Question:
    """A function of this package that gets the engine and these arguments; None only loads what the first would wait for."""

    work: Callable[..., Any] | None
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What the function returned, or why it could not; neither when it met a bug, whose traceback is on stderr."""

    value: Any = None
    failure: AladinError | Problem | None = None
    is_bug: bool = False


def serve(questions: Connection, current: CurrentEngine) -> None:
    """Answer questions until there are no more."""
    while True:
        try:
            question = questions.recv()
        except EOFError:
            return
        questions.send(_outcome(question, current))


def _outcome(question: Question, current: CurrentEngine) -> Outcome:
    try:
        if question.work is None:
            _warm_up(current)
            return Outcome()
        return Outcome(question.work(current.get(), *question.arguments))
    except (AladinError, Problem) as failure:
        return Outcome(failure=failure)
    except Exception:  # a bug costs one answer, not the process
        traceback.print_exc()
        return Outcome(is_bug=True)


def _warm_up(current: CurrentEngine) -> None:
    """Load what a search needs, so that the first one does not wait for it; what is amiss is told to whoever searches."""
    current.encoder.encode_texts(["a photograph"])
    with suppress(AladinError, Problem):
        current.get().searcher.search(Query((TextPart("a photograph"),)))


def main() -> None:
    """Serve the connection whose number is given."""
    number, place, model = sys.argv[1:]
    current = CurrentEngine(Path(place), Path(model))
    with Connection(int(number)) as questions, suppress(BrokenPipeError):
        serve(questions, current)
    current.close()
