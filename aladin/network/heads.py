"""The heads on the backbone's states: alignment tokens for precision, one vector for speed, and one for pairs read together."""

import copy

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from aladin.encoder.config import HeadsConfig
from aladin.network.tensors import Tokens


class AlignmentHead(nn.Module):
    """Token states to L2-normalised tokens of `token_dim`, special tokens removed (paper, alignment head).

    Without a projection (`token_dim` equal to the backbone's) it has no parameters, as in the paper. The projection is one
    matrix for both modalities.
    """

    def __init__(self, config: HeadsConfig, dim: int) -> None:
        super().__init__()
        self.projection = nn.Identity() if config.token_dim == dim else nn.Linear(dim, config.token_dim, bias=False)

    def words(self, encoded: Tokens) -> Tokens:
        """The word pieces of a caption: without [CLS] at the start and [SEP] after the last piece."""
        inner = encoded.mask[:, 1:] & nn.functional.pad(encoded.mask[:, 2:], (0, 1))
        return self._tokens(encoded.states[:, 1:], inner)

    def regions(self, encoded: Tokens) -> Tokens:
        """The regions of an image: without [CLS] at the start."""
        return self._tokens(encoded.states[:, 1:], encoded.mask[:, 1:])

    def _tokens(self, states: Float[Tensor, "batch tokens dim"], mask: Tensor) -> Tokens:
        return Tokens(normalize(self.projection(states).float(), dim=-1), mask)


class MatchingHead(nn.Module):
    """Token states to one L2-normalised vector: a small transformer shared by both modalities, read at the first token."""

    def __init__(self, config: HeadsConfig, dim: int, equal_layers: bool = False) -> None:
        super().__init__()
        self.layers = head_layers(config, dim, config.matching_layers, equal_layers)

    def forward(self, encoded: Tokens) -> Float[Tensor, "batch dim"]:
        states = encoded.states
        bias = encoded.padding_bias
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=bias)
        return normalize(states[:, 0].float(), dim=-1)


def head_layers(config: HeadsConfig, dim: int, count: int, equal: bool = False, feed_forward: int = 0) -> nn.ModuleList:
    """Layers of a transformer of the matching head's sizes, but for `feed_forward`; `equal` ones start alike."""

    def fresh() -> nn.TransformerEncoderLayer:
        sizes = dim, config.matching_heads, feed_forward or config.matching_feed_forward
        return nn.TransformerEncoderLayer(*sizes, dropout=config.matching_dropout, batch_first=True)

    if equal:
        first = fresh()
        return nn.ModuleList(copy.deepcopy(first) for _ in range(count))
    return nn.ModuleList(fresh() for _ in range(count))


class CrossEncoderHead(nn.Module):
    """The state of [CLS] of a caption and an image read together to how likely they match, as log odds (OSCAR, VinVL)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(dim, dim)
        self.classifier = nn.Linear(dim, 2)

    def forward(self, first: Float[Tensor, "pairs dim"]) -> Float[Tensor, " pairs"]:
        logits = self.classifier(self.pooler(first).tanh()).float()
        odds: Tensor = logits[:, 1] - logits[:, 0]
        return odds
