"""What a family of encoders is to us: vectors, and the states beside them that become regions and words."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Read(NamedTuple):
    """What a tower made of a batch: each row's own vector, and a state for each patch or piece."""

    vectors: Float[Tensor, "rows dim"]
    states: Float[Tensor, "rows places hidden"]


class Probability(NamedTuple):
    """How an encoder makes its own probability of scale * cosine + bias: by a sigmoid, or else by a softmax among many."""

    scale: float
    bias: float = 0.0
    sigmoid: bool = False


class Towers(nn.Module, ABC):
    """A transformers dual encoder, read in the one way that search needs. A subclass is a family."""

    family: ClassVar[str]  # as model.toml names it
    class_name: ClassVar[str]  # of transformers
    lower_case: ClassVar[bool] = False  # it was trained on such texts only
    pictures: ClassVar[Mapping[str, Any]]  # its image processor's settings where the file does not state them
    absent: ClassVar[tuple[str, ...]] = ()  # weights that its published checkpoints lack

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def read_images(self, pixels: Float[Tensor, "images 3 size size"]) -> Read:
        """Vectors of normalised pixels, and the patches' states as the pooling sees them, in reading order."""

    @abstractmethod
    def regions(self, cells: Float[Tensor, "images cells hidden"]) -> Float[Tensor, "images cells dim"]:
        """The vector that the encoder's own pooling gives when it sees only that cell."""

    @abstractmethod
    def read_texts(self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]) -> Read:
        """Vectors of texts, and for each piece the vector that it would give were it the one that is pooled."""

    def features(self, pieces: Int[Tensor, "texts pieces"], mask: Bool[Tensor, "texts pieces"]) -> Float[Tensor, "texts dim"]:
        """What transformers itself gives for texts, by which `read_texts` is checked."""
        vectors: Tensor = self.model.get_text_features(input_ids=pieces, attention_mask=mask.long()).pooler_output
        return vectors

    @property
    @abstractmethod
    def probability(self) -> Probability:
        """The encoder's own, as it was trained."""

    @property
    def positions(self) -> int:
        """How many pieces of a text it can read."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def pooled_piece(self) -> int | None:
        """The number of the piece by which it finds the state that it pools; None where it goes by position."""
        return None

    @property
    def padded_to(self) -> int:
        """How many pieces a text is padded to, for a family that was trained so; 0: it is read at its own length."""
        return 0

    @property
    def patches_a_side(self) -> int:
        """How many patches a picture has from left to right, and as many from top to bottom."""
        vision = self.model.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)
