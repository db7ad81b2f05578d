"""weights.json of an exported folder: which stored weight is which of the model's.

Graphs keep most weights under names of their own: matrices turned and without a name, one copy of what is equal. So the file
says for each of the model's weights where it stands. Search does not read it; who wants to train on does (restoring.py).
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.numpy_helper import to_array

from aladin.errors import ModelError
from aladin.exporting.smoothing import channel_factors
from aladin.network.model import Aladin
from aladin.network.variants import as_trained
from aladin.old_names import renamed_weight

FILE = "weights.json"


@dataclass(frozen=True)
class StoredWeight:
    """Where a weight stands, and what was done to it before."""

    graph: str  # name of its file
    initializer: str  # its name there, before it was made small
    transposed: bool = False  # in x out, where the model has out x in
    times: str = ""  # initializer that its columns are to be multiplied by, where channels were evened out (smoothing.py)


def stored_weights(model: Aladin, graphs: Mapping[str, onnx.ModelProto]) -> dict[str, StoredWeight]:
    """Where each weight that `model` learned by training stands in its graphs; those that no graph has are left out."""
    weights, factors = dict(as_trained(model).named_parameters()), channel_factors(model)
    found = {}
    for file, graph in graphs.items():
        names = {_key(to_array(tensor)): tensor.name for tensor in graph.graph.initializer}
        for name, weight in weights.items():
            if name.startswith(model.never_learned):
                continue
            array, factor = weight.detach().numpy(), factors.get(name)
            times = "" if factor is None else names.get(_key(factor.numpy()), "")
            for transposed in (False, True) if array.ndim == 2 else (False,):
                initializer = names.get(_key(array.T if transposed else array))
                if initializer is not None and (factor is None or times):
                    found[name] = StoredWeight(file, initializer, transposed, times)
    return found


def write_names(weights: Mapping[str, StoredWeight], folder: Path) -> None:
    """Write weights.json."""
    table = {
        name: {key: value for key, value in dataclasses.asdict(weight).items() if value} for name, weight in weights.items()
    }
    (folder / FILE).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def read_names(folder: Path) -> dict[str, StoredWeight]:
    """What weights.json says, by the present names of weights; ModelError where it is missing or damaged."""
    path = folder / FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} has no {FILE}, so nobody knows which of its weights is which; export the model again, or give the "
            "folder that it was exported from"
        )
    try:
        table: dict[str, Any] = json.loads(path.read_bytes())
        return {renamed_weight(name): StoredWeight(**weight) for name, weight in table.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy the model folder again") from None


def _key(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
