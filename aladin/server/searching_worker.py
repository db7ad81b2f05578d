"""What runs inside a process that searches: it opens the collection, and answers one question after another."""

import pickle
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aladin.errors import AladinError
from aladin.processes import own_stdout, serve
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
    """Serve the collection and the model whose paths are given."""
    answers = own_stdout()
    current = CurrentEngine(*map(Path, sys.argv[1:]))
    # Pickles are read here, since they come from the server itself and no client reaches this process.
    serve(lambda _, content: ({}, pickle.dumps(_outcome(pickle.loads(content), current))), answers)
    current.close()
