"""Decoded rows → outputs in their own form."""

from .base import Output
from .flow import Flow
from .linear import Boxes, Choose, Classify, Project, Quantiles, Rows, ToPatches, ToPixels, ToWaveform
from .several import Outputs
from .text import TiedText

__all__ = [
    "Boxes",
    "Choose",
    "Classify",
    "Flow",
    "Output",
    "Outputs",
    "Project",
    "Quantiles",
    "Rows",
    "TiedText",
    "ToPatches",
    "ToPixels",
    "ToWaveform",
]
