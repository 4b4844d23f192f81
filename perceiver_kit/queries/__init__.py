"""Queries of the decoder."""

from .base import Query
from .from_inputs import ContentQuery, InputQuery, PooledQuery
from .from_latents import LatentQuery
from .places import CoordinateQuery, LearnedQuery, NoQuery, PositionQuery
from .several import Queries

__all__ = [
    "ContentQuery",
    "CoordinateQuery",
    "InputQuery",
    "LatentQuery",
    "LearnedQuery",
    "NoQuery",
    "PooledQuery",
    "PositionQuery",
    "Queries",
    "Query",
]
