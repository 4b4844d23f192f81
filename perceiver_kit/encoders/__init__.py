"""Rows → latents."""

from .cache import Cache
from .causal import CausalEncoder
from .hierarchical import HierarchicalEncoder
from .latent import Encoder
from .resampler import Resampler

__all__ = ["Cache", "CausalEncoder", "Encoder", "HierarchicalEncoder", "Resampler"]
