"""The network that learns: one transformer over words, or over tags and regions, its heads, and its weights on disk."""

from aladin.network.checkpoints import load_model, save_model
from aladin.network.model import Aladin

__all__ = ["Aladin", "load_model", "save_model"]
