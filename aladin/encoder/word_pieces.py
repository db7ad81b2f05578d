"""Sentences and object tags to word pieces, for training and for search alike."""

import bisect
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from tokenizers import Tokenizer, normalizers

from aladin.encoder.preprocessing import OWN, Preprocessing
from aladin.errors import ModelError


@dataclass(frozen=True)
class Pieces:
    """Word pieces of a batch of texts, padded at the end with 0 or as the model wants; `mask`: True where the piece is real."""

    ids: Int64[np.ndarray, "texts pieces"]
    mask: Bool[np.ndarray, "texts pieces"]
    truncated: tuple[bool, ...]  # for each text, whether it was longer than the limit
    words: tuple[tuple[str, ...], ...]  # for each text, its pieces as text, special ones included

    special: int = 2  # around each text

    def __getitem__(self, rows: slice) -> "Pieces":
        return Pieces(self.ids[rows], self.mask[rows], self.truncated[rows], self.words[rows], self.special)

    @property
    def words_in_each(self) -> Int64[np.ndarray, " texts"]:
        """How many pieces each text has, special ones not counted."""
        counts: Int64[np.ndarray, " texts"] = self.mask.sum(axis=1) - self.special
        return counts


@dataclass(frozen=True)
class TypedWord:
    """A word as it was typed, what stands between two spaces, and which of its text's pieces spell it."""

    text: str
    pieces: tuple[int, ...]  # from 0, special ones not counted


class WordPieces:
    """The tokenizer of a model folder (tokenizer.json), with the limits that the model was trained with."""

    def __init__(self, tokenizer: Tokenizer, preprocessing: Preprocessing) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if preprocessing.lower_case:  # by the tokenizer, so that it knows where its pieces stand in what was typed
            given = [tokenizer.normalizer] if tokenizer.normalizer else []
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *given])
        self._before, self._after = (
            (piece,) if piece else () for piece in (preprocessing.first_piece, preprocessing.last_piece)
        )
        self._first, self._last = ([self.special(piece) for piece in some] for some in (self._before, self._after))
        self._limit = preprocessing.caption_pieces - len(self._first) - len(self._last)  # without these
        self._pad_to = preprocessing.pad_to
        self._pad = self.special(preprocessing.pad_piece) if preprocessing.pad_to else 0

    @classmethod
    def of(cls, path: Path, preprocessing: Preprocessing) -> "WordPieces":
        """The tokenizer stored at `path`, as a model prepares its captions."""
        try:
            return cls(Tokenizer.from_file(str(path)), preprocessing)
        except Exception as error:  # the tokenizers library raises bare Exception for every failure
            raise ModelError(f"{path} is not a tokenizer: {error}; copy tokenizer.json from the original model") from None

    @classmethod
    def load(cls, path: Path, limit: int) -> "WordPieces":
        """The tokenizer stored at `path`; texts are cut to `limit` pieces, with [CLS] before and [SEP] after each."""
        return cls.of(path, replace(OWN, caption_pieces=limit))

    @property
    def sep(self) -> int:
        """The number of the piece after each text."""
        (last,) = self._last
        return last

    def encode(self, texts: list[str]) -> Pieces:
        """[CLS] pieces [SEP] for each text, in order; a text over the limit loses its last pieces, never [SEP]."""
        encodings = self._tokenizer.encode_batch([_storable(text) for text in texts], add_special_tokens=False)
        rows = [[*self._first, *encoding.ids[: self._limit], *self._last] for encoding in encodings]
        tokens = [encoding.tokens[: self._limit] for encoding in encodings]
        width = self._pad_to or max(map(len, rows), default=len(self._first) + len(self._last))
        ids = np.full((len(texts), width), self._pad, dtype=np.int64)
        mask = np.zeros((len(texts), width), dtype=bool)
        for row, whole in enumerate(rows):
            ids[row, : len(whole)] = whole
            mask[row, : len(whole)] = True
        return Pieces(
            ids,
            mask,
            tuple(len(encoding.ids) > self._limit for encoding in encodings),
            tuple((*self._before, *words, *self._after) for words in tokens),
            len(self._first) + len(self._last),
        )

    def name_pieces(
        self, names: list[str], limit: int
    ) -> tuple[Int64[np.ndarray, "names limit"], Bool[np.ndarray, "names limit"]]:
        """The first `limit` pieces of each name without special ones, padded with 0, and the mask of the real ones."""
        ids = np.zeros((len(names), limit), dtype=np.int64)
        mask = np.zeros((len(names), limit), dtype=bool)
        for row, encoding in enumerate(self._tokenizer.encode_batch(names, add_special_tokens=False)):
            pieces = encoding.ids[:limit]
            ids[row, : len(pieces)] = pieces
            mask[row, : len(pieces)] = True
        return ids, mask

    def typed_words(self, text: str) -> tuple[TypedWord, ...]:
        """The words of a text that the model reads at least a piece of, in order; every piece it reads is in one of them."""
        encoding = self._tokenizer.encode(_storable(text), add_special_tokens=False)
        spans = list(re.finditer(r"\S+", text))
        starts = [span.start() for span in spans]
        pieces: dict[int, list[int]] = {}
        for piece, (begin, _) in enumerate(encoding.offsets[: self._limit] if spans else ()):
            start = begin + len(text[begin:]) - len(text[begin:].lstrip())  # the space before a word may be part of a piece
            pieces.setdefault(max(bisect.bisect_right(starts, start) - 1, 0), []).append(piece)
        return tuple(TypedWord(spans[word].group(), tuple(found)) for word, found in pieces.items())

    def special(self, token: str) -> int:
        """The number of a special token such as [CLS]."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ModelError(f"the tokenizer has no {token}; expected the tokenizer.json that the model was trained with")
        return found


def _storable(text: str) -> str:
    """Lone surrogates, which the tokenizer cannot take, become the replacement character."""
    return text.encode("utf-8", "replace").decode("utf-8")
