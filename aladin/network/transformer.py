"""A transformer: one BERT-type network, run over a caption alone or over tags and regions alone (spec, section 1).

Module names follow BERT's, so that released weights (MiniLM, VinVL) load by name.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aladin.encoder.config import BackboneConfig
from aladin.network.tensors import Regions, Tokens

WORTH_PACKING = 0.9  # the share of real tokens from which on padding costs less than packing


class Transformer(nn.Module):
    """Word pieces, or tag pieces and region features, to contextual token states of `config.dim`.

    With `deep` a token's states after the embedding and after every layer stand side by side, the last ones at the end.
    """

    recomputes = False

    def __init__(self, config: BackboneConfig, deep: bool = False) -> None:
        super().__init__()
        self.dim, self.deep = config.dim, deep
        self.embeddings = WordEmbeddings(config)
        self.region_embedding = RegionEmbedding(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def encode_captions(self, pieces: Int[Tensor, "captions words"], mask: Bool[Tensor, "captions words"]) -> Tokens:
        """One state for each word piece, the first one [CLS]'s and the last real one [SEP]'s."""
        positions = torch.arange(pieces.shape[1], device=pieces.device).expand_as(pieces)
        return self._contextual(self.embeddings(pieces, positions, torch.zeros_like(pieces)), mask)

    def encode_images(
        self, tags: Int[Tensor, "images tags"], tag_mask: Bool[Tensor, "images tags"], regions: Regions
    ) -> Tokens:
        """One state for [CLS] (the first tag piece) and one for each region, in the order given.

        The states of the other tag pieces are dropped: tags act on the image
        through self-attention only (spec, section 1.5). Tag pieces may have gaps; positions count real pieces only.
        """
        positions = (tag_mask.cumsum(dim=1) - 1).clamp(min=0)
        # Types as in OSCAR: 0 for the first token, 1 for the tags and their [SEP].
        types = torch.ones_like(tags)
        types[:, 0] = 0
        words = self.embeddings(tags, positions, types)
        states = torch.cat([words, self.region_embedding(regions.tokens.states).to(words.dtype)], dim=1)
        encoded = self._contextual(states, torch.cat([tag_mask, regions.mask], dim=1))
        kept = torch.cat([encoded.states[:, :1], encoded.states[:, tags.shape[1] :]], dim=1)
        return Tokens(kept, torch.cat([tag_mask[:, :1], regions.mask], dim=1))

    def encode_pairs(
        self,
        captions: Int[Tensor, "pairs words"],
        caption_mask: Bool[Tensor, "pairs words"],
        tags: Int[Tensor, "pairs tags"],
        tag_mask: Bool[Tensor, "pairs tags"],
        regions: Regions,
    ) -> Float[Tensor, "pairs dim"]:
        """One state for each caption read together with an image: that of [CLS] (jointly, as OSCAR and VinVL do it).

        The first tag piece, which stands for the image where it is read alone, is left out. Positions count real pieces of
        caption and tags.
        """
        pieces = torch.cat([captions, tags[:, 1:]], dim=1)
        mask = torch.cat([caption_mask, tag_mask[:, 1:]], dim=1)
        types = torch.cat([torch.zeros_like(captions), torch.ones_like(tags[:, 1:])], dim=1)
        words = self.embeddings(pieces, (mask.cumsum(dim=1) - 1).clamp(min=0), types)
        states = torch.cat([words, self.region_embedding(regions.tokens.states).to(words.dtype)], dim=1)
        first: Tensor = self._contextual(states, torch.cat([mask, regions.mask], dim=1)).states[:, 0]
        return first[:, -self.dim :] if self.deep else first

    def _contextual(self, states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]) -> Tokens:
        layout = Layout.of(states, mask)
        states = layout.real(states)
        every = [states]
        recomputes = self.recomputes and torch.is_grad_enabled()
        for layer in self.layers:
            states = checkpoint(layer, states, layout, use_reentrant=False) if recomputes else layer(states, layout)
            if self.deep:
                every.append(states)
        return Tokens(layout.padded(torch.cat(every, dim=-1) if self.deep else states), mask)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a padded batch are. Everything in a layer but attention reads one token at a time.

    With `cells`, the numbers of the real tokens' cells, only these are read there, as rows one after the other: on a processor
    time goes by tokens. Elsewhere padding is read too: a GPU would have to be waited for to know which cells are real.
    """

    bias: Float[Tensor, "batch 1 1 tokens"]  # what attention adds to its scores, so that nobody looks at padding
    cells: Int[Tensor, " real"] | None = None

    @classmethod
    def of(cls, states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]) -> "Layout":
        bias = Tokens(states, mask).padding_bias[:, None, None, :]
        cells = None
        if mask.device.type == "cpu" and not torch.compiler.is_compiling():  # an exported graph is a padded one
            real = mask.flatten().nonzero()[:, 0]
            cells = real if len(real) < WORTH_PACKING * mask.numel() else None
        return cls(bias, cells)

    def real(self, states: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "*rows dim"]:
        """Rows of the real tokens; or all as they are."""
        return states if self.cells is None else states.flatten(0, 1).index_select(0, self.cells)

    def padded(self, rows: Float[Tensor, "*rows dim"]) -> Float[Tensor, "batch tokens dim"]:
        """The way back, padding being 0."""
        if self.cells is None:
            return rows
        batch, tokens = self.bias.shape[0], self.bias.shape[3]
        every = rows.new_zeros(batch * tokens, rows.shape[-1]).index_copy(0, self.cells, rows)
        return every.view(batch, tokens, -1)


