"""Raw modality → Tokens."""

from .audio import AudioPatches, LogMel
from .base import Input
from .convolutions import Conv1x1, ConvStem
from .image import Patches, Pixels
from .neighbourhoods import Neighbourhoods
from .points import Points
from .rows import Features, OneHot
from .several import Inputs
from .table import Table
from .text import TextTokens

__all__ = [
    "AudioPatches",
    "Conv1x1",
    "ConvStem",
    "Features",
    "Input",
    "Inputs",
    "LogMel",
    "Neighbourhoods",
    "OneHot",
    "Patches",
    "Pixels",
    "Points",
    "Table",
    "TextTokens",
]
