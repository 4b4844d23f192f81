"""A composable Perceiver IO research kit: any inputs into a fixed array of latents, any outputs from it."""

from . import decoder, encoder, inputs, objectives, outputs, plots, positions, queries, recipes
from .attention import Attention, CrossAttend, SelfAttend
from .building import build, describe
from .capture import capture_attention, capture_hidden
from .data import ByteTokenizer, ImageProcessor
from .decoder import CrossAttention, MeanPool
from .draw import Drawing, draw
from .encoder import Encoder
from .errors import (
    AssemblyError,
    CheckpointError,
    InputError,
    MissingPackage,
    PerceiverKitError,
    TrainingError,
    UnknownName,
)
from .hub import load, save, to_huggingface
from .inputs import Inputs
from .model import PerceiverIO
from .outputs import Outputs
from .queries import Queries
from .registry import Block, register
from .registry import names as list  # noqa: A004
from .spec import spec
from .tiling import Tiled
from .tokens import Encoded, Layout, Tokens

__all__ = [
    "AssemblyError",
    "Attention",
    "Block",
    "ByteTokenizer",
    "CheckpointError",
    "CrossAttend",
    "CrossAttention",
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
    "SelfAttend",
    "Tiled",
    "Tokens",
    "TrainingError",
    "UnknownName",
    "build",
    "capture_attention",
    "capture_hidden",
    "decoder",
    "describe",
    "draw",
    "encoder",
    "inputs",
    "list",
    "load",
    "objectives",
    "outputs",
    "plots",
    "positions",
    "queries",
    "recipes",
    "register",
    "save",
    "spec",
    "to_huggingface",
]
