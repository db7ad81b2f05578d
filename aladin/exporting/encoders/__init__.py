"""Public image-text encoders as model folders: from a transformers folder to the graphs and settings that search reads.

Each family has a file of its own, which knows its states, its pooling and its padding; the rest is the same for all.
"""

from aladin.exporting.encoders.adding import Added, add
from aladin.exporting.encoders.families import FAMILIES

__all__ = ["FAMILIES", "Added", "add"]
