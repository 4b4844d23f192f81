"""Raw modality → Tokens."""

from .audio import AudioPatches
from .base import Input
from .convolutions import Conv1x1, ConvStem
from .embedded import Embedded
from .image import Patches, Pixels
from .matches import Matches
from .neighbourhoods import Neighbourhoods
from .past import PastTokens
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
    "Matches",
    "Neighbourhoods",
    "OneHot",
    "PastTokens",
    "Patches",
    "Pixels",
    "TextTokens",
]
