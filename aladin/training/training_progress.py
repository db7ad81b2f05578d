"""What a run tells whoever watches it."""

from typing import Protocol, runtime_checkable

from aladin.progress import Silent, Steps


@runtime_checkable
class TrainingProgress(Steps, Protocol):
    """Watches a run: its steps one after the other, and what each epoch came to."""

    def validated(self, epoch: int, measures: dict[str, float]) -> None:
        """The model was measured on the validation set; `epoch_seconds` is among the measures where an epoch is over."""

    def note(self, sentence: str) -> None:
        """Something worth a line, such as how much room on the disk features will take."""


class SilentTraining(Silent):
    """Watches a run and shows nothing."""

    def validated(self, epoch: int, measures: dict[str, float]) -> None: ...

    def note(self, sentence: str) -> None: ...


SILENT_TRAINING = SilentTraining()
