"""Models that were added, by name: folders below one of the user's own, each a model folder like any other."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aladin.config import read_toml
from aladin.encoder.folder import ModelFolder, files_of, model_config, shipped_model
from aladin.errors import ConfigError, ModelError

HOME_VARIABLE = "ALADIN_MODELS"
NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
KEPT_BESIDE = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE")  # of a model folder, with what search reads


@dataclass(frozen=True)
class AddedModel:
    """What is told of a model in a list."""

    name: str
    path: str
    family: str  # of a public encoder; "aladin" for a model of its own
    licence: str  # as its card states it; empty where that says nothing
    source: str
    revision: str
    bytes: int


def models_home() -> Path:
    """Where models are added: $ALADIN_MODELS, else aladin/models below $XDG_DATA_HOME or ~/.local/share."""
    if given := os.environ.get(HOME_VARIABLE):
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "aladin" / "models"


def model_at(model: str | Path) -> Path:
    """The folder that a path or a name means: a folder of that path, else the model added under that name, else the path."""
    path = Path(model)
    if path.exists() or not NAMES.fullmatch(str(model)):
        return path
    try:
        return added_model(str(model))
    except ModelError:
        return path  # whoever opens it says what is missing


def added_model(name: str) -> Path:
    """The folder of the model added under this name, or of the one that comes with aladin; ModelError for an unknown name."""
    folder = models_home() / check_name(name)
    if (folder / "model.toml").is_file():
        return folder
    shipped = shipped_model()
    if name == shipped.name:
        return shipped
    known = ", ".join([shipped.name, *(path.name for path in _folders())])
    raise ModelError(f"no model was added as {name!r}; known are {known}; `aladin model add` adds one")


def added_models() -> list[AddedModel]:
    """The models that were added, by name."""
    return [about_model(folder) for folder in _folders()]


def about_model(folder: Path) -> AddedModel:
    """What a list tells of a model folder."""
    config, table = model_config(folder), read_toml(folder / "model.toml")
    origin = table.get("origin", {})
    said = {key: str(origin.get(key, "")) for key in ("licence", "name", "revision")}
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    family = config.encoder.family or "aladin"
    return AddedModel(folder.name, str(folder), family, said["licence"], said["name"], said["revision"], size)


@contextmanager
def new_model(name: str) -> Iterator[Path]:
    """A folder to write a model into, which is added under its name when nothing goes wrong, whole or not at all.

    ModelError where the name is taken.
    """
    home = models_home()
    target = home / check_name(name)
    if target.exists() or name == shipped_model().name:
        raise ModelError(f"there is a model {name!r} already; give another name, or run `aladin model remove {name}` first")
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{home} cannot be made ({error.strerror}); name another folder in {HOME_VARIABLE}") from None
    with tempfile.TemporaryDirectory(prefix=".adding-", dir=home) as temporary:
        draft = Path(temporary) / name
        yield draft
        ModelFolder.open(draft)
        draft.rename(target)


def add_model_folder(source: Path, name: str) -> Path:
    """Copy what search reads of an exported model folder, with its card and licence; where the copy is."""
    model = ModelFolder.open(source)
    with new_model(name) as draft:
        draft.mkdir()
        for file in ("model.toml", *files_of(model.config), *KEPT_BESIDE):
            if (source / file).is_file():
                shutil.copyfile(source / file, draft / file)
    return models_home() / name


def remove_model(name: str) -> Path:
    """Delete the model added under this name; where it was."""
    folder = added_model(name)
    if folder == shipped_model():
        raise ModelError(f"{name} comes with aladin and was not added; it stays")
    shutil.rmtree(folder)
    return folder


def check_name(name: str) -> str:
    """The name; ConfigError for one that is no file name everywhere."""
    if not NAMES.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a model; write letters, digits, '.', '-' and '_', a letter or digit first")
    return name


def _folders() -> list[Path]:
    home = models_home()
    found = sorted(home.iterdir()) if home.is_dir() else []
    return [path for path in found if NAMES.fullmatch(path.name) and (path / "model.toml").is_file()]
