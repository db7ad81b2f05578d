"""Which candidates are relevant to a query, and how much, beyond an image's own captions; and the measures that use it."""

from aladin.measures.relevance.sources import Judge, Relevances, RelevanceSets

__all__ = ["Judge", "RelevanceSets", "Relevances"]
