"""The pictures of a file that holds several: which are taken, and what people call them."""

import re

CONSIDERED_FRAMES = 1000  # of an animation of ten thousand, those of its beginning


def picture_name(path: str, frame: int) -> str:
    """What people call it: the first by its file, the others as in ImageMagick, "cat.gif[2]", counted from 0."""
    return f"{path}[{frame}]" if frame else path


def named_picture(name: str) -> tuple[str, int]:
    """The path and number that `picture_name` was given."""
    found = re.fullmatch(r"(.+)\[([1-9][0-9]{0,8})\]", name, re.DOTALL)
    return (found[1], int(found[2])) if found else (name, 0)


def chosen_frames(count: int, most: int) -> list[int]:
    """Which of `count` pictures are taken: all, or `most` of them spread evenly; always the first."""
    count = min(count, CONSIDERED_FRAMES)
    return list(range(count)) if count <= most else [number * count // most for number in range(most)]
