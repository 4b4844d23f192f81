"""Queries of the decoder."""

from .base import Query
from .from_inputs import ContentQuery, InputQuery
from .from_latents import LatentQuery
from .places import LearnedQuery, NoQuery, PositionQuery
from .several import Queries

__all__ = ["ContentQuery", "InputQuery", "LatentQuery", "LearnedQuery", "NoQuery", "PositionQuery", "Queries", "Query"]
