"""Pictures for clients, made by processes of their own: what a hostile file breaks is one process, never the server."""

from dataclasses import dataclass

from aladin.errors import DataError
from aladin.processes import Child, ChildFailure, Children, Limits
from aladin.server.settings import Limits as ServerLimits

PICTURES_PER_PROCESS = 2000  # then a fresh one takes over, so that no library's leak grows
WORKER = "from aladin.server.rendering_worker import main; main()"


@dataclass(frozen=True)
class Picture:
    """A re-encoded picture and its size, with the size of what it was made from."""

    jpeg: bytes
    width: int  # px
    height: int
    original_width: int
    original_height: int


class Renderer:
    """Processes that decode and encode, each served by one of `threads`."""

    def __init__(self, limits: ServerLimits) -> None:
        each = Limits(limits.decode_seconds, limits.decode_memory_mb, PICTURES_PER_PROCESS)
        self._children = Children(lambda: Child(WORKER, each, [str(each.memory_mb)]), limits.renderings, "render")
        self.threads = self._children.threads

    def render(self, data: bytes, side: int, quality: int, frame: int = 0) -> Picture:
        """The picture that the bytes contain, or of several that one; call it in `threads`. DataError when there is none."""
        try:
            facts, jpeg = self._children.own().ask({"side": side, "quality": quality, "frame": frame}, data)
        except ChildFailure:
            raise DataError("the image crashes its decoder, or takes longer than it may; give another") from None
        if "reason" in facts:
            raise DataError(f"the image {facts['reason']}; give another")
        return Picture(jpeg, *facts["size"], *facts["original"])

    def close(self) -> None:
        self._children.kill()
