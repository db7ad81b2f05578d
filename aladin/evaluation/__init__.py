"""Images with captions encoded by a network, scored in every way that it knows, and ranked."""

from aladin.evaluation.encoding import EncodedData, encode_dataset

__all__ = ["EncodedData", "encode_dataset"]
