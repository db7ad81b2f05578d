"""A model folder as search needs it: sentences and pixels to vectors and tokens, without PyTorch."""

from aladin.encoder.encoder import Encoder
from aladin.encoder.folder import ModelFolder, shipped_model

__all__ = ["Encoder", "ModelFolder", "shipped_model"]
