"""Raw modality → Tokens."""

from .audio import AudioPatches
from .base import Input
from .convolutions import Conv1x1, ConvStem
from .embedded import Embedded
from .image import Patches, Pixels
from .neighbourhoods import Neighbourhoods
from .rows import Features, OneHot
from .several import Inputs
from .text import TextTokens

__all__ = [
    "AudioPatches",
    "Conv1x1",
    "ConvStem",
    "Embedded",
    "Features",
    "Input",
    "Inputs",
    "Neighbourhoods",
    "OneHot",
    "Patches",
    "Pixels",
    "TextTokens",
]
