"""Sentences to vectors and tokens, by the text graph of a model folder; needs no PyTorch. What reads images builds on it.

The graph's contract: text.onnx takes `pieces` and `mask` and gives `vector`, `words` and `word_mask`. Vectors and tokens come
L2-normalised. The graph of an added encoder may do without `mask`; its words are the pieces between the special ones.
"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from aladin.encoder.composition import composed
from aladin.encoder.folder import ModelFolder
from aladin.encoder.hub_terms import as_queries
from aladin.encoder.word_pieces import Pieces, TypedWord, WordPieces
from aladin.errors import DataError, ModelError

MAX_CHARACTERS = 10_000  # of one text; far beyond any model's limit, so that a megabyte is not tokenized to keep 48 pieces
TEXT_GRAPH = ({"pieces", "mask"}, ("vector", "words", "word_mask"))
NEEDLESS = frozenset({"mask"})  # to encoders that learned from padded texts

Rows = list[list[np.ndarray]]  # for each row its outputs, each with a first axis of 1


@dataclass(frozen=True)
class EncodedTexts:
    """One row for each text; `truncated` tells whose end the model did not read."""

    vectors: Float32[np.ndarray, "texts dim"]
    words: Float32[np.ndarray, "texts words token_dim"]
    word_mask: Bool[np.ndarray, "texts words"]
    truncated: tuple[bool, ...]


class TextEncoder:
    """The model of a folder, ready to encode texts. A graph is loaded when it is first needed: texts need no image network."""

    def __init__(self, model: ModelFolder, threads: int = 0) -> None:
        """`load` of what encodes images too is shorter. `threads` is how many rows are encoded side by side; 0: one a core."""
        self.model = model
        self._threads = threads

    def encode_texts(self, texts: list[str]) -> EncodedTexts:
        """Vector and word tokens of each text; DataError for one that the model cannot express."""
        pieces = self._word_pieces.encode([_readable(text) for text in texts])
        rows = self._run(self._text_session, "text.onnx", TEXT_GRAPH[1], self._text_feeds(pieces))
        vectors = np.concatenate([vector for vector, _, _ in rows])
        longest = max(mask.shape[1] for _, _, mask in rows)
        words, word_mask = (np.concatenate([padded_tokens(row[part], longest) for row in rows]) for part in (1, 2))
        if self.model.config.encoder.family:
            words, word_mask = self._with_vectors(vectors, words, word_mask, pieces.words_in_each)
        usable = usable_rows(vectors, words)
        if not usable.all():
            raise DataError(f"the model has no vector for {texts[int(usable.argmin())]!r:.80}; write the query another way")
        cut = (len(text.strip()) > MAX_CHARACTERS for text in texts)
        return EncodedTexts(vectors, words, word_mask, tuple(a or b for a, b in zip(pieces.truncated, cut, strict=True)))

    def _text_feeds(self, pieces: Pieces) -> list[dict[str, np.ndarray]]:
        """What the graph takes of each text: as long as it is, or as padded texts are."""
        inputs = {value.name for value in self._text_session.get_inputs()}
        padded = bool(self.model.config.preprocessing.pad_to)
        feeds = []
        for ids, mask in zip(pieces.ids, pieces.mask, strict=True):
            length = len(ids) if padded else int(mask.sum())
            feed = {"pieces": ids[None, :length], "mask": mask[None, :length]}
            feeds.append({name: values for name, values in feed.items() if name in inputs})
        return feeds

    def _with_vectors(
        self,
        vectors: Float32[np.ndarray, "texts dim"],
        words: Float32[np.ndarray, "texts words token_dim"],
        mask: Bool[np.ndarray, "texts words"],
        counts: Int64[np.ndarray, " texts"],
    ) -> tuple[np.ndarray, np.ndarray]:
        """An encoder's words as they are searched, and which are real: the tokenizer knows, a graph without `mask` does not."""
        most = int(counts.max(initial=0))
        if most > words.shape[1]:
            path = self.model.path / "text.onnx"
            raise ModelError(f"{path} gives {words.shape[1]} words for a text of {most} pieces; add the model again")
        words, real = words[:, : max(most, 1)], mask[:, : max(most, 1)]
        real = real & (np.arange(real.shape[1]) < counts[:, None])
        return composed(words, vectors, self.model.config.encoder), real

    def encode_queries(self, texts: list[str]) -> EncodedTexts:
        """As `encode_texts`, for texts that images are searched by (`hub_terms.as_queries`)."""
        encoded, heads = self.encode_texts(texts), self.model.config.heads
        pieces = encoded.word_mask.sum(axis=1)
        vectors, words = (as_queries(rows, pieces, heads) for rows in (encoded.vectors, encoded.words))
        return dataclasses.replace(encoded, vectors=vectors, words=words)

    def typed_words(self, text: str) -> tuple[TypedWord, ...]:
        """The text's words as they were typed; their pieces are rows of its `words` in `encode_texts`."""
        return self._word_pieces.typed_words(_readable(text))

    def _run(self, session: Any, graph: str, outputs: tuple[str, ...], feeds: list[dict[str, np.ndarray]]) -> Rows:
        """The outputs for each row, run on its own: what an image is must not depend, be it in the last digit, on the images
        read beside it. Rows run side by side, which is as fast as a batch.
        """

        def one(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            try:
                found: list[np.ndarray] = session.run(list(outputs), feed)
            except Exception as error:  # ONNX Runtime's errors have no common base
                raise ModelError(self._failure(graph, feed, error)) from None
            return found

        return list(map(one, feeds) if len(feeds) == 1 else self._pool.map(one, feeds))

    def _failure(self, graph: str, feed: dict[str, np.ndarray], error: Exception) -> str:
        """Why a graph failed, in a sentence."""
        config, settings = self.model.config, self.model.path / "model.toml"
        positions = config.backbone.positions
        if "pieces" in feed and feed["pieces"].shape[1] > positions:
            return (
                f"caption_pieces in [preprocessing] of {settings} is {config.preprocessing.caption_pieces}, but {graph} has "
                f"positions for {positions} pieces; set it to at most {positions}"
            )
        return f"{self.model.path / graph} failed: {_first_line(error)}; export the model again"

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads or os.cpu_count(), thread_name_prefix="encode")

    @cached_property
    def _word_pieces(self) -> WordPieces:
        return WordPieces.of(self.model.path / "tokenizer.json", self.model.config.preprocessing)

    @cached_property
    def _text_session(self) -> Any:
        needless = NEEDLESS if self.model.config.encoder.family else frozenset[str]()
        return new_session(self.model.path / "text.onnx", *TEXT_GRAPH, needless)


