"""Files that a person names for results: another file that already has that name is not theirs to lose."""

from pathlib import Path

from aladin.errors import DataError

HEAD = 512  # bytes of a file in which its writer's mark is looked for


def check_replaceable(path: Path, mark: bytes) -> None:
    """DataError where a file stands at `path` whose beginning lacks `mark`, so that something else wrote it."""
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
