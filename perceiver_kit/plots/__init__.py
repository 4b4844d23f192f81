"""Plots of inputs, attention, latents and outputs, as matplotlib figures, which notebooks display.

Matplotlib is imported when the first plot is drawn.
"""

from .attention import attention_over_image, attention_over_waveform
from .forecasting import forecasts
from .motion import flow, flow_to_rgb, flow_wheel
from .objects import boxes, class_colours, segments
from .pictures import latents, reconstructions
from .scores import class_scores
from .series import curves, losses
from .text import attention_over_text

__all__ = [
    "attention_over_image",
    "attention_over_text",
    "attention_over_waveform",
    "boxes",
    "class_colours",
    "class_scores",
    "curves",
    "flow",
    "flow_to_rgb",
    "flow_wheel",
    "forecasts",
    "latents",
    "losses",
    "reconstructions",
    "segments",
]
