"""The transformers library's BERT, against which our transformer is held."""

from typing import Any

from transformers import BertConfig

from aladin.encoder.config import BackboneConfig
from tests.tiny_official import Sizes


def bert_config(sizes: BackboneConfig | Sizes, layer_norm_eps: float = 1e-12, **others: Any) -> BertConfig:
    """The library's configuration of a transformer of these sizes."""
    return BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.dim,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        intermediate_size=sizes.feed_forward,
        max_position_embeddings=sizes.positions,
        layer_norm_eps=layer_norm_eps,
        **others,
    )