class WordEmbeddings(nn.Module):
    """Word piece + position + token type, normalised."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.dim)
        self.position_embeddings = nn.Embedding(config.positions, config.dim)
        self.token_type_embeddings = nn.Embedding(2, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, pieces: Int[Tensor, "batch words"], positions: Int[Tensor, "batch words"], types: Int[Tensor, "batch words"]
    ) -> Float[Tensor, "batch words dim"]:
        summed = self.word_embeddings(pieces) + self.position_embeddings(positions) + self.token_type_embeddings(types)
        normalised: Tensor = self.dropout(self.LayerNorm(summed))
        return normalised


class RegionEmbedding(nn.Module):
    """Region features with geometry to `dim`: linear, then LayerNorm; no position and no type (spec, section 1.4)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.region_features + config.region_geometry, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, config.layer_norm_eps) if config.region_layer_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, regions: Float[Tensor, "images regions features"]) -> Float[Tensor, "images regions dim"]:
        embedded: Tensor = self.dropout(self.LayerNorm(self.linear(regions)))
        return embedded


class EncoderLayer(nn.Module):
    """A post-norm BERT layer: self-attention, then a two-layer feed-forward with erf-GELU."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.dim, config.heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(config.dim, config.feed_forward)
        self.output = nn.Linear(config.feed_forward, config.dim)
        self.output_norm = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Float[Tensor, "*rows dim"], layout: Layout) -> Float[Tensor, "*rows dim"]:
        attended = self.attention_norm(states + self.dropout(self.attention(states, layout)))
        expanded = nn.functional.gelu(self.intermediate(attended))
        encoded: Tensor = self.output_norm(attended + self.dropout(self.output(expanded)))
        return encoded


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention, written out.

    On a CPU this is faster than the fused kernel in bf16, whose backward pass is slow. Dropout of attention weights costs more
    there than the rest of the layer, so own recipes have none.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.weights_dropout = nn.Dropout(dropout)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, states: Float[Tensor, "*rows dim"], layout: Layout) -> Float[Tensor, "*rows dim"]:
        batch, tokens, dim = layout.bias.shape[0], layout.bias.shape[3], states.shape[-1]
        size = dim // self.heads

        def split(projected: Tensor) -> Tensor:
            return layout.padded(projected).view(batch, tokens, self.heads, size).transpose(1, 2)

        query, key, value = split(self.query(states)), split(self.key(states)), split(self.value(states))
        weights = (query @ key.transpose(-1, -2) / math.sqrt(size) + layout.bias).softmax(dim=-1)
        mixed = (self.weights_dropout(weights).to(value.dtype) @ value).transpose(1, 2).reshape(batch, tokens, dim)
        output: Tensor = self.output(layout.real(mixed))
        return output


def initialise(module: nn.Module) -> None:
    """BERT's: normal with deviation 0.02 for every matrix, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
