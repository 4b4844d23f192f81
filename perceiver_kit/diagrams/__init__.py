"""A model drawn stage by stage, as SVG."""

from .details import shapes
from .drawing import Drawing, draw

__all__ = ["Drawing", "draw", "shapes"]
