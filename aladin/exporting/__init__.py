"""A trained model to the two graphs that search runs, and back; a released checkpoint to a model folder."""

from aladin.exporting.export import Exported
from aladin.exporting.hub_correction import Correction, correct_hubs

__all__ = ["Correction", "Exported", "correct_hubs"]
