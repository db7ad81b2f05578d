"""Files written whole or not at all, the SHA-256 of one, and names that a person gives for results and for what is kept."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aladin.errors import ConfigError, DataError

HEAD = 512  # bytes of a file in which its writer's mark is looked for


@contextmanager
def replacing(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """A draft beside `path`, to write within; at the end it takes the place of `path`, or, after an error, is removed.

    Who may be one of several writers gives a draft of its own.
    """
    draft = draft or path.with_name(f"{path.name}.partial")
    draft.unlink(missing_ok=True)  # of a run that was killed
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut may leave the name without the content
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def write_whole(path: Path, text: str) -> None:
    """Put the text into the file in UTF-8, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file, as `sha256sum` prints it. OSError when it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_of(name: str, value: object) -> Path:
    """The path that a caller gives as the argument `name`; ConfigError for what is none."""
    if isinstance(value, str | os.PathLike) and str(value):
        return Path(value)
    raise ConfigError(f"{name} is {value!r:.80}; expected a path, as text or as a Path")


def check_folder(name: str, path: Path) -> None:
    """ConfigError where `path`, the argument `name` of a function, is no folder and cannot become one."""
    nearest = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    if nearest.is_dir() or not os.path.lexists(nearest):
        return
    if nearest == path:
        raise ConfigError(f"{name} is {path}, which is no folder; give the path of a folder, a new one or one to go on in")
    raise ConfigError(f"{name} is {path}, but {nearest} is no folder; give a path inside folders")


@contextmanager
def kept_or_temporary(cache: str | Path | None) -> Iterator[Path]:
    """The folder asked for, made where there is none; without one a folder that is gone afterwards."""
    if cache is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made a folder: {error.strerror}; give another --cache") from None
    yield folder


def check_replaceable(path: Path, mark: bytes) -> None:
    """DataError where a file stands at `path` whose beginning lacks `mark`: another file of that name is nobody's to lose."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the name of a file")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give another name") from None
    if head and mark not in head:
        raise DataError(f"{path} exists and was not written by this command; give another name, or remove it first")
