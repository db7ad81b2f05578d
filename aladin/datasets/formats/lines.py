"""JSON Lines: one object a line, which is an image with its `captions` or a pair of an image and one caption."""

from collections.abc import Iterable
from pathlib import Path

from aladin.datasets.rows import Gathering, first_of, json_object

IMAGE_KEYS = ("image", "file", "filepath", "image_path", "filename")
CAPTION_KEYS = ("caption", "text", "title")


def read_lines(lines: Iterable[bytes], name: str, gathering: Gathering) -> None:
    """Adds every line; `name` is the file's, for errors. Empty lines are passed over."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with gathering.row(f"{name}, line {number}"):
                record = json_object(line)
                image, split = first_of(record, IMAGE_KEYS), record.get("split")
                found = first_of(record, ("captions", *CAPTION_KEYS))
                if "captions" in record:
                    gathering.add_image(image, found, split)
                else:
                    gathering.add_pair(image, found, split)


def read_file(path: Path, gathering: Gathering) -> None:
    """Adds every line of the file."""
    with path.open("rb") as lines:
        read_lines(lines, str(path), gathering)


READERS = {".jsonl": read_file}
