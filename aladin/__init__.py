"""Image-text matching and retrieval by fine-grained alignment, distilled into one vector for fast search (ALADIN)."""

import os

__version__ = "0.1.0"

# ONNX Runtime reports its use to its makers unless this is set before it is loaded; what people search is their own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
