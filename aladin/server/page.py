"""The page's files, read once from the package: nothing that a client sends becomes a path."""

import hashlib
from dataclasses import dataclass
from importlib import resources

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class PageFile:
    """One file, its media type, and a tag that changes with it."""

    content: bytes
    kind: str
    tag: str


class PageFiles:
    """All files of the page, by name."""

    def __init__(self) -> None:
        self._files: dict[str, PageFile] = {}
        for entry in resources.files("aladin.server").joinpath("static").iterdir():
            kind = KINDS.get("." + entry.name.rpartition(".")[2])
            if kind is not None:
                content = entry.read_bytes()
                self._files[entry.name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')

    def get(self, name: str) -> PageFile | None:
        return self._files.get(name)
