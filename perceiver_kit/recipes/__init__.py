"""Published models as functions, each registered with its presets and the source of every number."""

from .flow import optical_flow
from .images import image_classification_conv, image_classification_fourier, image_classification_learned
from .multimodal import multimodal_autoencoding
from .text import masked_lm, sequence_classification

__all__ = [
    "image_classification_conv",
    "image_classification_fourier",
    "image_classification_learned",
    "masked_lm",
    "multimodal_autoencoding",
    "optical_flow",
    "sequence_classification",
]
