"""Weights by their names: written and read whole, checked one by one, and known by a hash.

Nothing is ever unpickled here.
"""

import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aladin.errors import ModelError
from aladin.files import replacing, sha256_of
from aladin.old_names import renamed_weight


def save_weights(state: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, with the permissions that every new file has here."""
    with replacing(path) as draft:
        draft.touch()
        mode = stat.S_IMODE(draft.stat().st_mode)
        save_file(state, draft, metadata)  # puts a file in its place that only its owner may read
        draft.chmod(mode)


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
        return sha256_of(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}; copy the whole model folder, or train it again") from None


def listed(names: Collection[str]) -> str:
    """Up to three names, and how many more."""
    first = ", ".join(sorted(names)[:3]) or "nothing"
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
