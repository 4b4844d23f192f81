"""Raw modality → Tokens."""

from .audio import AudioPatches
from .base import Input
from .image import Patches
from .rows import Features, OneHot
from .several import Inputs

__all__ = ["AudioPatches", "Features", "Input", "Inputs", "OneHot", "Patches"]
