"""Rows → what was wanted."""

from .base import Output
from .linear import Classify, Pixels, Project, Rows, Waveform
from .several import Outputs

__all__ = ["Classify", "Output", "Outputs", "Pixels", "Project", "Rows", "Waveform"]
