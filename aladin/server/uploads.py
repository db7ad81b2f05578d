"""Pictures that clients sent to search with: re-encoded, in memory only, and forgotten after a while."""

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from aladin.server.problems import Problem
from aladin.server.rendering import Picture
from aladin.server.settings import Limits

PATTERN = "^[A-Za-z0-9_-]{22}$"


@dataclass(frozen=True)
class Upload:
    """One picture and until when it is kept."""

    picture: Picture
    until: float  # by the monotonic clock


class Uploads:
    """The last pictures sent, up to a number of bytes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def keep(self, picture: Picture) -> str:
        """An id that nobody guesses, under which the picture is found again."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[name] = Upload(picture, time.monotonic() + self._limits.upload_seconds)
            self._bytes += len(picture.jpeg)
            while len(self._kept) > 1 and (self._bytes > self._limits.upload_store_bytes or self._oldest_is_over()):
                self._bytes -= len(self._kept.popitem(last=False)[1].picture.jpeg)
        return name

    def get(self, name: str) -> Picture:
        with self._lock:
            upload = self._kept.get(name)
        if upload is None or upload.until < time.monotonic():
            raise Problem(404, "there is no such upload, or no longer; send the image again")
        return upload.picture

    def _oldest_is_over(self) -> bool:
        return next(iter(self._kept.values())).until < time.monotonic()


class PictureCache:
    """The pictures made last, up to a number of bytes; a key begins with the stored id."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.picture_cache_bytes
        self._kept: OrderedDict[tuple[object, ...], Picture] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> Picture | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[object, ...], picture: Picture) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = picture
                self._bytes += len(picture.jpeg)
            while self._bytes > self._most:
                self._bytes -= len(self._kept.popitem(last=False)[1].jpeg)

    def forget(self, image_id: int) -> None:
        """Drop all pictures of an image."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == image_id]:
                self._bytes -= len(self._kept.pop(key).jpeg)
