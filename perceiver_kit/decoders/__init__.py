"""Queries × latents → rows."""

from .cross_attention import Decoder
from .mean_pool import MeanPool
from .pass_through import PassThrough
from .set import SetDecoder

__all__ = ["Decoder", "MeanPool", "PassThrough", "SetDecoder"]
