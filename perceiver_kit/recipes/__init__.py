"""Published models as functions, each registered with its presets and the source of every number."""

from .multimodal import multimodal_autoencoding

__all__ = ["multimodal_autoencoding"]
