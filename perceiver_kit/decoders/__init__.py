"""Queries × latents → rows."""

from .cross_attention import Decoder
from .mean_pool import MeanPool
from .pass_through import PassThrough

__all__ = ["Decoder", "MeanPool", "PassThrough"]
