"""Hits on stdout: a table for people, TSV for pipes, JSON for programs, NUL-ended paths for xargs -0."""

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import Any, Literal

from aladin.cli.terminal import printable
from aladin.pictures.frames import picture_name
from aladin.search.explain import Explanation
from aladin.search.search import Hit, Results, as_json

Form = Literal["table", "tsv", "json", "jsonl", "coco", "print0"]


@dataclass(frozen=True)
class Answer:
    """Results with what the question was, for printing."""

    query: str
    folder: str  # as the user wrote it; printed paths begin with it, so that they open from where the user is
    index: str  # the collection's file
    model: str  # the model's fingerprint
    took_ms: float
    results: Results

    def path(self, hit: Hit) -> str:
        return os.path.join(self.folder, hit.path)  # noqa: PTH118, a Path would drop a leading ./

    def name(self, hit: Hit) -> str:
        """The path for people: with the number of a further picture of the file."""
        return printable(picture_name(self.path(hit), hit.frame))


def print_answer(answer: Answer, form: Form | None) -> None:
    """All hits in that form; without one, a table on a terminal and TSV elsewhere."""
    if form == "table" or (form is None and sys.stdout.isatty()):
        _print_table(answer)
        return
    writers = {"json": _json, "jsonl": _jsonl, "coco": _coco, "print0": _nul_ended}
    write_bytes(writers.get(form or "tsv", _tsv)(answer))


def write_bytes(output: bytes) -> None:
    """Onto stdout as it is: a path need not be text."""
    sys.stdout.flush()
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def _print_table(answer: Answer) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not answer.results.hits:
        return
    likely = any(hit.probability is not None for hit in answer.results.hits)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("rank", "score", *(["likely"] if likely else [])):
        table.add_column(column, justify="right")
    table.add_column("path", overflow="fold")
    for hit in answer.results.hits:
        path = Text(answer.name(hit))
        if hit.explanation is not None:
            path.append(f"\n{printable(in_words(hit.explanation))}", style="dim")
        probability = [f"{hit.probability:.0%}" if hit.probability is not None else ""] if likely else []
        table.add_row(str(hit.rank), f"{hit.score:.4f}", *probability, path)
    Console().print(table)


def in_words(explanation: Explanation) -> str:
    """What each word added and where, the words in their order; of an image as the query, the three strongest regions."""
    words = [share for share in explanation.shares if share.word is not None]
    if not words:
        words = sorted(explanation.shares, key=lambda share: -share.contribution)[:3]
    added = [f"{share.word or 'region'} {share.contribution:+.3f} at {share.box}" for share in words]
    return ", ".join([*added, f"as a whole {explanation.whole:+.3f}"] if explanation.whole else added)


def _tsv(answer: Answer) -> bytes:
    """Control characters in a path would break the line, so they become escapes; in a pipe all other bytes stay the file's."""
    shown = printable if sys.stdout.isatty() else _without_controls
    lines = []
    for hit in answer.results.hits:
        why = [] if hit.explanation is None else [printable(in_words(hit.explanation))]
        lines.append("\t".join((f"{hit.score:.4f}", shown(answer.path(hit)), *why)) + "\n")
    return os.fsencode("".join(lines))


def _nul_ended(answer: Answer) -> bytes:
    """Every file once, though several of its pictures be hits."""
    return b"".join(os.fsencode(path) + b"\0" for path in dict.fromkeys(map(answer.path, answer.results.hits)))


def _json(answer: Answer) -> bytes:
    results = answer.results
    summary = {
        "query": answer.query,
        "truncated": results.truncated,
        "answered": results.answered,
        "index": answer.index,
        "model": answer.model,
        "searched": results.searched,
        "took_ms": round(answer.took_ms, 1),
        "hits": [_hit_table(answer, hit) for hit in results.hits],
        "nearest": [_hit_table(answer, hit) for hit in results.nearest],
    }
    return json_line(summary, indent=2)


def _jsonl(answer: Answer) -> bytes:
    return b"".join(json_line(_hit_table(answer, hit)) for hit in answer.results.hits)


def _coco(answer: Answer) -> bytes:
    from aladin.search.coco import hits_as_coco

    return json_line(hits_as_coco(answer.query, answer.results.hits), indent=2)


def _hit_table(answer: Answer, hit: Hit) -> dict[str, Any]:
    table: dict[str, Any] = as_json(hit)
    return table | {"path": answer.path(hit)}


def json_line(value: Any, indent: int | None = None) -> bytes:
    """JSON in ASCII: bytes of a name that are not UTF-8 stand as lone surrogates, which Python's os.fsencode turns back."""
    return json.dumps(value, indent=indent, allow_nan=False).encode() + b"\n"


def _without_controls(path: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: found.group().encode("unicode_escape").decode(), path)
