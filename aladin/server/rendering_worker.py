"""What runs inside a process that makes pictures: untrusted bytes in, a re-encoded JPEG without a word of metadata out."""

import io
import os
import resource
import struct
import sys
import warnings
from contextlib import suppress
from typing import BinaryIO

from PIL import Image

from aladin.errors import DataError
from aladin.pictures.opening import DECODER_FAILURES, open_with_size

REQUEST = struct.Struct(">IHBI")  # bytes, longest side in px, JPEG quality, which of the file's pictures
ANSWER = struct.Struct(">BIHHHH")  # whether it is a picture, bytes, its width and height, those of the original
MAX_SIDE = 65_535


def rendered(data: bytes, side: int, quality: int, frame: int) -> tuple[bytes, tuple[int, int], tuple[int, int]]:
    """One picture of a file upright, no side longer than `side`, as JPEG; its size, and the size that it had."""
    image, before = open_with_size(data, name="it", draft_size=side // 2, frame=frame)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    clean = Image.frombytes("RGB", image.size, image.tobytes())  # pixels alone: no EXIF, profile or comment comes along
    output = io.BytesIO()
    clean.save(output, "JPEG", quality=quality, optimize=True, progressive=side > 800, subsampling=0 if quality > 90 else -1)
    return output.getvalue(), clean.size, before


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while header := requests.read(REQUEST.size):
        length, *wanted = REQUEST.unpack(header)
        data = requests.read(length)
        size, before = (0, 0), (0, 0)
        try:
            payload, size, before = rendered(data, *wanted)
            good = max(before) <= MAX_SIDE
            payload = payload if good else b"has a side of more than 65,535 px"
        except DataError as error:
            good, payload = False, str(error).removeprefix("it ").rsplit("; ", 1)[0].encode("utf-8", "replace")
        except DECODER_FAILURES as error:
            good, payload = False, f"cannot be decoded ({type(error).__name__})".encode()
        sizes = (*size, *before) if good else (0, 0, 0, 0)
        answers.write(ANSWER.pack(good, len(payload), *sizes) + payload)
        answers.flush()


def main() -> None:
    """Serve on stdin and stdout within limits that the operating system keeps."""
    warnings.simplefilter("ignore")
    memory = int(sys.argv[1])
    kinds = {resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 64}
    for kind, most in kinds.items():
        with suppress(ValueError, OSError):  # a system that does not know this limit
            resource.setrlimit(kind, (most, most))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints does not disturb the answers
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)
