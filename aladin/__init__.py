"""Image-text matching and retrieval by fine-grained alignment, distilled into one vector for fast search (ALADIN)."""

__version__ = "0.1.0"
