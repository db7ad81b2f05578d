"""Weights by their names: written and read whole, checked one by one, and known by a hash.

Nothing is ever unpickled here.
"""

import hashlib
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aladin.errors import ModelError
from aladin.old_names import renamed_weight


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, with the permissions that every new file has here."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch()
    mode = stat.S_IMODE(partial.stat().st_mode)
    save_file(state, partial, metadata)  # puts a file in its place that only its owner may read
    partial.chmod(mode)
    partial.replace(path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a safetensors file by their present names; ModelError if it cannot be read."""
    try:
        return {renamed_weight(name): weight for name, weight in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}; copy the whole model folder, or train it again") from None


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill every weight of `module`; ModelError names those that are missing, unknown or of another shape."""
    own = module.state_dict()
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    if missing or unknown:
        raise ModelError(
            f"{source} lacks {listed(missing)} and has unknown {listed(unknown)}; "
            "expected exactly the weights that the settings of the model describe"
        )
    other = sorted(name for name in own if own[name].shape != state[name].shape)
    if other:
        found, expected = (tuple(weights[other[0]].shape) for weights in (state, own))
        raise ModelError(
            f"{source} has {listed(other)} of another shape: {found} where {expected} was expected; "
            "check the sizes in the settings of the model"
        )
    module.load_state_dict(dict(state))


def weights_fingerprint(path: Path) -> str:
    """The SHA-256 of a file of weights, as `sha256sum` prints it; ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}; copy the whole model folder, or train it again") from None


def listed(names: Collection[str]) -> str:
    """Up to three names, and how many more."""
    first = ", ".join(sorted(names)[:3]) or "nothing"
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
