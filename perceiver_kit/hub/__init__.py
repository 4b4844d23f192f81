"""Models on disk: the kit's own directories, and Hugging Face's, both ways."""

from .checkpoint import save
from .huggingface import to_huggingface
from .loading import load
from .onnx import to_onnx
from .perceiver_pytorch import from_perceiver_pytorch
from .resamplers import gated_from_state, resampler_from_state

__all__ = [
    "from_perceiver_pytorch",
    "gated_from_state",
    "load",
    "resampler_from_state",
    "save",
    "to_huggingface",
    "to_onnx",
]
