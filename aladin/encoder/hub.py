"""Encoders of the Hugging Face Hub, fetched into its own cache; only here does aladin use a network, and only when told to.

`huggingface_hub` minds HF_HOME, HF_HUB_OFFLINE and HF_TOKEN, and goes on with a download that was stopped.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aladin.encoder.cards import stated_licence
from aladin.errors import ConfigError, ModelError

PREFIX = "hf:"
CARD = ("README.md", "config.json")
# Settings and weights that are numbers alone; what could run, pickles and code, is never asked for.
FILES = (*CARD, "*.json", "model.safetensors", "model-*.safetensors", "LICENSE*", "NOTICE*")
LEFT_OUT = ("*/*",)  # other forms of the same weights stand in folders below
OPEN = frozenset(
    ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "cc0-1.0", "cc-by-4.0", "isc", "unlicense")
)


@dataclass(frozen=True)
class Fetched:
    """An encoder's folder as the Hub has it, at one revision."""

    folder: Path
    name: str
    revision: str  # the commit, whatever was asked for
    licence: str  # as its card states it; empty where it states none


def fetched(source: str, accepts: Callable[[str], bool]) -> Fetched:
    """The encoder that "hf:OWNER/NAME" names, or "hf:OWNER/NAME@REVISION"; a ModelError in a sentence where it cannot be had.

    `accepts` is asked about a licence that is not an open one, or is not stated (""), before the weights are fetched.
    """
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise ConfigError("the package huggingface_hub is not installed; run pip install 'aladin[hub]'") from None
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"{source!r} names no model of the Hub; expected {PREFIX}OWNER/NAME, with @REVISION if need be")
    with _in_a_sentence(name):
        about = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(CARD)))
    licence = stated_licence(about)
    if licence.lower() not in OPEN and not accepts(licence):
        raise ModelError(f"{name} was not fetched: its licence ({licence or 'none is stated'}) was not accepted")
    with _in_a_sentence(name):
        folder = snapshot_download(name, revision=about.name, allow_patterns=list(FILES), ignore_patterns=list(LEFT_OUT))
    return Fetched(Path(folder), name, about.name, licence)


@contextmanager
def _in_a_sentence(name: str) -> Iterator[None]:
    """What the Hub's library raises as one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(f"{name} is gated; accept its terms on its page and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise ModelError(f"the Hub has no model {name}, or not for you; correct the name, or set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise ModelError(f"{name} has no such revision; give a branch, a tag or a commit") from None
    except errors.LocalEntryNotFoundError:
        raise ModelError(
            f"{name} cannot be fetched: there is no way to the Hub, or HF_HUB_OFFLINE forbids it, and no copy is kept here; "
            "copy the folder by other means and give its path"
        ) from None
    except (errors.HfHubHTTPError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{name} cannot be fetched ({reason}); the same command goes on where it stopped") from None
