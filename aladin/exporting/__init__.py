"""A trained model to the two graphs that search runs, and back; a released checkpoint to a model folder."""

from aladin.exporting.export import export_model

__all__ = ["export_model"]
