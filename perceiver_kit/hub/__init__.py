"""Models on disk: the kit's own directories, and Hugging Face's, both ways."""

from .checkpoint import save
from .huggingface import to_huggingface
from .loading import load
from .onnx import to_onnx
from .perceiver_pytorch import from_perceiver_pytorch
from .resamplers import gated_from_state, resampler_from_state
from .upload import push_to_hub

__all__ = [
    "from_perceiver_pytorch",
    "gated_from_state",
    "load",
    "push_to_hub",
    "resampler_from_state",
    "save",
    "to_huggingface",
    "to_onnx",
]
