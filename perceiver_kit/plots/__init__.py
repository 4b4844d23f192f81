"""Pictures of what a model reads, holds and gives, as matplotlib's ``Figure``, which shows itself in a notebook.

Matplotlib is imported when one is drawn.
"""

from .attention import attention_over_image, attention_over_text, attention_over_waveform
from .motion import flow, flow_to_rgb, flow_wheel
from .pictures import latents, reconstructions
from .series import curves, losses

__all__ = [
    "attention_over_image",
    "attention_over_text",
    "attention_over_waveform",
    "curves",
    "flow",
    "flow_to_rgb",
    "flow_wheel",
    "latents",
    "losses",
    "reconstructions",
]
