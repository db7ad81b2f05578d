"""What runs inside a decoding process: one file at a time, within limits that the operating system keeps.

A request names the file; an answer is its facts and its pixels. Nothing is written to disk, no network is used, and the process
ends when its parent does.
"""

import errno
import hashlib
import os
import stat
import sys
import warnings
from contextlib import suppress
from typing import Any

from PIL import Image, PngImagePlugin

from aladin.errors import DataError
from aladin.pictures.fitting import Fitting, fitted
from aladin.pictures.listing import sidecar_names
from aladin.pictures.long_paths import within_reach
from aladin.pictures.opening import (
    DECODER_FAILURES,
    FACT_KEYS,
    MAX_SIDECAR_BYTES,
    exif_facts,
    further_pictures,
    open_image,
    sidecar_facts,
    upright_size,
)  # fmt: skip
from aladin.processes import Message, own_stdout, serve

MAX_FILE_BYTES = 1 << 29  # larger files are failed unread, since the whole file is held while it is decoded
# A JPEG is decoded at a fraction of its size, so its header may state far more than may be decoded.
MAX_HEADER_PIXELS = 500_000_000  # Pillow refuses twice that
MAX_TEXT_BYTES = 16 << 20  # of the comments of one PNG, unpacked
TOO_LARGE = {"failure": "memory", "reason": "needs more memory than a decoder may have"}


def answer(request: dict[str, Any]) -> Message:
    """The facts of the file asked for and the pixels of its pictures, one after the other, or a reason for having none; never
    raises for what a file contains.
    """
    try:
        data = _read_bytes(request["path"], request["follow"])
        fitting = Fitting(**request["fitting"])
        pixels = [fitted(open_image(data, name="it", draft_size=fitting.draft_size), fitting).tobytes()]
        facts = _facts(request["path"], data) | {"further": []}
        if request["frames"] > 1:
            for number, picture in further_pictures(data, request["frames"]):
                facts["further"].append({"frame": number, "width": picture.width, "height": picture.height})
                pixels.append(fitted(picture, fitting).tobytes())
        return facts, b"".join(pixels)
    except FileNotFoundError:
        return {"failure": "vanished", "reason": "vanished while the folder was read"}, b""
    except MemoryError:
        return TOO_LARGE, b""
    except OSError as error:
        if error.errno == errno.EMFILE:  # some library leaks; a fresh process has none open
            return {"failure": "memory", "reason": "cannot be read (the decoder has too many files open)"}, b""
        return {"failure": "refused", "reason": f"cannot be read ({error.strerror or error})"}, b""
    except DataError as error:
        if isinstance(error.__context__, MemoryError):
            return TOO_LARGE, b""
        reason = str(error).removeprefix("it ").rsplit("; ", 1)[0]
        return {"failure": "refused" if "aladin[heic]" in str(error) else "content", "reason": reason}, b""
    except DECODER_FAILURES as error:
        return {"failure": "content", "reason": f"cannot be decoded ({type(error).__name__})"}, b""


def _facts(path: str, data: bytes) -> dict[str, Any]:
    width, height = upright_size(data)
    facts = _sidecar(path) | exif_facts(data)
    metadata = {key: facts.get(key) for key in FACT_KEYS}
    sha256 = hashlib.sha256(data).hexdigest()
    return {"sha256": sha256, "width": width, "height": height, "taken": facts.get("taken"), "metadata": metadata}


def _read_bytes(path: str, follow: bool) -> bytes:
    """The content of a regular file; what has become a pipe or a link since it was listed is refused without waiting."""
    with within_reach(path) as (name, folder):
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        descriptor = os.open(name, flags, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DataError("it is not a regular file; expected an image")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"it is larger than {MAX_FILE_BYTES >> 20} MB; expected an image")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(status.st_size + 1)  # no more: room for it is made at once
    finally:
        os.close(descriptor)
    if not data:
        raise DataError("it is empty; expected an image")
    return data


def _sidecar(path: str) -> dict[str, Any]:
    folder, _, name = path.rpartition("/")
    for sidecar in sidecar_names(name):
        with suppress(OSError, DataError):
            text = _read_bytes(f"{folder}/{sidecar}", follow=False)
            return sidecar_facts(text) if len(text) <= MAX_SIDECAR_BYTES else {}
    return {}


def main() -> None:
    """Serve within the megabytes of memory that are given."""
    answers = own_stdout()
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = MAX_HEADER_PIXELS
    PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES
    serve(lambda request, _: answer(request), answers, int(sys.argv[1]))
