"""The seam below the heads: what any backbone is to the rest of the package.

A further backbone is three files: its own, with a subclass of `Backbone`; its settings in aladin/encoder/config.py; and
`new_backbone` in aladin/network/backbones.py, which chooses by them. Heads, training, export and search know none by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from aladin.datasets import Dataset
from aladin.encoder.config import ModelConfig
from aladin.encoder.word_pieces import WordPieces
from aladin.network.tensors import ImageInput, Tokens, each_tensor
from aladin.progress import SILENT, Progress


@runtime_checkable
class ImageSet(Protocol):
    """The images of a data set as a backbone reads them, in its order."""

    def __len__(self) -> int: ...

    @property
    def views(self) -> int:
        """How many looks at each image there are; the first is the whole image."""

    def read(self, rows: Int[np.ndarray, " images"], views: int | Int[np.ndarray, " images"] = 0) -> Any:
        """Some images by these views, as the backbone's `seen` takes them: a dataclass of tensors of the processor.

        It may take long, and several threads may ask at once.
        """


@runtime_checkable
class ImageReader(Protocol):
    """Reads the images of data sets as a backbone wants them, before the first step."""

    def read(self, dataset: Dataset, views: int, cache: Path, progress: Progress = SILENT) -> ImageSet:
        """The images of a data set; what is dear to compute is kept in `cache`, and not computed where it is there.

        DataError where they are photographs and a detector's regions are read, or the other way round.
        """

    def missing_bytes(self, dataset: Dataset, views: int, cache: Path) -> int:
        """How much longer `read` will make the files in `cache`."""


@dataclass(frozen=True)
class ParameterGroup:
    """Weights that learn at one pace, if the part of the model is trained that a recipe calls `part`."""

    part: Literal["backbone", "image_network"]
    pace: Literal["pretrained", "new", "image"]  # which learning rate of a recipe is theirs
    parameters: tuple[nn.Parameter, ...]
    below_top: int = 0  # layers above; each may slow the pace


class Backbone(nn.Module, ABC):
    """Captions and images to states of tokens, which the heads read: first the one that stands for all, then the others."""

    dim: int  # of one state
    depth: int  # states that stand side by side for each token, the last layer's at the end
    image_dim: int  # numbers of one region as it is read
    reads_photographs: bool  # or a detector's regions
    regions: int | None  # of every image; None where their number differs
    recomputes = False  # layers' activations in the backward pass, instead of keeping them
    never_learned: tuple[str, ...] = ()  # how names of weights begin that stay as their maker left them

    @abstractmethod
    def caption_states(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Tokens:
        """One state for each word piece, the first one [CLS]'s and the last real one [SEP]'s."""

    @abstractmethod
    def image_states(self, images: ImageInput) -> Tokens:
        """One state that stands for the image, then one for each region, in the order given."""

    @abstractmethod
    def joint_states(
        self, pieces: Int[Tensor, "pairs words"], mask: Bool[Tensor, "pairs words"], images: ImageInput
    ) -> Float[Tensor, "pairs dim"]:
        """One state for each caption that is read together with its image."""

    @abstractmethod
    def image_reader(self, tokenizer: Path) -> ImageReader:
        """Who reads data sets' images for it; names of objects are spelt by `tokenizer`, a tokenizer.json."""

    @abstractmethod
    def seen(self, read: Any, keep: Int[Tensor, "images kept"] | None = None) -> ImageInput:
        """Images that a set has read, on the backbone's device; with `keep` only those regions of each, by number."""

    def batch(
        self, images: ImageSet, rows: Int[np.ndarray, " images"], views: int | Int[np.ndarray, " images"] = 0
    ) -> ImageInput:
        """Some images of a set by these views, on the backbone's device."""
        return self.seen(each_tensor(images.read(rows, views), lambda tensor: tensor.to(self.device)))

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @abstractmethod
    def look(self, pixels: UInt8[Tensor, "images height width 3"]) -> ImageInput:
        """Photographs as `image_states` reads them; only of a backbone that reads photographs."""

    @abstractmethod
    def start(self, tokenizer: WordPieces, pretrained: bool, minilm: Path | None = None) -> None:
        """Fill every weight for a run from scratch: pre-trained where there is something, else at random."""

    @abstractmethod
    def restart_never_learned(self) -> None:
        """Fill what never learns as its maker left it."""

    @abstractmethod
    def fresh(self, config: ModelConfig) -> "Backbone":
        """One of its kind for these settings, its weights at random; what never learns is copied."""

    @abstractmethod
    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """What can learn, in the order in which an optimizer lists it."""

    @abstractmethod
    def normalised_readers(self) -> Mapping[nn.Module, Sequence[nn.Linear]]:
        """The modules that read normalised states, each with its matrices that multiply them (for int8)."""

    @abstractmethod
    def known_captions(self, tokenizer: WordPieces) -> tuple[Int[Tensor, "captions words"], Bool[Tensor, "captions words"]]:
        """Word pieces that the backbone has of itself, or spells by its tokenizer, to measure how large its states get."""
