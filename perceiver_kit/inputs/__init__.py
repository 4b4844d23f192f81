"""Raw modality → Tokens."""

from .audio import AudioPatches, LogMel
from .base import Input
from .convolutions import Conv1x1, ConvStem
from .embedded import Embedded
from .image import Patches, Pixels
from .matches import Matches
from .motion import MovingPatches
from .neighbourhoods import Neighbourhoods
from .past import PastTokens
from .points import Points
from .rows import Features, OneHot
from .several import Inputs
from .table import Table
from .text import TextTokens

__all__ = [
    "AudioPatches",
    "Conv1x1",
    "ConvStem",
    "Embedded",
    "Features",
    "Input",
    "Inputs",
    "LogMel",
    "Matches",
    "MovingPatches",
    "Neighbourhoods",
    "OneHot",
    "PastTokens",
    "Patches",
    "Pixels",
    "Points",
    "Table",
    "TextTokens",
]
