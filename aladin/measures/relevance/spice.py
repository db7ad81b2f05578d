"""SPICE of every caption against every image's captions, by the authors' Java program."""

import importlib.util
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from aladin.errors import ConfigError, DataError

MODELS = "stanford-corenlp-3.6.0"
PAIRS = 200_000  # of a caption and an image in one start of the program, which takes many seconds to start
HEAP = "-Xmx8G"
# What the tokenizer of the COCO caption evaluation drops.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)


@dataclass(frozen=True)
class SpiceProgram:
    """Where Java and the files of the package pycocoevalcap are."""

    java: str
    folder: Path  # of the package

    @classmethod
    def find(cls) -> "SpiceProgram":
        """The program of this installation; ConfigError says which part of it is missing."""
        java = shutil.which("java")
        if java is None:
            raise ConfigError("SPICE needs Java, and there is no `java` on the PATH; install one, or give a computed matrix")
        found = importlib.util.find_spec("pycocoevalcap")
        if found is None or not found.submodule_search_locations:
            raise ConfigError(
                "SPICE needs the package pycocoevalcap, which is not installed; run pip install 'aladin[spice]', "
                "or give a computed matrix as --measure ndcg-spice=FILE"
            )
        program = cls(java, Path(found.submodule_search_locations[0]))
        missing = [name for name in (f"{MODELS}.jar", f"{MODELS}-models.jar") if not (program.spice / "lib" / name).is_file()]
        if missing:
            raise ConfigError(
                f"SPICE needs {missing[0]}, which is not in {program.spice / 'lib'}; fetch it with `python -m "
                "pycocoevalcap.spice.get_stanford_models`, or give a computed matrix as --measure ndcg-spice=FILE"
            )
        return program

    @property
    def spice(self) -> Path:
        return self.folder / "spice"


class Spice:
    """SPICE F of a caption against the captions of an image; not-a-number of the program, as for a caption without words, is 0.

    Captions are lower-cased and tokenized as in the COCO caption evaluation. `owners` is each caption's image row, ascending;
    `cache` is a folder in which the program keeps the scene graphs of captions.
    """

    def __init__(
        self, program: SpiceProgram, captions: Sequence[str], owners: Int[np.ndarray, " captions"], cache: Path
    ) -> None:
        self._program = program
        self._cache = cache
        self._captions = _tokenized(program, captions)
        first = np.flatnonzero(np.diff(owners, prepend=-1)).tolist()
        self._references = [self._captions[a:b] for a, b in zip(first, [*first[1:], len(captions)], strict=True)]
        self.block = max(1, PAIRS // len(self._references))

    def rows(self, asked: slice) -> Float32[np.ndarray, "asked images"]:
        """The relevance of all images to these captions."""
        captions = self._captions[asked]
        pairs = [
            {"image_id": row, "test": caption, "refs": references}
            for row, (caption, references) in enumerate((c, r) for c in captions for r in self._references)
        ]
        scores = np.zeros(len(pairs), dtype=np.float32)
        for record in self._run(pairs):
            scores[record["image_id"]] = record["scores"]["All"]["f"] or 0.0
        return np.nan_to_num(scores, nan=0.0).reshape(len(captions), len(self._references))

    def _run(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            asked, answered = Path(folder, "pairs.json"), Path(folder, "scores.json")
            asked.write_text(json.dumps(pairs))
            files = (str(asked), "-cache", str(self._cache.resolve()), "-out", str(answered))
            _java(self._program, ("-jar", HEAP, "spice-1.0.jar", *files, "-subset", "-silent"), self._program.spice)
            found: list[dict[str, Any]] = json.loads(answered.read_text())
        if len(found) != len(pairs):
            raise DataError(
                f"the SPICE program answered {len(found)} of {len(pairs)} pairs; delete {self._cache} and try again"
            )
        return found


def _tokenized(program: SpiceProgram, captions: Sequence[str]) -> list[str]:
    """Penn Treebank tokens, lower-cased and without punctuation, with blanks between."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "captions.txt")
        lines.write_text("".join(" ".join(caption.split()) + "\n" for caption in captions), encoding="utf-8")
        arguments = ("-cp", "stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer")
        options = ("-preserveLines", "-lowerCase", "-encoding", "UTF-8", str(lines))
        found = _java(program, (*arguments, *options), program.folder / "tokenizer").split("\n")[: len(captions)]
    return [" ".join(token for token in line.split(" ") if token not in PUNCTUATION) for line in found]


def _java(program: SpiceProgram, arguments: Sequence[str], folder: Path) -> str:
    done = subprocess.run([program.java, *arguments], cwd=folder, capture_output=True, check=False)
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ConfigError(
            f"the SPICE program failed and said {output[0]!r}; check the Java version (8 is what it was written for)"
        )
    return done.stdout.decode("utf-8", errors="replace")
