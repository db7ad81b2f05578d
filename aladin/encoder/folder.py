"""A model folder on disk, as searching needs it: its settings, its files, and the identity that a collection remembers."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aladin.config import from_table, read_toml, to_table
from aladin.encoder.config import ModelConfig
from aladin.encoder.preprocessing import OWN
from aladin.errors import ConfigError, ModelError
from aladin.files import sha256_of

IMAGE_GRAPHS: Mapping[str, str] = {"photograph": "image.onnx", "detector": "region.onnx"}  # by what an image is read from
# Of a model of photographs, whose names collections remember in this order. weights.bin: both graphs' large weights.
FILES = ("text.onnx", "image.onnx", "weights.bin", "tokenizer.json")
ENCODING = 1  # raised when the same model would give other vectors or tokens: another way to resize, another quantisation
# The settings of model.toml that searching minds, by the names that collections remember; all others are inside the graphs.
MINDED = {
    "[image] size": ("preprocessing", "size"),
    "[image] grid": ("image", "grid"),
    "[heads] token_dim": ("heads", "token_dim"),
    "[heads] pooling": ("heads", "pooling"),
    "[limits] caption_pieces": ("preprocessing", "caption_pieces"),
}
PRESENT = {name: f"[{section}] {key}" for name, (section, key) in MINDED.items()}  # how people find them in model.toml
# What is outside the graph of regions beside these.
MINDED_OF_REGIONS = (("image", "source"), ("limits", "regions"), ("limits", "object_pieces"), ("quirks", "image_first_token"))
# Of [preprocessing]; collections were made before them.
MINDED_IF_CHANGED = ("fit", "resampling", "exact", "first_piece", "last_piece", "lower_case", "pad_to", "pad_piece")
MINDED_OF_ENCODERS = ("family", "dim")  # of [encoder]; the others count when images are compared, not when they are encoded
SHIPPED = Path(__file__).parents[1] / "models" / "lite"


@dataclass(frozen=True)
class ModelFolder:
    """The files that searching reads from a model folder, and what model.toml says of them."""

    path: Path
    config: ModelConfig

    @classmethod
    def open(cls, path: Path) -> "ModelFolder":
        """The folder at `path`; ModelError when a file is missing or model.toml does not describe a model that was exported."""
        _check_there(path, ("model.toml",))
        config = model_config(path)
        _check_there(path, files_of(config))
        try:
            if not config.encoder.family:
                config.preprocessing.check_normalisation()  # it stands inside the graph, whatever model.toml says
        except ConfigError as error:
            raise ModelError(f"{path / 'model.toml'} describes another model than its graphs are: {error}") from None
        return cls(path, config)

    @classmethod
    def of_photographs(cls, path: Path) -> "ModelFolder":
        """The same for who searches photographs; ModelError for a model of a detector's regions."""
        if (path / "model.toml").is_file() and model_config(path).image.source == "detector":
            raise ModelError(
                f"{path} reads a detector's regions, and a photograph has none until a detector looks at it; give a model "
                "of photographs, or use `aladin score`, `encode` and `evaluate` with the detector's features"
            )
        return cls.open(path)

    @property
    def graphs(self) -> tuple[str, ...]:
        """The names of its two graphs, the one of texts first."""
        return tuple(name for name in files_of(self.config) if name.endswith(".onnx"))

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @cached_property
    def parts(self) -> dict[str, str]:
        """Each thing that a collection's contents depend on: the SHA-256 of the files, settings of model.toml, and how this
        version encodes. Reads every file.
        """
        try:
            files = {name: sha256_of(self.path / name) for name in files_of(self.config)}
        except OSError as error:
            raise ModelError(f"the model {self.path} cannot be read: {error}; copy the folder again") from None
        table = to_table(self.config)
        settings = {name: str(table[section][key]) for name, (section, key) in MINDED.items()}
        changed = {name: getattr(self.config.preprocessing, name) for name in MINDED_IF_CHANGED}
        settings |= {f"[preprocessing] {name}": str(now) for name, now in changed.items() if now != getattr(OWN, name)}
        if self.config.encoder.family:
            settings |= {f"[encoder] {name}": str(table["encoder"][name]) for name in MINDED_OF_ENCODERS}
        if self.config.image.source == "detector":
            settings |= {f"[{section}] {key}": str(table[section][key]) for section, key in MINDED_OF_REGIONS}
        return files | settings | {"encoding": str(ENCODING)}

    @property
    def fingerprint(self) -> str:
        """One SHA-256 over all parts: two folders with the same one encode alike."""
        return fingerprint_of(self.parts)

    @cached_property
    def stamp(self) -> str:
        """A value that costs no reading and is the same only while the files are: as git does for its index, from each
        file's place, size, inode and times. The change time is part of it because nobody can set that back.

        A collection keeps stamp and parts side by side, so that a search hashes the model's 40 MB only when the stamp is new.
        """
        stats = [(self.path / name).stat() for name in files_of(self.config)]
        files = [(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev) for stat in stats]
        return _digest([ascii(self.path.resolve()), files, to_table(self.config)])


def files_of(config: ModelConfig) -> tuple[str, ...]:
    """The files beside model.toml of an exported model of these settings."""
    return tuple(IMAGE_GRAPHS[config.image.source] if name == "image.onnx" else name for name in FILES)


def is_exported(folder: Path) -> bool:
    """Whether the model folder holds nothing but what search needs."""
    return (folder / "text.onnx").is_file() and not (folder / "model.safetensors").is_file()


def _check_there(folder: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{folder} is not a model folder: it has no {missing[0]}; give a folder that `aladin export` wrote")


def model_config(folder: Path) -> ModelConfig:
    """The architecture that a model folder's model.toml states."""
    path = folder / "model.toml"
    if not path.is_file():
        raise ModelError(f"{folder} is not a model folder: it has no model.toml; give a folder that `aladin train` wrote")
    sections = [section.name for section in dataclasses.fields(ModelConfig)]
    try:
        table = read_toml(path)
        return from_table(ModelConfig, {key: table[key] for key in sections if key in table}, "model.toml")
    except ConfigError as error:
        raise ModelError(f"{path} describes no model that this version reads: {error}") from None


def shipped_model() -> Path:
    """The folder of the model that comes with the package."""
    if not SHIPPED.is_dir():
        raise ModelError("this installation has no model of its own; give a model folder with --model")
    return SHIPPED


def fingerprint_of(parts: dict[str, str]) -> str:
    """The fingerprint of a model whose parts have these hashes."""
    return _digest(parts)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
