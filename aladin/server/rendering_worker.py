"""What runs inside a process that makes pictures: untrusted bytes in, a re-encoded JPEG without a word of metadata out."""

import io
import sys
import warnings
from typing import Any

from PIL import Image

from aladin.errors import DataError
from aladin.pictures.opening import DECODER_FAILURES, open_with_size
from aladin.processes import Message, own_stdout, serve

MAX_SIDE = 65_535


def rendered(data: bytes, side: int, quality: int, frame: int) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """One picture of a file upright, no side longer than `side`, as JPEG; its size, and the size that it had."""
    image, before = open_with_size(data, name="it", draft_size=side // 2, frame=frame)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    clean = Image.frombytes("RGB", image.size, image.tobytes())  # pixels alone: no EXIF, profile or comment comes along
    output = io.BytesIO()
    clean.save(output, "JPEG", quality=quality, optimize=True, progressive=side > 800, subsampling=0 if quality > 90 else -1)
    return output.getvalue(), clean.size, before


def answer(wanted: dict[str, Any], data: bytes) -> Message:
    """The picture that is wanted of a file's bytes, with its sizes, or the reason for having none."""
    try:
        jpeg, size, before = rendered(data, **wanted)
    except DataError as error:
        return {"reason": str(error).removeprefix("it ").rsplit("; ", 1)[0]}, b""
    except DECODER_FAILURES as error:
        return {"reason": f"cannot be decoded ({type(error).__name__})"}, b""
    if max(before) > MAX_SIDE:
        return {"reason": "has a side of more than 65,535 px"}, b""
    return {"size": size, "original": before}, jpeg


def main() -> None:
    """Serve within the megabytes of memory that are given."""
    answers = own_stdout()
    warnings.simplefilter("ignore")
    serve(answer, answers, int(sys.argv[1]))
