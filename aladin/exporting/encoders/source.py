"""A folder of transformers as it comes from elsewhere: what it must hold, read without running anything of it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

from aladin.encoder.cards import stated_licence
from aladin.errors import ModelError
from aladin.exporting.encoders.families import FAMILIES
from aladin.exporting.encoders.towers import Towers

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")  # formats that can run code, or are others'
OTHER_TOKENIZERS = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
NO_LIMIT = 1_000_000  # a model_max_length above this says that the tokenizer knows no limit


@dataclass(frozen=True)
class Source:
    """An encoder's folder: config.json, safetensors, tokenizer.json, and how its image processor is set."""

    path: Path
    config: Mapping[str, Any]
    family: type[Towers]

    @classmethod
    def open(cls, path: Path) -> "Source":
        """The folder at `path`; ModelError in a sentence for one that is incomplete, of no known family, or unsafe to read."""
        if not path.is_dir():
            raise ModelError(f"{path} is no folder; give the folder of an encoder, with its config.json and model.safetensors")
        config = _table(path / "config.json", "an encoder's folder as transformers' save_pretrained writes it")
        name = config.get("model_type")
        family = FAMILIES.get(name) if isinstance(name, str) else None
        if family is None:
            raise ModelError(f"{path / 'config.json'} has model_type {name!r}; known ones are {', '.join(sorted(FAMILIES))}")
        _check_weights(path)
        if not (path / "tokenizer.json").is_file():
            other = next((file for file in OTHER_TOKENIZERS if (path / file).is_file()), "none")
            raise ModelError(
                f"{path} has no tokenizer.json (found: {other}); write one with transformers' save_pretrained, "
                "or copy it from a folder of the same encoder that has one"
            )
        return cls(path, config, family)

    def load(self) -> Towers:
        """The family's towers with every weight of the folder, in full precision."""
        kind = getattr(transformers, self.family.class_name)
        with _quietly():
            try:
                model, found = kind.from_pretrained(
                    self.path,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
            except Exception as error:  # of transformers, safetensors and torch, which share no base
                reason = str(error).strip().split("\n")[0]
                raise ModelError(f"{self.path} cannot be loaded as {self.family.class_name}: {reason}; copy it again") from None
        missing = sorted(set(found["missing_keys"]) - set(self.family.absent))
        if missing:
            raise ModelError(f"{self.path} lacks {len(missing)} weights of its network, such as {missing[0]}; copy it again")
        return self.family(model.eval().requires_grad_(False))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer as the file has it, with no padding and no limit."""
        path = self.path / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises bare Exception for every failure
            raise ModelError(f"{path} is not a tokenizer: {error}; copy the folder again") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def tokenizer_settings(self) -> Mapping[str, Any]:
        """tokenizer_config.json; empty where there is none."""
        path = self.path / "tokenizer_config.json"
        return _table(path, "") if path.is_file() else {}

    @cached_property
    def picture_settings(self) -> Mapping[str, Any]:
        """The settings of its image processor, over the family's own for those that the file leaves out."""
        path = self.path / "preprocessor_config.json"
        if path.is_file():
            return dict(self.family.pictures) | _table(path, "")
        table = _table(self.path / "processor_config.json", "the settings of its image processor (or preprocessor_config.json)")
        inner = table.get("image_processor")
        if not isinstance(inner, dict):
            raise ModelError(f"{self.path / 'processor_config.json'} has no image_processor; add a preprocessor_config.json")
        return dict(self.family.pictures) | inner

    @property
    def licence(self) -> str:
        """The licence that its card (README.md) states; empty where it states none."""
        return stated_licence(self.path)

    @property
    def text_limit(self) -> int | None:
        """How many pieces its tokenizer says that a text may have."""
        limit = self.tokenizer_settings.get("model_max_length")
        return int(limit) if isinstance(limit, int | float) and 0 < limit < NO_LIMIT else None

    def special(self, name: str) -> str:
        """A special piece such as "eos_token" by its name in tokenizer_config.json; empty where that does not tell it."""
        token = self.tokenizer_settings.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return content if isinstance(content, str) else ""


def _table(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}; expected {what}")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not JSON: {error}; copy the folder again") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path} holds no table; copy the folder again")
    return table


def _check_weights(path: Path) -> None:
    """ModelError unless all weights are there as safetensors."""
    if not any((path / name).is_file() for name in WEIGHTS):
        other = sorted(file.name for file in path.iterdir() if file.suffix in REFUSED)
        found = f"only {other[0]}, which is not read because such a file can run code" if other else "none"
        raise ModelError(f"{path} has no model.safetensors (weights found: {found}); get the folder's safetensors")
    if not (path / WEIGHTS[0]).is_file():
        parts = set(_table(path / WEIGHTS[1], "").get("weight_map", {}).values())
        for part in sorted(map(str, parts)):
            if not part.endswith(".safetensors") or not (path / part).is_file():
                raise ModelError(f"{path / WEIGHTS[1]} names {part}, which is no safetensors file there; copy the folder again")


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and remarks: what is wrong comes as an error."""
    log: Any = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
