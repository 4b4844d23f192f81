"""Queries × latents → rows."""

from .cross_attention import Decoder
from .mean_pool import MeanPool
from .set import SetDecoder

__all__ = ["Decoder", "MeanPool", "SetDecoder"]
