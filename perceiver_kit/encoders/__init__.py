"""Rows → latents."""

from .hierarchical import HierarchicalEncoder
from .latent import Encoder

__all__ = ["Encoder", "HierarchicalEncoder"]
