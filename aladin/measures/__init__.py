"""How good rankings and probabilities are, by the protocols of papers, in numpy alone; and the reports of it."""

from aladin.measures.recalls import DIRECTIONS, RECALLS, Direction

__all__ = ["DIRECTIONS", "RECALLS", "Direction"]
