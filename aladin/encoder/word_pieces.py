"""Sentences and object tags to word pieces, for training and for search alike."""

import bisect
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from tokenizers import Tokenizer

from aladin.encoder.preprocessing import Preprocessing
from aladin.errors import ModelError

AROUND = (Preprocessing.first_piece, Preprocessing.last_piece)


@dataclass(frozen=True)
class Pieces:
    """Word pieces of a batch of texts, padded at the end with 0; `mask` is True where the piece is real."""

    ids: Int64[np.ndarray, "texts pieces"]
    mask: Bool[np.ndarray, "texts pieces"]
    truncated: tuple[bool, ...]  # for each text, whether it was longer than the limit
    words: tuple[tuple[str, ...], ...]  # for each text, its pieces as text, special ones included

    def __getitem__(self, rows: slice) -> "Pieces":
        return Pieces(self.ids[rows], self.mask[rows], self.truncated[rows], self.words[rows])


@dataclass(frozen=True)
class TypedWord:
    """A word as it was typed, what stands between two spaces, and which of its text's pieces spell it."""

    text: str
    pieces: tuple[int, ...]  # from 0, special ones not counted


class WordPieces:
    """The tokenizer of a model folder (tokenizer.json), with the limits that the model was trained with."""

    def __init__(self, tokenizer: Tokenizer, limit: int, around: tuple[str, str] = AROUND) -> None:
        self._tokenizer, self._around = tokenizer, around
        self._limit = limit
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.cls, self.sep = (self.special(piece) for piece in around)

    @classmethod
    def of(cls, path: Path, preprocessing: Preprocessing) -> "WordPieces":
        """The tokenizer stored at `path`, as a model prepares its captions."""
        return cls.load(path, preprocessing.caption_pieces, (preprocessing.first_piece, preprocessing.last_piece))

    @classmethod
    def load(cls, path: Path, limit: int, around: tuple[str, str] = AROUND) -> "WordPieces":
        """The tokenizer stored at `path`; texts are cut to `limit` pieces, with the special ones before and after each."""
        try:
            return cls(Tokenizer.from_file(str(path)), limit, around)
        except Exception as error:  # the tokenizers library raises bare Exception for every failure
            raise ModelError(f"{path} is not a tokenizer: {error}; copy tokenizer.json from the original model") from None

    def encode(self, texts: list[str]) -> Pieces:
        """[CLS] pieces [SEP] for each text, in order; a text over the limit loses its last pieces, never [SEP]."""
        encodings = self._tokenizer.encode_batch([_storable(text) for text in texts], add_special_tokens=False)
        kept = [encoding.ids[: self._limit - 2] for encoding in encodings]
        tokens = [encoding.tokens[: self._limit - 2] for encoding in encodings]
        width = max((len(ids) for ids in kept), default=0) + 2
        ids = np.zeros((len(texts), width), dtype=np.int64)
        mask = np.zeros((len(texts), width), dtype=bool)
        for row, pieces in enumerate(kept):
            whole = [self.cls, *pieces, self.sep]
            ids[row, : len(whole)] = whole
            mask[row, : len(whole)] = True
        return Pieces(
            ids,
            mask,
            tuple(len(encoding.ids) > self._limit - 2 for encoding in encodings),
            tuple((self._around[0], *words, self._around[1]) for words in tokens),
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
        for piece, (start, _) in enumerate(encoding.offsets[: self._limit - 2]):
            pieces.setdefault(max(bisect.bisect_right(starts, start) - 1, 0), []).append(piece)
        return tuple(TypedWord(spans[word].group(), tuple(found)) for word, found in pieces.items())

    def special(self, token: str) -> int:
        """The number of a special token such as [CLS]."""
        found: int | None = self._tokenizer.token_to_id(token)
        if found is None:
            raise ModelError(f"the tokenizer has no {token}; expected a BERT tokenizer.json")
        return found


def _storable(text: str) -> str:
    """Lone surrogates, which the tokenizer cannot take, become the replacement character."""
    return text.encode("utf-8", "replace").decode("utf-8")
