"""Rows → what was wanted."""

from .base import Output
from .flow import Flow
from .linear import Classify, Pixels, Project, Rows, Waveform
from .several import Outputs
from .text import TiedText

__all__ = ["Classify", "Flow", "Output", "Outputs", "Pixels", "Project", "Rows", "TiedText", "Waveform"]
