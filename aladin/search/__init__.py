"""A query's best images: the nearest vectors, put in order by alignment, with the reasons."""

from aladin.search.query import Query
from aladin.search.search import Hit, SearchConfig, Searcher

__all__ = ["Hit", "Query", "SearchConfig", "Searcher"]
