"""Rows → latents."""

from .hierarchical import HierarchicalEncoder
from .latent import Encoder
from .resampler import Resampler

__all__ = ["Encoder", "HierarchicalEncoder", "Resampler"]
