"""Files that nobody vouches for, as listings, pixels, frames and boxes; they are decoded in processes of their own."""

from aladin.pictures.boxes import Box
from aladin.pictures.listing import FileState, list_images

__all__ = ["Box", "FileState", "list_images"]