def new_session(path: Path, inputs: set[str], outputs: tuple[str, ...], needless: frozenset[str] = frozenset()) -> Any:
    """ONNX Runtime's session of a graph; ModelError where it cannot be loaded, or has other inputs and not these outputs.

    It may lack the inputs in `needless`.
    """
    import onnxruntime  # here because it takes a tenth of a second, and an index without news does not need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # rows run side by side instead
    options.log_severity_level = 4  # what goes wrong comes as an exception, which we report
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ModelError(f"{path} cannot be loaded: {_first_line(error)}; copy the model folder again") from None
    found = {value.name for value in session.get_inputs()}
    missing = (found ^ inputs) - (needless - found) | (set(outputs) - {value.name for value in session.get_outputs()})
    if missing:
        raise ModelError(f"{path} disagrees with this version on {', '.join(sorted(missing))}; export the model again")
    return session


def _readable(text: str) -> str:
    """What is read of a text, without the white space around it."""
    return text.strip()[:MAX_CHARACTERS]


def padded_tokens(tokens: np.ndarray, length: int) -> np.ndarray:
    """One row's tokens, or their mask, with zeros (False) appended up to `length`."""
    return np.pad(tokens, [(0, 0), (0, length - tokens.shape[1])] + [(0, 0)] * (tokens.ndim - 2))


def usable_rows(
    vectors: Float32[np.ndarray, "rows dim"], tokens: Float32[np.ndarray, "rows tokens token_dim"]
) -> Bool[np.ndarray, " rows"]:
    """Where all numbers are finite and the vector has a direction."""
    finite = np.isfinite(vectors).all(axis=1) & np.isfinite(tokens).all(axis=(1, 2))
    usable: Bool[np.ndarray, " rows"] = finite & (vectors != 0).any(axis=1)
    return usable


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
