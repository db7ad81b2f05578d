"""Image-text matching and retrieval by fine-grained alignment, distilled into one vector for fast search (ALADIN)."""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime reports its use to its makers unless this is set before it is loaded; what people search is their own.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# What most programs need, each loaded when it is first named: `import aladin` alone takes no time.
EXPORTS = {
    "Aladin": "aladin.api",
    "Collection": "aladin.api",
    "AladinError": "aladin.errors",
    "Box": "aladin.pictures.boxes",
    "Explanation": "aladin.search.explain",
    "Hit": "aladin.search.search",
    "ImagePart": "aladin.search.query",
    "IndexConfig": "aladin.collection.settings",
    "Query": "aladin.search.query",
    "Results": "aladin.search.search",
    "SearchConfig": "aladin.search.search",
    "EvaluationConfig": "aladin.evaluation.evaluate",
    "TextPart": "aladin.search.query",
    "add_global_head": "aladin.training.adding_global_head",
    "as_json": "aladin.search.search",
    "encode": "aladin.evaluation.vectors",
    "evaluate": "aladin.evaluation.evaluate",
    "score": "aladin.evaluation.vectors",
    "correct_hubs": "aladin.exporting.hub_correction",
    "export": "aladin.exporting.export",
    "calibrate": "aladin.training.calibrate",
    "compare_runs": "aladin.measures.run_comparison",
    "train": "aladin.training.train",
}

if TYPE_CHECKING:
    from aladin.api import Aladin as Aladin
    from aladin.api import Collection as Collection
    from aladin.collection.settings import IndexConfig as IndexConfig
    from aladin.errors import AladinError as AladinError
    from aladin.evaluation.evaluate import EvaluationConfig as EvaluationConfig
    from aladin.evaluation.evaluate import evaluate as evaluate
    from aladin.evaluation.vectors import encode as encode
    from aladin.evaluation.vectors import score as score
    from aladin.exporting.export import export as export
    from aladin.exporting.hub_correction import correct_hubs as correct_hubs
    from aladin.measures.run_comparison import compare_runs as compare_runs
    from aladin.pictures.boxes import Box as Box
    from aladin.search.explain import Explanation as Explanation
    from aladin.search.query import ImagePart as ImagePart
    from aladin.search.query import Query as Query
    from aladin.search.query import TextPart as TextPart
    from aladin.search.search import Hit as Hit
    from aladin.search.search import Results as Results
    from aladin.search.search import SearchConfig as SearchConfig
    from aladin.search.search import as_json as as_json
    from aladin.training.adding_global_head import add_global_head as add_global_head
    from aladin.training.calibrate import calibrate as calibrate
    from aladin.training.train import train as train


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'aladin' has no attribute {name!r}")
    return getattr(importlib.import_module(EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
