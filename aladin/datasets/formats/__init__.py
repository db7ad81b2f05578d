"""The formats of files with captions. Each module here reads some: its `READERS` say by which ending of a file's name."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path

from aladin.datasets.rows import Gathering

Reader = Callable[[Path, Gathering], None]  # adds every row of the file


@functools.cache
def readers() -> Mapping[str, Reader]:
    """The reader of each ending, such as ".csv", in the order of the modules."""
    found: dict[str, Reader] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= importlib.import_module(f"{__name__}.{module.name}").READERS
    return found
