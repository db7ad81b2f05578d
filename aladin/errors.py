"""Every failure that a user can mend, by whose matter it is.

The terminal prints the one sentence and exits with `exit_code`; anything else that reaches the user is our bug.
"""

import platform


class AladinError(Exception):
    """Base of all: `str(error)` says what was found, what was expected and what to do."""

    exit_code = 1


class DataError(AladinError):
    """A file of the user's: missing, unreadable or malformed."""


class ConfigError(AladinError):
    """A setting: unknown, of the wrong kind or out of range."""


class ModelError(AladinError):
    """A model folder or checkpoint: incomplete, damaged or of another architecture."""


class TrainingError(AladinError):
    """A training run that cannot go on, such as one whose loss is not a number."""


class MemoryFull(AladinError):
    """Memory of the machine or of its GPU that does not suffice."""


class Regression(AladinError):
    """A model that is significantly worse than the baseline of a gate."""


class CollectionLocked(AladinError):
    """Another process is writing the collection."""

    exit_code = 5


class IndexMismatch(AladinError):
    """A collection and a model that do not belong together."""

    exit_code = 6


def only_on_linux(what: str) -> ConfigError:
    """That the system lacks what aladin needs."""
    return ConfigError(f"{what} does not work on {platform.system() or 'this system'}; use Linux, where aladin is tested")
