"""How the images of a query are read from files."""

from pathlib import Path
from stat import S_ISREG

from aladin.errors import DataError
from aladin.pictures.frames import named_picture
from aladin.pictures.long_paths import is_there, read_file, status_of


def picture_at(name: Path) -> tuple[Path, int]:
    """The file that a path names and which of its pictures: of "film.gif[2]" that of number 2, unless a file is called so."""
    path, frame = named_picture(str(name))
    return (Path(path), frame) if frame and not is_there(name) else (name, 0)


def content_of_file(source: Path) -> bytes:
    """The content of an image file; DataError when it cannot be read."""
    try:
        if S_ISREG(status_of(source).st_mode):
            return read_file(source)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise DataError(f"{source} cannot be read ({error.strerror}); give another image") from None
    raise DataError(f"there is no image file {source}; give the path of one")
