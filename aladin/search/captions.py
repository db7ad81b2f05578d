"""Texts as a collection: the lines of a file, encoded once, among which an image finds those that describe it."""

import hashlib
import zipfile
from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Int64

from aladin.collection.cache import keep
from aladin.collection.tokens import token_blob, tokens_from_blobs
from aladin.encoder.composition import with_vectors
from aladin.encoder.encoder import Encoder
from aladin.encoder.pooling import searchable
from aladin.errors import DataError
from aladin.progress import SILENT, Progress
from aladin.search.alignment import alignment_scores, token_similarity
from aladin.search.encoding import EncodedPart, encode_query
from aladin.search.explain import Explanation, explain
from aladin.search.query import ImagePart, Query, TextPart
from aladin.search.search import SearchConfig

BATCH = 64  # texts encoded at once


@dataclass(frozen=True)
class Captions:
    """Different texts in the order of their file, and what the model makes of them."""

    texts: tuple[str, ...]
    lines: tuple[int, ...]  # of the file, from 1
    vectors: Float16[np.ndarray, "texts dim"]
    words: tuple[bytes, ...]  # of each text its word tokens, stored as regions are


@dataclass(frozen=True)
class CaptionHit:
    """One text found; `alignment_score` is None where stage 2 did not look."""

    rank: int  # from 1
    line: int
    text: str
    score: float  # the one that the order follows
    matching_score: float
    alignment_score: float | None
    explanation: Explanation | None = None


def read_captions(path: Path, encoder: Encoder, progress: Progress = SILENT) -> Captions:
    """The texts of a file in UTF-8, one a line; left out are blank lines, repetitions and lines without a word that the model
    can read.

    What the model makes of them is kept in the folder .aladin beside the file, for the next time, where it can be written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a file with one text a line") from None
    lines = _lines(content, str(path))
    key = hashlib.sha256(content.removeprefix(BOM_UTF8) + encoder.model.stamp.encode()).hexdigest()[:16]
    kept = path.parent / ".aladin" / f"captions-{path.name}-{key}.npz"
    encoded = _kept(kept)
    if encoded is None:
        encoded = _encoded(tuple(lines), encoder, progress)
        _keep(encoded, kept, f"captions-{path.name}-")
    return _readable(lines, encoded, str(path))


def captions_of(content: bytes, name: str, encoder: Encoder, progress: Progress = SILENT) -> Captions:
    """As `read_captions`, of what stands in no file: nothing is kept. `name` stands for it in errors."""
    lines = _lines(content, name)
    return _readable(lines, _encoded(tuple(lines), encoder, progress), name)


def _lines(content: bytes, name: str) -> dict[str, int]:
    """Each text with the number of its first line."""
    text, wrong = "", content.find(b"\0")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        raise DataError(f"{name} is no text in UTF-8 (see its byte {wrong:,}); give a text file, saved as UTF-8")
    first: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            first.setdefault(line.strip(), number)
    if not first:
        raise DataError(f"{name} has no text; write one text a line")
    return first


def _readable(
    first: dict[str, int], encoded: tuple[Float16[np.ndarray, "texts dim"], tuple[bytes, ...]], name: str
) -> Captions:
    """Of all texts those with a word that the model can read."""
    texts, lines = tuple(first), tuple(first.values())
    vectors, words = encoded
    readable = [position for position, blob in enumerate(words) if blob]
    if not readable:
        raise DataError(f"{name} has no text that the model can read; write in letters")
    chosen = np.array(readable)
    return Captions(
        tuple(texts[p] for p in readable), tuple(lines[p] for p in readable), vectors[chosen], tuple(words[p] for p in readable)
    )


def rank_captions(
    image: ImagePart, captions: Captions, encoder: Encoder, config: SearchConfig | None = None
) -> list[CaptionHit]:
    """The texts that describe the image best: the nearest by vector, ordered by alignment. Ties go by line.

    The scores are those that a search for the text gives the image.
    """
    config = config or SearchConfig()
    (asked,) = encode_query(Query((image,)), encoder).parts
    matching = np.einsum("td,d->t", captions.vectors.astype(np.float32), asked.vector)
    nearest = np.argsort(-matching, kind="stable")[: max(config.top, config.rerank)]
    aligned = None
    if config.rerank:
        aligned = _alignment(asked.tokens, captions, nearest, encoder)
        order = np.lexsort((nearest, -aligned))[: config.top]
    else:
        order = np.arange(len(nearest))[: config.top]
    hits = []
    for rank, position in enumerate(order.tolist(), 1):
        row = int(nearest[position])
        matched, score = float(matching[row]), None if aligned is None else float(aligned[position])
        why = _explained(captions.texts[row], asked, encoder) if config.why else None
        final = matched if score is None else score
        hits.append(CaptionHit(rank, captions.lines[row], captions.texts[row], final, matched, score, why))
    return hits


def _alignment(
    regions: Float32[np.ndarray, "regions dim"], captions: Captions, rows: Int64[np.ndarray, " chosen"], encoder: Encoder
) -> Float32[np.ndarray, " chosen"]:
    words = tokens_from_blobs([captions.words[row] for row in rows.tolist()], regions.shape[1])
    every, mask = words.restored(), np.ones((1, len(regions)), dtype=bool)
    model = encoder.model.config
    with_vectors(every, captions.vectors[rows].astype(np.float32), model.encoder)
    pooling = searchable(model.heads.pooling)
    return np.concatenate(
        [
            alignment_scores(token_similarity(regions[None], text[real]), mask, pooling)
            for text, real in zip(every, words.mask, strict=True)
        ]
    )


def _explained(text: str, image: EncodedPart, encoder: Encoder) -> Explanation:
    """The same with the sides exchanged: the text asks, the image answers."""
    query = encode_query(Query((TextPart(text),)), encoder)
    return explain(query, image.tokens, image.boxes, encoder.model.config.heads.token_dim)


def _encoded(
    texts: tuple[str, ...], encoder: Encoder, progress: Progress
) -> tuple[Float16[np.ndarray, "texts dim"], tuple[bytes, ...]]:
    vectors, words = [], []
    for start in range(0, len(texts), BATCH):
        encoded = encoder.encode_texts(list(texts[start : start + BATCH]))
        vectors.append(encoded.vectors.astype(np.float16))
        words += [token_blob(row[mask]) for row, mask in zip(encoded.words, encoded.word_mask, strict=True)]
        progress(len(words), len(texts))
    return np.concatenate(vectors), tuple(words)


def _kept(path: Path) -> tuple[Float16[np.ndarray, "texts dim"], tuple[bytes, ...]] | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            ends, blobs = np.cumsum(file["lengths"]).tolist(), file["words"].tobytes()
            vectors: Float16[np.ndarray, "texts dim"] = file["vectors"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged
    return vectors, tuple(blobs[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))


def _keep(encoded: tuple[Float16[np.ndarray, "texts dim"], tuple[bytes, ...]], path: Path, prefix: str) -> None:
    """In the place of what was kept of the file's earlier contents; nothing where it cannot be written."""
    vectors, words = encoded

    def write(draft: Path) -> None:
        blobs = np.frombuffer(b"".join(words), dtype=np.uint8)
        with draft.open("wb") as file:
            np.savez(file, vectors=vectors, words=blobs, lengths=np.array([len(blob) for blob in words], dtype=np.int64))

    files = path.parent.glob("captions-*.npz")
    keep(path, write, instead_of=(other for other in files if other.name.startswith(prefix) and other != path))
