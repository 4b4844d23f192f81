"""The public names: what ``kit.NAME`` finds."""

from . import decoders, encoders, inputs, objectives, outputs, plots, positions, processors, queries, recipes, variants
from .anchoring import anchor
from .assembly import assemble
from .attention import Attention
from .block import Block
from .bottleneck import LabelBottleneck
from .capture import capture_attention, capture_hidden
from .checking import checks
from .data import ByteTokenizer, ImageProcessor, pad
from .declarations import recipe
from .decoders import Decoder, MeanPool
from .diagnosis import Diagnosis, diagnose
from .diagrams import Drawing, draw
from .encoders import Encoder, HierarchicalEncoder, Resampler
from .errors import (
    AssemblyError,
    CheckpointError,
    InputError,
    MissingPackage,
    PerceiverKitError,
    TrainingError,
    UnknownName,
)
from .evaluation import evaluate
from .freezing import freeze, unfreeze
from .gated import GatedCrossAttention
from .generation import generate
from .hub import (
    from_perceiver_pytorch,
    gated_from_state,
    load,
    push_to_hub,
    resampler_from_state,
    save,
    to_huggingface,
    to_onnx,
)
from .inputs import Inputs
from .layers import CrossAttentionLayer, SelfAttentionLayer
from .model import PerceiverIO
from .outputs import Outputs
from .prediction import predict
from .processors import Answer, Processor
from .queries import Queries
from .registry import names as list  # noqa: A004
from .registry import register
from .specs import build, describe, spec
from .tiling import Tiled
from .tokens import Encoded, Layout, Tokens

__all__ = [
    "Answer",
    "AssemblyError",
    "Attention",
    "Block",
    "ByteTokenizer",
    "CheckpointError",
    "CrossAttentionLayer",
    "Decoder",
    "Diagnosis",
    "Drawing",
    "Encoded",
    "Encoder",
    "GatedCrossAttention",
    "HierarchicalEncoder",
    "ImageProcessor",
    "InputError",
    "Inputs",
    "LabelBottleneck",
    "Layout",
    "MeanPool",
    "MissingPackage",
    "Outputs",
    "PerceiverIO",
    "PerceiverKitError",
    "Processor",
    "Queries",
    "Resampler",
    "SelfAttentionLayer",
    "Tiled",
    "Tokens",
    "TrainingError",
    "UnknownName",
    "anchor",
    "assemble",
    "build",
    "capture_attention",
    "capture_hidden",
    "checks",
    "decoders",
    "describe",
    "diagnose",
    "draw",
    "encoders",
    "evaluate",
    "freeze",
    "from_perceiver_pytorch",
    "gated_from_state",
    "generate",
    "inputs",
    "list",
    "load",
    "objectives",
    "outputs",
    "pad",
    "plots",
    "positions",
    "predict",
    "processors",
    "push_to_hub",
    "queries",
    "recipe",
    "recipes",
    "register",
    "resampler_from_state",
    "save",
    "spec",
    "to_huggingface",
    "to_onnx",
    "unfreeze",
    "variants",
]
