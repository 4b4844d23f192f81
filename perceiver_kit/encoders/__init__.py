"""Rows → latents."""

from .causal import Cache, CausalEncoder
from .latent import Encoder

__all__ = ["Cache", "CausalEncoder", "Encoder"]
