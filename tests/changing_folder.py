"""A folder of small pictures that changes as people's do: new, changed, touched, renamed, deleted and returning files."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


class ChangingFolder:
    """The folder, and what it should hold: the pixels of each picture by path."""

    def __init__(self, root: Path, random: np.random.Generator, at_most: int = 40) -> None:
        self.root = root
        self._random = random
        self._at_most = at_most
        self._made = 0
        self._trash: list[bytes] = []
        root.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix() for path in self.root.rglob("*.png") if ".aladin" not in path.parts
        )

    def change(self) -> None:
        """A handful of changes."""
        for _ in range(int(self._random.integers(3, 9))):
            names = self.names()
            doing = self._random.choice(["make", "make", "paint_over", "touch", "rename", "delete", "return"])
            if doing == "make" or not names:
                self.make()
            elif doing == "return" and self._trash:
                self._write(f"returned {self._next()}.png", self._trash.pop())
            else:
                name = str(self._random.choice(names))
                getattr(self, str(doing) if doing != "return" else "touch")(name)
        for name in self.names()[self._at_most :]:
            self.delete(name)

    def make(self) -> str:
        name = f"{self._next() % 4}/{self._made}.png"
        self._write(name, self._picture())
        return name

    def paint_over(self, name: str) -> None:
        self._write(name, self._picture())

    def touch(self, name: str) -> None:
        os.utime(self.root / name, ns=(self._time(), self._time()))

    def rename(self, name: str) -> None:
        (self.root / name).rename(self.root / f"renamed {self._next()}.png")

    def delete(self, name: str) -> None:
        self._trash.append((self.root / name).read_bytes())
        (self.root / name).unlink()

    def _write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, ns=(self._time(), self._time()))

    def _picture(self) -> bytes:
        path = self.root / ".picture"
        pixels = self._random.integers(30, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "PNG")
        content = path.read_bytes()
        path.unlink()
        return content

    def _next(self) -> int:
        self._made += 1
        return self._made

    def _time(self) -> int:
        """A time that no file has had, since two changes may fall into one tick of the clock."""
        return 1_700_000_000_000_000_000 + 1_000_000 * self._next()
