"""A composable Perceiver IO research kit: any inputs into a fixed array of latents, any outputs from it."""

from . import decoders, encoders, inputs, objectives, outputs, plots, positions, queries, recipes, variants
from .attention import Attention, CrossAttentionLayer, SelfAttentionLayer
from .block import Block
from .capture import capture_attention, capture_hidden
from .checks import checks
from .data import ByteTokenizer, ImageProcessor, pad
from .decoders import Decoder, MeanPool
from .draw import Drawing, draw
from .encoders import Encoder
from .errors import (
    AssemblyError,
    CheckpointError,
    InputError,
    MissingPackage,
    PerceiverKitError,
    TrainingError,
    UnknownName,
)
from .hub import load, save, to_huggingface, to_onnx
from .inputs import Inputs
from .model import PerceiverIO
from .outputs import Outputs
from .queries import Queries
from .recipe import recipe
from .registry import names as list  # noqa: A004
from .registry import register
from .spec import build, describe, spec
from .tiling import Tiled
from .tokens import Encoded, Layout, Tokens

__all__ = [
    "AssemblyError",
    "Attention",
    "Block",
    "ByteTokenizer",
    "CheckpointError",
    "CrossAttentionLayer",
    "Decoder",
    "Drawing",
    "Encoded",
    "Encoder",
    "ImageProcessor",
    "InputError",
    "Inputs",
    "Layout",
    "MeanPool",
    "MissingPackage",
    "Outputs",
    "PerceiverIO",
    "PerceiverKitError",
    "Queries",
    "SelfAttentionLayer",
    "Tiled",
    "Tokens",
    "TrainingError",
    "UnknownName",
    "build",
    "capture_attention",
    "capture_hidden",
    "checks",
    "decoders",
    "describe",
    "draw",
    "encoders",
    "inputs",
    "list",
    "load",
    "objectives",
    "outputs",
    "pad",
    "plots",
    "positions",
    "queries",
    "recipe",
    "recipes",
    "register",
    "save",
    "spec",
    "to_huggingface",
    "to_onnx",
    "variants",
]
