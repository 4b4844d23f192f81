"""A model drawn stage by stage, as SVG."""

from .drawing import Drawing, draw, shapes

__all__ = ["Drawing", "draw", "shapes"]
