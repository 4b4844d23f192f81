"""Queries × latents → rows."""

from .cross_attention import Decoder
from .mean_pool import MeanPool

__all__ = ["Decoder", "MeanPool"]
