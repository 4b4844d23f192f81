"""Models on disk: the kit's own directories, and Hugging Face's, both ways."""

from .checkpoint import save
from .huggingface import to_huggingface
from .loading import load
from .onnx import to_onnx

__all__ = ["load", "save", "to_huggingface", "to_onnx"]
