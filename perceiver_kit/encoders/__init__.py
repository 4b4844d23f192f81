"""Rows → latents."""

from .latent import Encoder

__all__ = ["Encoder"]
